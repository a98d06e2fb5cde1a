"""The log as a node's process sees it: blocking, for one thread."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

import redis

from streamer.core.cursor import START, Cursor
from streamer.core.entries import Batch
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.core.records import Update
from streamer.log.blocking_client import BlockingClient
from streamer.log.connecting import unavailable_as_error
from streamer.log.fleet import Summary, Told
from streamer.log.keys import Keys
from streamer.log.scripts import (
    PAGE_RECORDS,
    UNCLAIMED,
    Appended,
    Claimed,
    Page,
    Request,
    Retention,
    Token,
    announce_request,
    append_request,
    claim_request,
    clear_request,
    parse_appended,
    parse_claimed,
    parse_page,
    read_request,
)


class Replication(NamedTuple):
    """How many replicas must have an append, and for how many ms to wait for that."""

    replicas: int
    timeout_ms: int


class NodeLog:
    """A node's log. It connects at the first call; use it from one thread at a time.

    Every method waits for Redis, within the timeouts of `connecting`, and raises LogUnavailable where that fails:
    whether the call had its effect is then unknown, and all may be repeated.

    Raises InvalidSetting where the URL is none that we know.
    """

    def __init__(self, url: str, keys: Keys, node: str) -> None:
        self._url, self._keys, self._node = url, keys, node
        self._redis = BlockingClient(url)
        self._publish = "SPUBLISH" if self._redis.sharded else "PUBLISH"

    def __enter__(self) -> NodeLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(
        self,
        writer: str,
        batch: Batch,
        retention: Retention,
        token: Token = UNCLAIMED,
        replication: Replication | None = None,
    ) -> Appended:
        """Append a batch; what this writer has appended already is left out.

        With ``replication``, raises LogUnavailable where too few replicas have it in time; it may be there all the
        same. The answer may say that nothing was appended: see Appended, and Batch's ``after``.
        """
        request = append_request(self._keys, self._node, writer, batch, retention, token, self._publish)
        if replication is None:
            return parse_appended(self._run("append", request))
        with unavailable_as_error(self._url):
            reply, confirmed = self._redis.run_and_wait("append", request, *replication)
        appended = parse_appended(reply)
        if confirmed < replication.replicas and appended.seen >= batch.after and not appended.refused:
            raise LogUnavailable(
                f"only {confirmed} of {replication.replicas} replicas have what was appended, "
                f"after {replication.timeout_ms} ms"
            )
        return appended

    def announce(self, jobs: Iterable[str], ttl_s: int) -> None:
        """Note in the indexes of jobs that the node runs them, and tell those who follow these jobs.

        An index expires ``ttl_s`` seconds after the last note at the earliest, never for 0.
        """
        requests = [announce_request(self._keys, self._node, job, ttl_s, self._publish) for job in jobs]
        with unavailable_as_error(self._url):
            self._redis.run_all("announce", requests)

    def claim(self, token: Token, lease_ms: int) -> Claimed:
        """Claim the node or renew the claim, for so many ms; 0 gives it up. Of the first claim the number is 0."""
        return parse_claimed(token.holder, self._run("claim", claim_request(self._keys, self._node, token, lease_ms)))

    def read(self, job: str | None, cursor: Cursor, limit: int = PAGE_RECORDS) -> Page:
        """Read a page behind a cursor."""
        topic = Topic(self._node, job)
        return parse_page(topic, self._run("read", read_request(self._keys, topic, cursor, limit)))

    def read_all(self, job: str | None) -> list[Update]:
        """Read everything that is kept of the node, or of a job, page by page, up to the head of the moment."""
        updates: list[Update] = []
        cursor, head = START, -1
        while True:
            page = self.read(job, cursor)
            if page.reset or page.start < cursor.index:
                # The log was started anew, or lost its tail, meanwhile.
                updates, cursor = [], START
                continue
            if cursor == START:
                head = page.head  # a running publisher is not to be chased
            updates += [update for update in page.updates if update.index <= head]
            if not page.more or page.updates[-1].index >= head:
                return updates
            cursor = page.updates[-1].cursor(page.log_id)

    def clear(self) -> None:
        """Start the log anew, under a new id, and tell those who watch; the fleet's summary forgets the node."""
        self._run("clear", clear_request(self._keys, self._node, self._publish))
        self._tell_fleet(None, "HDEL", self._keys.fleet, self._node)

    def report(self, summary: Summary) -> None:
        """Put the node's summary into the fleet's, and tell those who watch the fleet."""
        self._tell_fleet(summary, "HSET", self._keys.fleet, self._node, summary.pack())

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _tell_fleet(self, summary: Summary | None, *words: Any) -> None:
        """Change the fleet's hash, and tell of it."""
        fleet, told = self._keys.fleet, Told(self._node, summary)
        with unavailable_as_error(self._url):
            self._redis.ask_one(fleet, *words)
        # Publishing is but a hint, and must not fail what is written.
        with suppress(redis.RedisError, OSError):
            self._redis.ask_one(fleet, self._publish, fleet, told.pack())

    def _run(self, script: str, request: Request) -> Any:
        with unavailable_as_error(self._url):
            return self._redis.run(script, request)
