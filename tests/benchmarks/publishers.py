"""Those who publish: a node's process for a gateway, and plain PUBLISH of the same messages for the floor."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import redis

from streamer.core.messages import PlainMessage
from streamer.lane import BATCH_RECORDS
from tests.benchmarks.talking import Talking
from workers.bench.content import STATUS, Content
from workers.bench.orders import GO, PublishNews, PublishOrder, PublishReport
from workers.local_parts import PartFailed, Parts
from workers.own_programs import own_program

LOG_ID = "0123456789ab"

_decode = msgspec.json.Decoder(PublishNews | PublishReport).decode


class Publisher:
    """A process that publishes to a node what its order says. It is ready once it is made."""

    def __init__(self, parts: Parts, order: PublishOrder) -> None:
        self._talking = Talking(parts, "the publisher", own_program("workers.bench.publishing"))
        self._talking.say(msgspec.json.encode(order) + b"\n")
        self._talking.line()

    def go(self) -> None:
        """Have it begin."""
        self._talking.say(GO)

    def report(self) -> PublishReport:
        """Return its report once Redis has everything. Raises PartFailed where it fails."""
        while isinstance(report := _decode(self._talking.line()), PublishNews):
            pass
        if report.fault:
            raise PartFailed(f"the publisher failed: {report.fault}")
        return report

    def close(self) -> None:
        """Have it end."""
        self._talking.close()


def publish_to_floor(client: redis.Redis, channel: str, content: Content, rate: float) -> None:
    """Publish to the floor what a gateway makes of the content, at the same rate; 0 is in batches, as a node does."""
    batches = _paced(content, rate) if rate else _in_batches(content)
    for batch in batches:
        with client.pipeline(transaction=False) as pipeline:
            for message in batch:
                pipeline.publish(channel, message)
            pipeline.execute()


def _paced(content: Content, rate: float) -> Iterator[list[bytes]]:
    began = time.monotonic()
    for number in range(content.updates):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        yield [message(content, number)]


def _in_batches(content: Content) -> Iterator[list[bytes]]:
    # All made before the first is sent, as by a prepared publisher.
    messages = [message(content, number) for number in range(content.updates)]
    for first in range(0, len(messages), BATCH_RECORDS):
        yield messages[first : first + BATCH_RECORDS]


def message(content: Content, number: int) -> bytes:
    """An update of the content, sent now, as a gateway would send it."""
    timestamp = time.time_ns() // 1_000_000
    state = content.state(number, timestamp, time.monotonic_ns())
    cursor = f"{LOG_ID}.1.{number}"
    return msgspec.json.encode(PlainMessage(STATUS, state, timestamp, number, content.previous(number), cursor))
