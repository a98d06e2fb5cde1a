"""The publisher of a run, a process of its own: `python -m workers.bench.publishing`, told what to do on its input."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from streamer.core.errors import OutboxFull, StreamerError
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer
from workers.bench.content import STATUS, Content
from workers.bench.histogram import Histogram
from workers.bench.orders import PublishNews, PublishOrder, PublishReport, tell
from workers.logs import log_sentences

NEWS_S = 0.2

Prepared = tuple[dict[str, Any], int]


class Publishing:
    """Publishes a run's content, and notes how long that takes."""

    def __init__(self, order: PublishOrder) -> None:
        self._order = order
        content = order.content
        settings = NodeSettings(
            redis_url=order.redis_url, prefix=order.prefix, retention_records=max(1, content.updates)
        )
        self._streamer = StateStreamer(order.node, settings)
        self._updates: Iterable[Prepared] = list(_updates(content)) if order.prepared else _updates(content)
        self._histogram = Histogram()
        self._news_due = 0.0

    def run(self) -> PublishReport:
        """Publish everything, and return once Redis has it."""
        began_ns = accepted_ns = time.monotonic_ns()
        fault = None
        try:
            for number, (state, timestamp) in enumerate(self._paced(self._updates)):
                self._publish(state, timestamp)
                self._tell_news(number + 1)
            accepted_ns = time.monotonic_ns()
            self._streamer.flush(self._order.timeout_s)
        except StreamerError as error:
            fault = str(error)
        return PublishReport(began_ns, accepted_ns, time.monotonic_ns(), self._histogram, fault)

    def close(self) -> None:
        """Let go of Redis. All is flushed by then, or has failed."""
        with contextlib.suppress(StreamerError):
            self._streamer.close(0.0)

    def _paced(self, updates: Iterable[Prepared]) -> Iterator[Prepared]:
        if not self._order.rate:
            yield from updates
            return
        began = time.monotonic()
        source = iter(updates)
        for number in range(self._order.content.updates):
            # Before the update is made, as that tells when it is sent.
            time.sleep(max(0.0, began + number / self._order.rate - time.monotonic()))
            yield next(source)

    def _publish(self, state: dict[str, Any], timestamp: int) -> None:
        while True:
            began_ns = time.perf_counter_ns()
            try:
                self._streamer.update(STATUS, state, timestamp)
            except OutboxFull:
                self._streamer.flush(self._order.timeout_s)
                continue
            self._histogram.add(time.perf_counter_ns() - began_ns)
            return

    def _tell_news(self, accepted: int) -> None:
        if (now := time.monotonic()) >= self._news_due:
            self._news_due = now + NEWS_S
            tell(PublishNews(accepted))


def _updates(content: Content) -> Iterator[Prepared]:
    for number in range(content.updates):
        timestamp = time.time_ns() // 1_000_000
        yield content.state(number, timestamp, time.monotonic_ns()), timestamp


def main() -> None:
    """Take the order, wait for GO, publish, report, and stay until the input ends."""
    log_sentences("error")
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=PublishOrder)
    publishing = Publishing(order)
    tell(PublishNews(0))
    if sys.stdin.buffer.readline():
        tell(publishing.run())
        sys.stdin.buffer.readline()
    publishing.close()


if __name__ == "__main__":
    main()
