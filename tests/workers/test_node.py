"""`streamer node`: a command as a job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.commands import DEADLINE_S, first_line, run, running, updates
from tests.servers import RedisServer


def _job(*program: str) -> list[str]:
    return ["--job", "job-1", "--", *program]


def test_a_command_that_succeeds_is_a_finished_job_with_its_duration(valkey: RedisServer, node: str) -> None:
    done = run("node", node, *_job("sh", "-c", "exit 0"), redis_url=valkey.url)
    assert done.returncode == 0, done.stderr
    states = updates(valkey.url, node, "job-1")
    assert [update.status for update in states] == ["job-starting", "job-running", "job-finished"]
    assert states[0].state["command"] == "sh -c 'exit 0'"
    assert states[-1].state["exit_code"] == 0
    assert states[-1].state["duration_ms"] >= 0


def test_a_failing_command_passes_its_exit_status_on(valkey: RedisServer, node: str) -> None:
    assert run("node", node, *_job("sh", "-c", "exit 7"), redis_url=valkey.url).returncode == 7
    last = updates(valkey.url, node)[-1]
    assert (last.status, last.state["exit_code"]) == ("job-failed", 7)


def test_a_command_that_does_not_exist_is_a_failed_job(valkey: RedisServer, node: str) -> None:
    done = run("node", node, *_job("no-such-command-here"), redis_url=valkey.url)
    assert done.returncode == 127
    assert "no-such-command-here" in done.stderr
    assert [update.status for update in updates(valkey.url, node)] == ["job-starting", "job-failed"]


def test_each_line_of_json_becomes_an_update_and_all_output_is_passed_on(valkey: RedisServer, node: str) -> None:
    lines = ['{"status": "step", "n": 1}', "plain text", '{"n": 2}', "[3]", '{"status": 4}', ""]
    program = f"import sys; sys.stdout.write({chr(10).join(lines)!r})"
    done = run("node", node, *_job(sys.executable, "-c", program), redis_url=valkey.url)
    assert done.stdout == "\n".join(lines)
    between = updates(valkey.url, node, "job-1")[2:-1]
    assert [(update.status, update.state) for update in between] == [
        ("step", {"n": 1, "job": "job-1"}),
        ("job-output", {"n": 2, "job": "job-1"}),
        ("job-output", {"value": [3], "job": "job-1"}),
        ("job-output", {"status": 4, "job": "job-1"}),
    ]


def test_all_of_a_long_output_arrives_though_it_is_read_slowly(valkey: RedisServer, node: str) -> None:
    program = "print('\\n'.join('{\"n\": %d}' % n for n in range(20000)))"
    done = run("node", "--retention-records", "30000", node, *_job(sys.executable, "-c", program), redis_url=valkey.url)
    assert done.returncode == 0
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == list(range(20000))
    assert [update.state["n"] for update in updates(valkey.url, node)[2:-1]] == list(range(20000))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_command_and_its_end_is_still_told(
    valkey: RedisServer, node: str, number: signal.Signals
) -> None:
    program = "import time; print('ready', flush=True); time.sleep(60)"
    arguments = [
        "node",
        node,
        *_job(sys.executable, "-c", f"import signal; signal.signal({int(number)}, signal.SIG_DFL); {program}"),
    ]
    with running(*arguments, redis_url=valkey.url, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert first_line(process) == "ready\n"
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 128 + number
    last = updates(valkey.url, node)[-1]
    assert (last.status, last.state["signal"]) == ("job-failed", number.name)


def test_a_command_may_handle_the_signal_and_end_as_it_likes(valkey: RedisServer, node: str) -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5));"
        "print('ready', flush=True); time.sleep(60)"
    )
    with running(
        "node", node, *_job(sys.executable, "-c", program), redis_url=valkey.url, stdout=subprocess.PIPE
    ) as process:
        first_line(process)
        process.terminate()
        assert process.wait(DEADLINE_S) == 5
    assert updates(valkey.url, node)[-1].state["exit_code"] == 5


def test_with_redis_down_the_command_runs_all_the_same_and_the_loss_is_told(node: str) -> None:
    done = run("node", "--exit-flush-s", "0.2", node, *_job("sh", "-c", "echo hello; exit 3"))
    assert done.returncode == 3
    assert done.stdout == "hello\n"
    assert "the last updates are lost" in done.stderr


def test_a_job_needs_a_name_that_can_be_one(node: str) -> None:
    done = run("node", node, "--job", "all", "--", "true")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: a job's name cannot be 'all'")
