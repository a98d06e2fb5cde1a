"""Writing to a log as a publisher does, and looking at what Redis then holds."""

from __future__ import annotations

from collections.abc import Iterator

import redis

from streamer.core.entries import Batch, Entry
from streamer.core.names import Topic
from streamer.core.records import Update, pack_tail, unpack_records
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Appended, Retention, new_id

ALL_FOR_EVER = Retention(1_000_000, 0)
KEYS = Keys()


def tail(number: int) -> bytes:
    """The tail of a writer's update of that sequence number, which its status tells."""
    return pack_tail(str(number), {}, 0)


def batch(first: int, *jobs: str | None) -> Batch:
    """A batch whose entries are of these jobs, numbered from ``first`` on."""
    return Batch(first, [Entry(job, tail(first + place)) for place, job in enumerate(jobs)])


class Writer:
    """One writer of a log; it numbers its updates from 1."""

    def __init__(self, log: NodeLog, retention: Retention = ALL_FOR_EVER) -> None:
        self.log, self.retention = log, retention
        self.id = new_id()
        self.last = 0

    def append(self, *jobs: str | None) -> Appended:
        """Append the next updates, of these jobs."""
        appended = self.send(self.last + 1, *jobs)
        self.last += len(jobs)
        return appended

    def send(self, first: int, *jobs: str | None) -> Appended:
        """Send a batch with a sequence number of the caller's choice, as in a retry."""
        return self.log.append(self.id, batch(first, *jobs), self.retention)


def stored(client: redis.Redis, node: str, job: str | None = None) -> list[Update]:
    """What the list of a job, or of all, holds."""
    records: list[bytes] = client.lrange(KEYS.records(Topic(node, job)), 0, -1)  # type: ignore[assignment]
    return unpack_records(b"".join(records))


def indexes(updates: list[Update]) -> list[int]:
    """Their indexes."""
    return [update.index for update in updates]


def chain(updates: list[Update]) -> list[tuple[int, int]]:
    """Each one's previous and index."""
    return [(update.previous, update.index) for update in updates]


def forget_node(client: redis.Redis, node: str) -> None:
    """Delete all that Redis knows of a node, as if it had been emptied."""
    client.delete(*client.scan_iter(f"streamer:{{{node}}}:*", count=10_000))


class Messages:
    """What is published on a node's channels."""

    def __init__(self, client: redis.Redis, node: str) -> None:
        self._client, self._end = client, f"streamer:{{{node}}}:end"
        self._pubsub = client.pubsub()
        self._pubsub.psubscribe(f"streamer:{{{node}}}:*")
        assert self._next()["type"] == "psubscribe"

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, *_: object) -> None:
        self._pubsub.close()

    def until_now(self) -> list[tuple[str, bytes]]:
        """Each channel and message until now, in order."""
        self._client.publish(self._end, b"")
        messages: Iterator[tuple[str, bytes]] = (
            (message["channel"].decode(), message["data"]) for message in iter(self._next, None)
        )
        return list(iter(lambda: next(messages), (self._end, b"")))

    def _next(self) -> dict[str, bytes]:
        message = self._pubsub.get_message(timeout=20)
        assert message is not None, "nothing was published for 20 s"
        return message  # type: ignore[no-any-return]
