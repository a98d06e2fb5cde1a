"""A node's process in a storm: `python -m workers.bench.storm.node`, which may be killed at any moment."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from random import Random

import msgspec

from streamer.core.errors import OutboxFull, OutboxNotWritable, StreamerError
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer, state_streaming
from workers.bench.orders import tell
from workers.bench.storm.content import STATUS, Name
from workers.bench.storm.ledger import Ledger
from workers.bench.storm.orders import NodeNews, NodeOrder, NodeReport
from workers.logs import log_sentences

PAUSE, FINISH = b"pause\n", b"finish\n"
MOST_AT_ONCE = 8
RETENTION_RECORDS = 10_000_000
NEWS_S = 0.2


class NodeProcess:
    """Publishes, and writes down what was accepted."""

    def __init__(self, order: NodeOrder) -> None:
        self._order = order
        self._ledger = Ledger(Path(order.ledger))
        self._rng = Random(f"{order.content.seed}:{order.node}:{order.process}")
        self._paused = threading.Event()
        self._streamer: StateStreamer = state_streaming(order.node, settings_of(order))
        self._accepted = 0

    def publish(self) -> None:
        """Publish until `pause`, now one update and now several at once."""
        news_due = 0.0
        while not self._paused.is_set():
            for _ in range(many := self._rng.randint(1, MOST_AT_ONCE) if self._rng.random() < 0.2 else 1):
                self._publish()
            if (now := time.monotonic()) >= news_due:
                news_due = now + NEWS_S
                tell(NodeNews(self._accepted, paused=False))
            self._paused.wait(self._rng.expovariate(self._order.rate / many))
        tell(NodeNews(self._accepted, paused=True))

    def pause(self) -> None:
        """Have `publish` return. From any thread."""
        self._paused.set()

    def finish(self) -> NodeReport:
        """Let Redis have everything, also what processes before this one have left."""
        fault = None
        try:
            self._streamer.close(self._order.timeout_s)
        except StreamerError as error:
            fault = str(error)
        told = self._streamer.statistics()
        return NodeReport(self._accepted, told.resent, told.retries, told.lost, fault)

    def _publish(self) -> None:
        timestamp, name = time.time_ns() // 1_000_000, Name(self._order.process, self._accepted)
        state = self._order.content.state(self._order.node, name, timestamp)
        try:
            self._streamer.update(STATUS, state, timestamp)
        except (OutboxFull, OutboxNotWritable):
            return  # it was not accepted, and so its number is the next one's
        self._ledger.note(name.number)
        self._accepted += 1


def settings_of(order: NodeOrder) -> NodeSettings:
    """How the node publishes: what it has accepted is to outlive it."""
    return NodeSettings(
        redis_url=order.redis_url,
        prefix=order.prefix,
        outbox_dir=order.outbox_dir,
        outbox_sync="normal",
        retention_records=RETENTION_RECORDS,
    )


def main() -> None:
    """Take the order from the first line, then publish until told otherwise."""
    log_sentences()
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=NodeOrder)
    node = NodeProcess(order)
    publishing = threading.Thread(target=node.publish)
    publishing.start()
    told = sys.stdin.buffer.readline()
    node.pause()
    publishing.join()
    if told and sys.stdin.buffer.readline():
        tell(node.finish())


if __name__ == "__main__":
    main()
