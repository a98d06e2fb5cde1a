"""Publishing: a node's process, and beside it the append script alone, as fast as Redis runs it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import redis

from streamer.core.outbox import Batch, Entry
from streamer.core.records import pack_tail
from streamer.lane import BATCH_RECORDS
from streamer.log.keys import Keys
from streamer.log.scripts import Retention, append_request, new_id, source
from tests.benchmarks.clients import NotWhole
from tests.benchmarks.figures import Figure, Target, ratio
from tests.benchmarks.lab import Lab, content_of, new_node
from workers.bench.content import STATUS, Content
from workers.bench.orders import PublishReport
from workers.bench.reading_back import read_back

AHEAD = 2
"""So many batches are on their way at once: Redis never waits for the next."""

EITHER = "at least 100,000 /s, or 60 % of the script"


def publish(lab: Lab, *, updates: int) -> Iterable[Figure]:
    """One process publishes as fast as it can; then full batches are appended without one."""
    content = content_of(updates)
    report = _publish(lab, content)
    acknowledged = updates / ((report.acknowledged_ns - report.began_ns) / 1e9)
    script = updates / _append(lab, content)
    share = ratio(acknowledged, script)
    update_ns = report.update.quantile_ns(0.5)
    reached = max(acknowledged / 100_000, (share or 0.0) / 0.6)
    return [
        Figure("update_us", "update(), median", update_ns and update_ns / 1000, "µs", Target(most=5)),
        Figure("acknowledged_per_s", "acknowledged per second", acknowledged, "/s"),
        Figure("script_per_s", "the append script alone, in full batches", script, "/s"),
        Figure("share", "acknowledged, to the script alone", share, "×"),
        Figure(
            "reached", "acknowledged, to the nearer of its two targets", reached, "×", Target(least=1, words=EITHER)
        ),
    ]


def _publish(lab: Lab, content: Content) -> PublishReport:
    node = new_node()
    with lab.publisher(node, content) as publisher:
        publisher.go()
        report = publisher.report()
    _check(lab, node, content)
    return report


def _append(lab: Lab, content: Content) -> float:
    """How many seconds Redis takes for all of the content, in commands that are packed before."""
    node = new_node()
    with lab.redis_client() as client:
        sha = client.script_load(source("append"))
        connection = client.connection_pool.get_connection()
        try:
            took_s = _run_all(connection, list(_commands(connection, str(sha), Keys(lab.prefix), node, content)))
        finally:
            client.connection_pool.release(connection)
    _check(lab, node, content)
    return took_s


def _run_all(connection: redis.Connection, commands: list[list[bytes]]) -> float:
    began = time.monotonic()
    for number, command in enumerate(commands):
        connection.send_packed_command(command)
        if number >= AHEAD - 1:
            connection.read_response()
    for _ in range(min(AHEAD - 1, len(commands))):
        connection.read_response()
    return time.monotonic() - began


def _commands(connection: redis.Connection, sha: str, keys: Keys, node: str, content: Content) -> Iterator[list[bytes]]:
    writer, retention, timestamp = new_id(), Retention(content.updates), time.time_ns() // 1_000_000
    for first in range(0, content.updates, BATCH_RECORDS):
        entries = [
            Entry(content.job(number), pack_tail(STATUS, content.state(number, timestamp, 0), timestamp))
            for number in range(first, min(first + BATCH_RECORDS, content.updates))
        ]
        request = append_request(keys, node, writer, Batch(first + 1, entries), retention)
        yield list(connection.pack_command("EVALSHA", sha, len(request.keys), *request.keys, *request.args))


def _check(lab: Lab, node: str, content: Content) -> None:
    if faults := read_back(lab.redis_url, lab.prefix, node, content, lambda _: None):
        raise NotWhole("; ".join(faults))
