"""`streamer publish`: publish updates from the command line or from standard input."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click

from streamer.core.errors import InvalidInput, InvalidUpdate, OutboxFull, StreamerError, counted
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer, state_streaming
from workers.json_text import NestedTooDeeply, NoJson, decode_json
from workers.logs import log_sentences
from workers.metrics_port import metrics_options, serving_metrics
from workers.options import Seconds, option, publish_options
from workers.sentences import say

PROGRESS_EVERY = 10_000


class LineRefused(StreamerError):
    """A line of standard input is no update; the text says which line and why."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number, self.reason = number, reason

    def __str__(self) -> str:
        return f"line {self.number} is no {self.reason}"


@click.command(short_help="Publish an update, or one for each line of JSON on standard input.")
@click.argument("node")
@click.argument("status")
@click.argument("fields", nargs=-1, metavar="[KEY=VALUE]...")
@option("--job", help="The job that the update belongs to.")
@option("--timeout-s", type=Seconds(), default=10.0, help="Seconds to wait for Redis.")
@metrics_options
@publish_options
def publish(
    node: str,
    status: str,
    fields: tuple[str, ...],
    job: str | None,
    timeout_s: float,
    metrics_port: int | None,
    metrics_host: str,
    **settings: Any,
) -> None:
    """Publish an update of NODE, and return once Redis has it.

    \b
      streamer publish gpu-1 training --job train-7 step=1 loss=0.93 note="warming up"

    A value that is JSON is taken as that, so 1 is a number; anything else is text.

    With - as STATUS, updates are read from standard input, one JSON object a line: "status" is required, "state" is
    the state, and so is every other field; "timestamp" is in ms since 1970. A line that is no update ends it, and so do
    Ctrl-C and SIGTERM; those before it are published. With --metrics-port metrics are
    served meanwhile.

    \b
      tail -F events.jsonl | streamer publish gpu-1 -
    """
    if status == "-" and fields:
        raise click.UsageError("with - the fields come from standard input; leave out KEY=VALUE")
    if status == "-" and sys.stdin is None:
        raise click.UsageError("with - the updates come from standard input, which is closed")
    # Whoever publishes one update is told soon enough that Redis does not take it.
    log_sentences("warning" if status == "-" else "error")
    streamer = state_streaming(node, NodeSettings(**settings))
    common = {"job": job} if job is not None else {}
    # One update is published, and its port gone, before anybody scrapes it.
    with serving_metrics(metrics_port if status == "-" else None, metrics_host):
        if status == "-":
            signal.signal(signal.SIGTERM, _end)
            _publish_lines(streamer, sys.stdin.buffer, common, timeout_s)
        else:
            streamer.update(status, {**dict(_parse_field(field) for field in fields), **common})
            streamer.close(timeout_s)


def _parse_field(field: str) -> tuple[str, Any]:
    key, equals, text = field.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{field!r} is not of the form KEY=VALUE")
    try:
        return key, decode_json(text)
    except NestedTooDeeply as error:
        raise InvalidUpdate(f"the value of {key!r} cannot be used: {error}") from None
    except NoJson:
        return key, text


def _end(number: int, _frame: object) -> NoReturn:
    """End as Ctrl-C does, with the exit status that shells give. What was read is still published."""
    raise SystemExit(128 + number)


def _publish_lines(streamer: StateStreamer, lines: Iterable[bytes], common: dict[str, Any], timeout_s: float) -> None:
    count = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                _publish_patiently(streamer, _parse_line(number, line, common), number, timeout_s)
                count += 1
                if count % PROGRESS_EVERY == 0:
                    say(counted(count))
    finally:
        streamer.close(timeout_s)
        say(f"{counted(count)} published")


def _parse_line(number: int, line: bytes, common: dict[str, Any]) -> tuple[Any, dict[str, Any], Any]:
    """The status, state and timestamp that a line tells."""
    try:
        content = decode_json(line)
    except NoJson as error:
        raise LineRefused(number, f"JSON: {error}") from None
    if not isinstance(content, dict) or "status" not in content:
        raise LineRefused(number, 'update: it must be a JSON object with a "status"')
    status, timestamp, state = content.pop("status"), content.pop("timestamp", None), content.pop("state", {})
    if not isinstance(state, dict):
        raise LineRefused(number, 'update: its "state" must be an object')
    return status, {**content, **state, **common}, timestamp


def _publish_patiently(
    streamer: StateStreamer, update: tuple[Any, dict[str, Any], Any], number: int, timeout_s: float
) -> None:
    """Publish, as fast as Redis takes it: standard input can wait."""
    try:
        try:
            streamer.update(*update)
        except OutboxFull:
            streamer.flush(timeout_s)
            streamer.update(*update)
    except InvalidInput as error:
        raise LineRefused(number, f"update: {error}") from None
