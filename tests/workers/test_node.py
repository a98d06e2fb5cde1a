"""`streamer node`: a command as a job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import DEADLINE_S, first_line, run, running, updates
from tests.servers import RedisServer
from tests.workers.shells import run_in_shell


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
    starting, failed = updates(valkey.url, node)
    assert (starting.status, failed.status) == ("job-starting", "job-failed")
    assert failed.state["exit_code"] == 127
    assert failed.state["duration_ms"] >= 0


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
        "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]);"
        "print('ready', flush=True); signal.sigwait([signal.SIGTERM]); sys.exit(5)"
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
    assert "Redis did not take the last 3 updates within 0.2 s" in done.stderr
    assert done.stderr.endswith("streamer: 3 updates lost\n")
    assert done.stderr.count("refused") == 1


def test_a_job_needs_a_name_that_can_be_one(node: str) -> None:
    done = run("node", node, "--job", "all", "--", "true")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: a job's name cannot be 'all'")


@pytest.mark.parametrize("where", ["", ">/dev/full", ">&-", "| true", "2>&-", ">&- 2>/dev/full"])
def test_whatever_becomes_of_the_output_the_command_runs_on_and_its_updates_count(
    valkey: RedisServer, node: str, where: str
) -> None:
    program = (
        "import sys; out = sys.stdout.buffer;"
        """out.write(b'{"a": "\\xff"}\\n' + b'[' * 100_000 + b'\\n' + b'plain text\\n' * 100_000 + b'{"n": 1}\\n');"""
        "out.flush(); sys.exit(3)"
    )
    script = f'{{ "$@"; echo "status $?" >&3; }} {where}'
    done = run_in_shell(
        f"exec 3>&1; {script}", "node", node, *_job(sys.executable, "-c", program), redis_url=valkey.url
    )
    assert done.stdout.endswith(b"status 3\n")
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"No space left") == (where == ">/dev/full")
    states = updates(valkey.url, node)
    assert [update.status for update in states] == ["job-starting", "job-running", "job-output", "job-failed"]
    assert states[2].state["n"] == 1


def test_a_child_that_is_left_behind_is_not_waited_for(valkey: RedisServer, node: str) -> None:
    began = time.monotonic()
    program = "sleep 60 2>/dev/null & echo $!; echo last"
    done = run("node", node, *_job("sh", "-c", program), redis_url=valkey.url)
    child, last = done.stdout.split()
    os.kill(int(child), signal.SIGKILL)
    assert time.monotonic() - began < 10
    assert last == "last"
    assert updates(valkey.url, node)[-1].state["duration_ms"] < 1000


def test_a_child_that_prints_on_is_heard_for_a_moment_which_is_not_the_commands(valkey: RedisServer, node: str) -> None:
    child = "import time\nfor n in range(2000): print('x', flush=True); time.sleep(0.01)"
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    began = time.monotonic()
    done = run("node", node, *_job(sys.executable, "-c", program), redis_url=valkey.url)
    assert time.monotonic() - began < 10
    assert done.returncode == 0
    assert done.stdout.count("x\n") > 10
    assert updates(valkey.url, node)[-1].state["duration_ms"] < 900


def test_after_the_commands_end_a_signal_ends_the_waiting(valkey: RedisServer, node: str) -> None:
    # Nobody reads what the command prints, which is more than fits in between: its handing on cannot end.
    program = "import sys; sys.stdout.write('x' * 100_000); sys.stdout.close(); print('ended', file=sys.stderr)"
    with running(
        "node",
        node,
        *_job(sys.executable, "-c", program),
        redis_url=valkey.url,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ended\n"
        deadline = time.monotonic() + DEADLINE_S
        # A signal before the command is quite gone goes to the command.
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            process.terminate()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == ""
    assert updates(valkey.url, node)[-1].status == "job-finished"


def test_a_signal_without_a_name_is_told_by_its_number(valkey: RedisServer, node: str) -> None:
    number = signal.SIGRTMIN + 3
    done = run("node", node, *_job("sh", "-c", f"kill -{number} $$"), redis_url=valkey.url)
    assert done.returncode == 128 + number
    assert done.stderr == ""
    assert updates(valkey.url, node)[-1].state["signal"] == number


def test_arguments_that_are_no_text_are_shown_as_far_as_they_are(valkey: RedisServer, node: str) -> None:
    arguments = ["node", node, "--job", "job-1", "--", "true", b"a\xffb"]
    done = run_in_shell('exec "$@"', *arguments, redis_url=valkey.url)
    assert done.stderr == b""
    assert updates(valkey.url, node)[0].state["command"] == "true 'a\N{REPLACEMENT CHARACTER}b'"


def test_updates_that_are_lost_are_said_once_and_counted(node: str) -> None:
    program = "print('{\"n\": 1}\\n' * 50)"
    done = run("node", "--outbox-records", "10", "--exit-flush-s", "0", node, *_job(sys.executable, "-c", program))
    assert done.stdout.count("n") == 50
    lines = [line for line in done.stderr.splitlines() if "wait: Redis" not in line]
    assert lines == [
        "streamer: updates are being lost: 10 updates wait for Redis already",
        "streamer: Redis did not take the last 10 updates within 0 s",
        "streamer: 53 updates lost",
    ]


def test_lines_of_json_that_are_too_long_are_said_once(valkey: RedisServer, node: str) -> None:
    program = "line = '{\"a\": \"' + 'x' * 2_000_000 + '\"}'; print(line); print(line); print('x' * 2_000_000)"
    done = run("node", node, *_job(sys.executable, "-c", program), redis_url=valkey.url)
    assert len(done.stdout) > 6_000_000
    assert done.stderr == "streamer: a line of more than 1,048,576 bytes becomes no update, though it may be JSON\n"
    assert len(updates(valkey.url, node)) == 3


def test_options_of_the_command_without_dashes_before_it_are_explained(node: str) -> None:
    done = run("node", node, "--job", "job-1", "ls", "-la", "x")
    assert done.returncode == 2
    assert "put -- before the command" in done.stderr
    assert "-- COMMAND..." in done.stderr


def test_what_redis_did_not_take_is_stored_where_a_directory_is_given_and_sent_by_the_next_run(
    valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    arguments = ("node", "--outbox-dir", str(tmp_path), "--exit-flush-s", "0.2", node, "--job")
    done = run(*arguments, "job-1", "--", "true")
    assert done.returncode == 0
    assert "3 updates stored on the disk" in done.stderr
    assert "lost" not in done.stderr
    again = run("node", "--outbox-dir", str(tmp_path), node, "--job", "job-2", "--", "true", redis_url=valkey.url)
    assert again.returncode == 0, again.stderr
    jobs = [update.state["job"] for update in updates(valkey.url, node)]
    assert jobs == ["job-1"] * 3 + ["job-2"] * 3
