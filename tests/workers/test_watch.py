"""`streamer watch`: a node on the terminal."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from streamer import NodeSettings
from streamer.core.cursor import MAX_INDEX
from streamer.core.messages import PlainMessage
from streamer.state_streamer import StateStreamer
from tests.commands import DEADLINE_S, first_line, run, running
from tests.gateways import GatewayProcess
from tests.servers import RedisServer
from tests.workers.shells import run_in_shell, running_at_terminal
from workers.update_lines import UpdateLines


@pytest.fixture(scope="module")
def gateway(valkey: RedisServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(valkey.url) as gateway:
        yield gateway


@pytest.fixture
def streamer(valkey: RedisServer, node: str) -> Iterator[StateStreamer]:
    streamer = StateStreamer(node, NodeSettings(redis_url=valkey.url))
    yield streamer
    streamer.close()


def test_json_gives_history_and_then_live_updates_a_line_each(gateway: GatewayProcess, streamer: StateStreamer) -> None:
    streamer.update("one", {"job": "job-1"})
    streamer.flush()
    with running("watch", streamer.node, "--json", "--gateway-url", gateway.url, stdout=subprocess.PIPE) as process:
        assert json.loads(first_line(process))["status"] == "one"
        streamer.update("two", {"text": "päng\n"})
        line = json.loads(first_line(process))
        assert (line["status"], line["state"], line["index"]) == ("two", {"text": "päng\n"}, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0


def test_a_terminal_gets_a_line_each_and_no_control_characters_of_others(
    gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    streamer.update("bad\x1b[31m", {"job": "job-1", "n": {"a": 1}})
    streamer.flush()
    with running("watch", streamer.node, "--gateway-url", gateway.url, stdout=subprocess.PIPE) as process:
        line = first_line(process)
        assert "\x1b" not in line
        assert 'job=job-1 n={"a":1}' in line
        process.terminate()
        assert process.wait(DEADLINE_S) == 0


def test_job_after_and_history_choose_what_comes(gateway: GatewayProcess, streamer: StateStreamer) -> None:
    for n in range(6):
        streamer.update("s", {"n": n, "job": f"job-{n % 2}"})
    streamer.flush()
    for options, expected in (
        (["--job", "job-1"], [1, 3, 5]),
        (["--after", "3"], [4, 5]),
        (["--history", "2"], [4, 5]),
        (["--job", "job-0", "--history", "1"], [4]),
    ):
        arguments = ["watch", streamer.node, "--json", "--gateway-url", gateway.url, *options]
        with running(*arguments, stdout=subprocess.PIPE) as process:
            assert [json.loads(first_line(process))["state"]["n"] for _ in expected] == expected


def test_it_comes_back_after_a_lost_gateway_and_repeats_nothing(valkey: RedisServer, streamer: StateStreamer) -> None:
    with GatewayProcess(valkey.url) as first:
        options = ["watch", streamer.node, "--json", "--gateway-url", first.url]
        with running(*options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            streamer.update("one", {})
            assert json.loads(first_line(process))["status"] == "one"
            first.kill()
            streamer.update("two", {})
            streamer.flush()
            assert process.stderr is not None
            assert "next try in" in process.stderr.readline()
            port = ["--port", str(first.port)]
            with running("gateway", *port, "--log-level", "warning", redis_url=valkey.url):
                assert json.loads(first_line(process))["status"] == "two"
                streamer.update("three", {})
                assert json.loads(first_line(process))["status"] == "three"


def test_a_log_started_anew_is_told_and_followed(gateway: GatewayProcess, streamer: StateStreamer) -> None:
    streamer.update("old", {})
    streamer.flush()
    options = ["watch", streamer.node, "--json", "--gateway-url", gateway.url]
    with running(*options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(first_line(process))["status"] == "old"
        streamer.clear()
        streamer.update("new", {})
        line = json.loads(first_line(process))
        assert (line["status"], line["index"]) == ("new", 0)
        assert process.stderr is not None
        assert "reset" in process.stderr.readline()


def test_a_reader_that_leaves_ends_it_quietly(gateway: GatewayProcess, streamer: StateStreamer) -> None:
    streamer.update("one", {})
    with running(
        "watch", streamer.node, "--gateway-url", gateway.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        first_line(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        streamer.update("two", {})
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_leaves_ends_it_though_no_update_comes(
    gateway: GatewayProcess, streamer: StateStreamer, options: list[str]
) -> None:
    streamer.update("one", {})
    streamer.flush()
    arguments = ["watch", streamer.node, "--gateway-url", gateway.url, *options]
    with running(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first_line(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(("where", "why"), [(">/dev/full", b"No space left"), (">&-", b"is closed")])
def test_an_output_that_cannot_be_written_gets_a_sentence(
    gateway: GatewayProcess, streamer: StateStreamer, where: str, why: bytes, options: list[str]
) -> None:
    streamer.update("one", {})
    streamer.flush()
    done = run_in_shell(f'exec "$@" {where}', "watch", streamer.node, "--gateway-url", gateway.url, *options)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(b"Error: the updates cannot be shown: ")
    assert why in line


def test_a_terminal_without_the_characters_gets_others(gateway: GatewayProcess, streamer: StateStreamer) -> None:
    streamer.update("päng", {"text": "日本"})
    streamer.flush()
    arguments = ["watch", streamer.node, "--gateway-url", gateway.url]
    done = run_in_shell('"$@" | head -n 1', *arguments, PYTHONIOENCODING="ascii")
    assert b"p?ng" in done.stdout
    assert b"text=??" in done.stdout
    assert done.stderr == b""


def test_whoever_sits_at_a_terminal_is_told_that_nothing_comes(gateway: GatewayProcess, node: str) -> None:
    with running_at_terminal("watch", node, "--gateway-url", gateway.url) as terminal:
        assert os.read(terminal, 1000) == b"streamer: no updates yet\r\n"


def _shown(*messages: PlainMessage) -> list[str]:
    out = io.StringIO()
    lines = UpdateLines(out)
    for message in messages:
        lines.show(message)
    return out.getvalue().splitlines()


def _message(status: str, timestamp: int) -> PlainMessage:
    return PlainMessage(status, {"k": 1}, timestamp, 0, -1, "")


def test_the_date_is_told_where_the_day_changes() -> None:
    now, day = time.time_ns() // 1_000_000, 86_400_000
    lines = _shown(*[_message("s", timestamp) for timestamp in (now, now, now - 3 * day, now - 3 * day, now)])
    assert ["k=1" in line for line in lines] == [True, True, False, True, True, False, True]
    assert time.strftime("%Y-%m-%d", time.localtime(now / 1000)) in lines[-2]


def test_columns_are_counted_in_cells() -> None:
    wide, narrow = _shown(_message("日本", 0), _message("abcd", 0))[1:]
    assert wide.index("k=") + len("日本") == narrow.index("k=")


def test_a_time_beyond_the_calendar_is_told_in_milliseconds() -> None:
    assert _shown(_message("s", MAX_INDEX))[0].startswith(f"{MAX_INDEX} ms      0 s ")


def test_an_update_that_is_huge_is_shown_shortened_with_its_size() -> None:
    [line] = _shown(PlainMessage("s", {"text": "x" * 1_000_000, "more": 1}, MAX_INDEX, 0, -1, ""))
    assert "x… (1,000,000 characters) more=1" in line
    assert len(line) < 2000
    [line] = _shown(PlainMessage("s", {f"key-{n}": n for n in range(10_000)}, MAX_INDEX, 0, -1, ""))
    assert line.endswith(" more")
    assert len(line) < 5000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--after", "x"], "is no cursor"),
        (["--history", "some"], "is none of all, none"),
        (["--after", "1", "--history", "2"], "either --after or --history"),
        (["--job", "all"], "cannot be 'all'"),
        (["--gateway-url", "nonsense"], "no URL of a gateway"),
    ],
)
def test_wrong_arguments_get_a_sentence(gateway: GatewayProcess, options: list[str], says: str) -> None:
    done = run("watch", "n", "--gateway-url", gateway.url, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
