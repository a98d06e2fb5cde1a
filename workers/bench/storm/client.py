"""A client of a storm: it watches a topic through any gateway, across its connections."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from random import Random

from streamer.core.backoff import backoff
from streamer.core.messages import GAP, RESET, TOO_SLOW
from streamer.core.names import Topic
from workers.bench.client import Target, path_of
from workers.bench.connection import BROKEN, Connection, Ending
from workers.bench.frames import NORMAL_CLOSURE, Refused
from workers.bench.histogram import Histogram
from workers.bench.storm.content import Name
from workers.bench.storm.course import Seen
from workers.bench.storm.orders import ClientsOrder
from workers.bench.storm.recording import Life

CONNECT_S = 2.0
"""A gateway that does not open the WebSocket within so long is left for another."""

_WRONG = (RESET, GAP, TOO_SLOW)
"""Close codes that mean that updates were missed, or that a client was too slow: in a storm none ever is."""


class Counts:
    """What happened to all clients of a process."""

    def __init__(self) -> None:
        self.connected = self.lost = self.closed = self.failed = self.stalls = self.anew = self.outage_ns = 0
        self.latency = Histogram()


class Client:
    """One client, whose connections come one after another, each to any gateway."""

    def __init__(self, number: int, topic: Topic, order: ClientsOrder, counts: Counts) -> None:
        self.number, self.topic = number, topic
        self._content, self._counts = order.content, counts
        self._targets = [Target.of(gateway) for gateway in order.gateways]
        self._rng = Random(f"{order.content.seed}:client:{number}")
        self._late_s = self._rng.uniform(0, order.late_s)
        self._lives = [self._new_life()]
        self._connection: Connection | None = None
        self._current_ms = sys.maxsize
        self._resume_at: asyncio.TimerHandle | None = None
        self._finishing = False
        self._faults: list[str] = []
        self._trouble: str | None = None

    async def live(self) -> None:
        """Come, and come back after each loss, until `finish`."""
        await asyncio.sleep(self._late_s)
        lost_ns = time.monotonic_ns()
        waits = self._waits()
        while not self._finishing:
            try:
                connection = await self._connect()
            except (Refused, OSError, TimeoutError) as error:
                self._counts.failed += 1
                self._trouble = f"cannot connect: {error or type(error).__name__}"
                await asyncio.sleep(next(waits))
                continue
            self._counts.outage_ns = max(self._counts.outage_ns, time.monotonic_ns() - lost_ns)
            self._note_connected()
            ending = await connection.lost
            lost_ns, waits = time.monotonic_ns(), self._waits()
            self._connection = None
            self._note(ending)

    def stall(self, lasts_s: float) -> None:
        """Read nothing for so long."""
        connection = self._connection
        if connection is not None and self._resume_at is None:
            self._counts.stalls += 1
            self._current_ms = sys.maxsize
            connection.stall()
            self._resume_at = asyncio.get_running_loop().call_later(lasts_s, self._read_on, connection)

    def leave(self, *, anew: bool) -> None:
        """Go without a word; the next connection goes on from the cursor, or is somebody else's, who has nothing."""
        if self._connection is not None:
            self._connection.abort()
        if anew:
            self._counts.anew += 1
            self._lives.append(self._new_life())

    def finish(self) -> None:
        """Close in order, and open no other connection."""
        self._finishing = True
        if self._connection is not None:
            self._connection.leave()

    @property
    def delivered(self) -> int:
        """How many updates it got in all its lives."""
        return sum(life.count for life in self._lives)

    @property
    def replaced(self) -> int:
        """How many updates that it had a new epoch replaced."""
        return sum(life.course.replaced for life in self._lives)

    def at(self, last: Seen[Name] | None) -> bool:
        """Whether that is the update that came last."""
        return self._lives[-1].course.last == last

    def faults(self, log: list[Seen[Name]]) -> Iterator[str]:
        """Say what is wrong with what it got, given what the topic has."""
        *ended, last = (life.course for life in self._lives)
        texts = itertools.chain(
            self._faults,
            [self._trouble] if self._trouble else [],
            *(course.against(log, to_the_end=False) for course in ended),
            last.against(log),
        )
        return (f"client {self.number} of {self.topic} {text}" for text in texts)

    def _new_life(self) -> Life:
        return Life(self.topic, self._content, self._measure)

    def _waits(self) -> Iterator[float]:
        return backoff(self._rng, first_s=0.05, most_s=1.0)

    async def _connect(self) -> Connection:
        """Connect to some gateway. Raises Refused, OSError, TimeoutError."""
        target, life = self._rng.choice(self._targets), self._lives[-1]
        self._current_ms = sys.maxsize  # what comes first may be history
        life.resume()
        query = "history=all" if life.cursor is None else f"after={life.cursor}"
        path = f"{target.prefix}{path_of(self.topic)}?{query}"
        connection = None
        try:
            async with asyncio.timeout(CONNECT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(target.host_header, path, life, lambda before: None),
                    target.address,
                    target.port,
                    ssl=target.tls,
                )
                await connection.opened
        except BaseException:
            if connection is not None:
                connection.abort()
                await connection.lost
            raise
        self._connection = connection
        if self._finishing:
            connection.leave()
        elif life is not self._lives[-1]:
            connection.abort()
        return connection

    def _note_connected(self) -> None:
        self._trouble = None
        self._current_ms = time.time_ns() // 1_000_000
        self._counts.connected += self.delivered == 0 and len(self._lives) == 1

    def _note(self, ending: Ending) -> None:
        if self._resume_at is not None:
            self._resume_at.cancel()
            self._resume_at = None
        if self._finishing:
            return
        self._counts.lost += 1
        self._counts.closed += ending.code not in (BROKEN, NORMAL_CLOSURE)
        if ending.code in _WRONG:
            self._faults.append(f"was sent away ({ending})")
            self._lives.append(self._new_life())

    def _read_on(self, connection: Connection) -> None:
        self._resume_at = None
        self._current_ms = time.time_ns() // 1_000_000
        connection.read_on()

    def _measure(self, timestamp: int) -> None:
        if timestamp >= self._current_ms:
            self._counts.latency.add(max(0, time.time_ns() - timestamp * 1_000_000))
