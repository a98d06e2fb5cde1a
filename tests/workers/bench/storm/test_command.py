"""`streamer bench storm` as users run it: it finds what is wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.commands import DEADLINE_S, NO_REDIS, command, environment
from tests.servers import RedisServer, wait_until
from tests.workers.processes import children

SMALL = ("--nodes", "3", "--gateways", "2", "--clients", "12", "--fault-every-s", "0.5")
OTHERS = {"restarts_of_redis", "times_redis_frozen", "clients_of_redis_killed", "subscribers_of_redis_killed"}
"""What may be done to a Redis of its own only."""


def _storm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("bench", "storm", *SMALL, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
    )


@contextmanager
def _storming(directory: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A storm beside the test, whose files are in a directory."""
    storm = subprocess.Popen(
        command("bench", "storm", *SMALL, *arguments),
        env=environment(TMPDIR=directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with storm:
        try:
            yield storm
        finally:
            storm.terminate()


def _lists(client: redis.Redis) -> list[bytes]:
    return [key for key in client.scan_iter() if key.endswith(b":all")]


def test_a_redis_that_is_named_is_left_alone_and_as_it_was(own_valkey: RedisServer) -> None:
    done = _storm("--duration-s", "6", "--redis-url", own_valkey.url, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verified"]
    assert not OTHERS & result["figures"].keys()
    assert result["figures"]["node_processes_killed"] > 0
    assert result["figures"]["links_cut"] > 0
    assert result["figures"]["delivered"] > 0
    with own_valkey.client() as client:
        assert list(client.scan_iter()) == []


def test_a_seed_has_the_same_faults_again() -> None:
    told = [
        re.findall(r"^ +[\d.]+ s  .*$", _storm("--duration-s", "5", "--seed", "3").stderr, re.MULTILINE)
        for _ in range(2)
    ]
    assert len(told[0]) > 3
    assert told[0] == told[1]


def test_what_is_missing_fails_the_run_which_says_how_to_have_it_again(own_valkey: RedisServer) -> None:
    with tempfile.TemporaryDirectory() as name, own_valkey.client() as client:
        arguments = ["--duration-s", "4", "--redis-url", own_valkey.url, "--seed", "5", "--timeout-s", "3"]
        with _storming(name, *arguments) as storm:
            wait_until("a node has published", lambda: _lists(client) or storm.poll() is not None)
            client.lpop(_lists(client)[0])
            out, err = storm.communicate(timeout=4 * DEADLINE_S)
        assert storm.returncode == 1, err
        assert "NO" in out
        assert re.search(r"the log of node \d lacks 0 of process 0", err)
        assert "the same again: streamer bench storm --duration-s=4 " in err
        assert "--seed=5" in err
        kept = re.search(r"files of all processes: (\S+)", err)
        assert kept is not None
        assert {"gateway-1.log", "node-3.log", "ledgers"} <= {path.name for path in Path(kept[1]).iterdir()}
        shutil.rmtree(kept[1])
        assert list(Path(name).iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_no_file_and_no_key(own_valkey: RedisServer, number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory() as name, own_valkey.client() as client:
        with _storming(name, "--redis-url", own_valkey.url) as storm:
            wait_until("a node process is killed", lambda: _killed(storm))
            processes = children(storm.pid)
            storm.send_signal(number)
            out, err = storm.communicate(timeout=DEADLINE_S)
        assert storm.returncode == 130, err
        assert out == ""
        assert "Traceback" not in err
        assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
        assert list(Path(name).iterdir()) == []
        assert list(client.scan_iter()) == []


def _killed(storm: subprocess.Popen[str]) -> bool:
    assert storm.stderr is not None
    return re.search(r"node \d is killed", storm.stderr.readline()) is not None


def test_a_redis_that_does_not_answer_is_said_at_once() -> None:
    done = _storm("--redis-url", NO_REDIS)
    assert done.returncode == 1
    assert "Error: Redis at redis://127.0.0.1:1/0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nodes", "0"], "'--nodes'"),
        (["--rate", "0"], "'--rate'"),
        (["--seed", "-1"], "'--seed'"),
        (["--fault-every-s", "0"], "'--fault-every-s'"),
        (["--redis-url", "http://h"], "no URL of a Redis"),
    ],
)
def test_wrong_arguments_get_a_sentence(arguments: list[str], says: str) -> None:
    done = _storm(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
