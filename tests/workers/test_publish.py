"""`streamer publish`: updates from the command line and from standard input."""

from __future__ import annotations

import json
import signal
from subprocess import PIPE, Popen

import pytest

from tests.commands import DEADLINE_S, run, running, updates
from tests.servers import RedisServer, wait_until
from tests.workers.shells import run_in_shell


def test_fields_that_are_json_are_values_and_others_are_text(valkey: RedisServer, node: str) -> None:
    fields = ["step=1", "loss=0.5", "note=warming up", "ok=true", 'more={"a":[1]}', "empty="]
    done = run("publish", node, "training", *fields, "--job", "job-1", redis_url=valkey.url)
    assert done.returncode == 0, done.stderr
    [update] = updates(valkey.url, node, "job-1")
    assert update.status == "training"
    assert update.state == {
        "step": 1,
        "loss": 0.5,
        "note": "warming up",
        "ok": True,
        "more": {"a": [1]},
        "empty": "",
        "job": "job-1",
    }


def test_standard_input_brings_one_update_a_line(valkey: RedisServer, node: str) -> None:
    lines = [
        {"status": "a", "x": 1},
        {"status": "b", "state": {"y": 2}, "timestamp": 5},
        {"status": "c", "job": "other"},
    ]
    done = run("publish", node, "-", redis_url=valkey.url, input="\n".join(map(json.dumps, lines)) + "\n\n")
    assert done.returncode == 0, done.stderr
    assert "3 updates published" in done.stderr
    states = updates(valkey.url, node)
    assert [(update.status, update.state) for update in states] == [
        ("a", {"x": 1}),
        ("b", {"y": 2}),
        ("c", {"job": "other"}),
    ]
    assert states[1].timestamp == 5


def test_more_lines_than_the_outbox_holds_all_arrive(valkey: RedisServer, node: str) -> None:
    text = "".join(f'{{"status": "s", "n": {n}}}\n' for n in range(3000))
    done = run("publish", "--outbox-records", "100", node, "-", redis_url=valkey.url, input=text)
    assert done.returncode == 0, done.stderr
    assert [update.state["n"] for update in updates(valkey.url, node)] == list(range(3000))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nope", "is no JSON"),
        ("[1]", "must be a JSON object"),
        ('{"a": 1}', '"status"'),
        ('{"status": 5}', "status must be text"),
        ('{"status": "s", "job": ""}', "a job's name cannot be empty"),
        ('{"status": "s", "timestamp": "x"}', "timestamp"),
        ('{"status": "s", "state": 4}', '"state" must be an object'),
    ],
)
def test_a_line_that_is_no_update_ends_it_and_those_before_are_published(
    valkey: RedisServer, node: str, line: str, says: str
) -> None:
    done = run(
        "publish", node, "-", redis_url=valkey.url, input=f'{{"status": "first"}}\n{line}\n{{"status": "last"}}\n'
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: line 2 is no ")
    assert says in done.stderr
    assert [update.status for update in updates(valkey.url, node)] == ["first"]


def test_one_update_is_one(valkey: RedisServer, node: str) -> None:
    done = run("publish", node, "-", redis_url=valkey.url, input='{"status": "s"}')
    assert done.stderr == "streamer: 1 update published\n"


@pytest.mark.parametrize("line", [r'{"status": "\377"}', '{"status": "s", "a": %s}'])
def test_a_line_that_no_decoder_takes_is_no_json(node: str, line: str) -> None:
    done = run_in_shell(f"""printf '{line}\n' "$DEEP" | "$@" """, "publish", node, "-", DEEP="[" * 100_000)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(b"Error: line 1 is no JSON: ")


@pytest.mark.parametrize("field", [b"a=\xff", b"a=" + b"[" * 100_000, b"a=" + b"[" * 500 + b"]" * 500])
def test_a_field_that_cannot_be_stored_gets_a_sentence(node: str, field: bytes) -> None:
    done = run_in_shell('exec "$@"', "publish", node, "s", field)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Error: ")
    assert len(done.stderr.splitlines()) == 1


def test_with_standard_input_closed_it_says_so(node: str) -> None:
    done = run_in_shell('exec "$@" <&-', "publish", node, "-")
    assert done.returncode == 2
    assert b"which is closed" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_it_says_how_many_it_published(
    valkey: RedisServer, node: str, number: signal.Signals
) -> None:
    with running("publish", node, "-", redis_url=valkey.url, stdin=PIPE, stderr=PIPE) as process:
        _write(process, '{"status": "first"}\n')
        wait_until("it is there", lambda: len(updates(valkey.url, node)) == 1)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read().strip() == "streamer: 1 update published"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal_it_says_what_redis_did_not_take(node: str, number: signal.Signals) -> None:
    with running("publish", node, "-", "--timeout-s", "0.3", stdin=PIPE, stderr=PIPE) as process:
        _write(process, '{"status": "first"}\n')
        assert process.stderr is not None
        assert "updates of node" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 1
        assert "1 update of node" in process.stderr.read()


def _write(process: Popen[str], lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write(lines)
    process.stdin.flush()


@pytest.mark.parametrize("arguments", [["hello"], ["-"]])
def test_what_is_lost_is_said_once(node: str, arguments: list[str]) -> None:
    done = run("publish", node, *arguments, "--timeout-s", "0.3", input='{"status": "s"}\n')
    assert done.stderr.count("not acknowledged") == 1
    assert "{" not in done.stderr


def test_with_redis_down_it_fails_within_its_time_and_says_why(node: str) -> None:
    done = run("publish", node, "hello", "--timeout-s", "0.3")
    assert done.returncode == 1
    assert "not acknowledged within 0.3 s" in done.stderr
    assert "refused" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["", "hello"], "a node's name cannot be empty"),
        (["n", ""], "status must be text"),
        (["n", "s", "field"], "KEY=VALUE"),
        (["n", "-", "a=b"], "leave out KEY=VALUE"),
        (["n", "s", "--job", "all"], "cannot be 'all'"),
        (["n", "s", "--redis-url", "http://h"], "redis://"),
        (["n", "s", "--retention-records", "0"], "retention_records must be a whole number from 1"),
    ],
)
def test_wrong_arguments_get_a_sentence_that_says_what_is_wrong(arguments: list[str], says: str) -> None:
    done = run("publish", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
