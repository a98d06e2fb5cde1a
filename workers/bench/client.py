"""A load client: a view of a topic that it must get whole, across its connections."""

from __future__ import annotations

import asyncio
import ssl
import time
from random import Random
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from streamer.client.address import websocket_url
from streamer.core.names import Topic
from workers.bench.connection import Connection
from workers.bench.following import Follower, Stream
from workers.bench.frames import Refused
from workers.bench.histogram import Histogram

_NEVER = 2**63


class CannotConnect(Exception):
    """The gateway cannot be reached, or did not open the WebSocket; the text says why."""


class Target(NamedTuple):
    """Where a gateway is."""

    address: str
    port: int
    host_header: str
    prefix: str
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, gateway: str) -> Target:
        """Read a gateway's URL. Raises InvalidSetting."""
        parts = urlsplit(websocket_url(gateway))
        secure = parts.scheme == "wss"
        host = parts.netloc.rpartition("@")[2]
        tls = ssl.create_default_context() if secure else None
        return cls(parts.hostname or "", parts.port or (443 if secure else 80), host, parts.path, tls)


class Counts:
    """What all clients of a process have got, and how fast."""

    def __init__(self) -> None:
        self.connected = self.delivered = self.done = 0
        self.done_ns = 0
        self.latency = Histogram()


class Client:
    """One client, whose connections come one after another.

    ``trouble`` is what ended its watch for good, ``done_ns`` when it had all that it is owed.
    """

    def __init__(self, number: int, topic: Topic, stream: Stream, counts: Counts, rng: Random) -> None:
        self.number, self.topic, self.rng = number, topic, rng
        self.trouble: str | None = None
        self.done_ns: int | None = None
        self.done = asyncio.Event()
        self.connection: Connection | None = None
        self._stream, self._counts = stream, counts
        self._follower = Follower(stream)
        self.finishing = False
        self._current_ns = _NEVER

    async def connect(self, target: Target, timeout_s: float) -> Connection:
        """Open a connection that goes on behind what the client has. Raises CannotConnect."""
        self.be_behind()
        count = self._follower.count
        self._follower.resume(count)
        path = f"{target.prefix}{path_of(self.topic)}?{self._query(count)}"

        def make() -> Connection:
            return Connection(target.host_header, path, self._follower, self._moved)

        loop = asyncio.get_running_loop()
        connection = None
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(make, target.address, target.port, ssl=target.tls)
                await connection.opened
        except BaseException as error:
            if connection is not None:
                connection.abort()
            if isinstance(error, TimeoutError):
                raise CannotConnect(f"the gateway did not answer within {timeout_s:g} s") from None
            if isinstance(error, Refused | OSError):
                raise CannotConnect(str(error) or type(error).__name__) from None
            raise
        if self.connection is None:
            self._counts.connected += 1
        self.connection = connection
        self.be_current()
        return connection

    def begin_anew(self) -> None:
        """Forget all that it has, as a new client does that comes in its place. Not with a connection open."""
        self._follower = Follower(self._stream)

    def be_current(self) -> None:
        """Measure the latency of what is sent from now on."""
        self._current_ns = time.monotonic_ns()

    def be_behind(self) -> None:
        """Measure no latency: it would be that of the history, or of our own stall."""
        self._current_ns = _NEVER

    def fail(self, trouble: str) -> None:
        """Give the watch up."""
        got = self._follower.tally.count if self._follower.tally else self._follower.count
        self.trouble = f"{trouble}, after {got:,} of {self._stream.view.owed:,} updates"
        if self.done_ns is not None:
            self._counts.done -= 1
            self.done_ns = None

    def finish(self) -> None:
        """Close the connection in order, and open no other."""
        self.finishing = True
        if self.connection is not None:
            self.connection.leave()

    @property
    def steady(self) -> bool:
        """Whether its stream is wrong, so that it should stay for the tally."""
        return self._follower.faulty

    def faults(self) -> list[str]:
        """What is wrong with what it got, or did not get, in words that follow on "client 7"."""
        if self.trouble and not self.steady:
            return [self.trouble]
        return ([self.trouble] if self.trouble else []) + self._follower.faults()

    def _query(self, count: int) -> str:
        if count == 0:
            return "history=all"
        # Both are promised: the cursor, and its bare index.
        by_index = self.rng.random() < 0.2
        return f"after={self._stream.view.number(count - 1) if by_index else self._stream.cursors[count - 1]}"

    def _moved(self, before: int) -> None:
        follower, counts = self._follower, self._counts
        count = follower.count
        now_ns = time.monotonic_ns()
        if news := count - before:
            counts.delivered += news
            sent_ns = self._stream.sent_ns
            if sent_ns[before] >= self._current_ns:
                # Of what one read brings, the middle one stands for all: a sample each would cost as much as the rest.
                counts.latency.add(now_ns - sent_ns[before + news // 2], news)
                counts.latency.greatest_ns = max(counts.latency.greatest_ns, now_ns - sent_ns[before])
        if self.done_ns is None and follower.done:
            self.done_ns = counts.done_ns = now_ns
            counts.done += 1
            self.done.set()


def path_of(topic: Topic) -> str:
    """The path under which a gateway serves a topic."""
    node = f"/nodes/{quote(topic.node, safe='')}"
    return node if topic.job is None else f"{node}/jobs/{quote(topic.job, safe='')}"
