"""Writing to a log as a publisher does, and looking at what Redis then holds."""

from __future__ import annotations

from collections.abc import Iterator

import redis
from redis.cluster import RedisCluster

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
    """What is published on a node's channels; on a cluster, where none can be told by a pattern, on those of the jobs
    given."""

    def __init__(self, client: redis.Redis | RedisCluster, node: str, *jobs: str) -> None:
        self._end = f"streamer:{{{node}}}:end"
        self._client = server_of(client, self._end)
        self._pubsub = self._client.pubsub()
        if isinstance(client, RedisCluster):
            channels = [self._end, *(KEYS.records(Topic(node, job)) for job in (None, *jobs))]
            self._pubsub.ssubscribe(*channels)
            for _ in channels:
                assert self._next()["type"] == "ssubscribe"
            self._publish = "SPUBLISH"
        else:
            self._pubsub.psubscribe(f"streamer:{{{node}}}:*")
            assert self._next()["type"] == "psubscribe"
            self._publish = "PUBLISH"

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, *_: object) -> None:
        self._pubsub.close()

    def until_now(self) -> list[tuple[str, bytes]]:
        """Each channel and message until now, in order."""
        self._client.execute_command(self._publish, self._end, b"")  # type: ignore[no-untyped-call]
        messages: Iterator[tuple[str, bytes]] = (
            (message["channel"].decode(), message["data"]) for message in iter(self._next, None)
        )
        return list(iter(lambda: next(messages), (self._end, b"")))

    def _next(self) -> dict[str, bytes]:
        message = self._pubsub.get_message(timeout=20)
        assert message is not None, "nothing was published for 20 s"
        return message  # type: ignore[no-any-return]


def server_of(client: redis.Redis | RedisCluster, key: str) -> redis.Redis:
    """A client of the one server that has a key or a sharded channel."""
    if isinstance(client, RedisCluster):
        return client.get_redis_connection(client.get_node_from_key(key))  # type: ignore[no-any-return]
    return client


def publish(client: redis.Redis | RedisCluster, channel: str, message: bytes) -> int:
    """Publish as the log does, sharded on a cluster; return how many have got it."""
    verb = "SPUBLISH" if isinstance(client, RedisCluster) else "PUBLISH"
    return int(server_of(client, channel).execute_command(verb, channel, message))  # type: ignore[no-untyped-call]


def receivers(client: redis.Redis | RedisCluster, channel: str) -> int:
    """How many are subscribed to a channel, sharded on a cluster."""
    verb = "SHARDNUMSUB" if isinstance(client, RedisCluster) else "NUMSUB"
    _, count = server_of(client, channel).execute_command("PUBSUB", verb, channel)  # type: ignore[no-untyped-call]
    return int(count)
