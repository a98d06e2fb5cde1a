"""A process of clients in a storm: `python -m workers.bench.storm.clients`, told what to do on its input."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec

from streamer.client.watching import path_of
from streamer.core.backoff import backoff
from streamer.core.messages import GAP, RESET, TOO_SLOW
from streamer.core.names import Topic
from workers.bench.client import Target
from workers.bench.connection import BROKEN, Connection, Ending
from workers.bench.frames import NORMAL_CLOSURE, Refused
from workers.bench.histogram import Histogram
from workers.bench.load import read_input
from workers.bench.orders import MOST_FAULTS, tell
from workers.bench.storm.content import Name
from workers.bench.storm.course import Seen
from workers.bench.storm.orders import (
    ClientsNews,
    ClientsOrder,
    ClientsReport,
    Ends,
    Judge,
    Leave,
    Places,
    Stall,
    Told,
)
from workers.bench.storm.recording import Life
from workers.event_loops import loop_factory

NEWS_S = 0.1
CONNECT_S = 2.0
"""A gateway that does not open the WebSocket within so long is left for another."""

CLOSE_S = 10.0

_WRONG = (RESET, GAP, TOO_SLOW)
"""Close codes that mean that updates were missed, or that a client was too slow: in a storm none ever is."""

Ways = dict[Topic, list[Seen[Name]]]


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


class Clients:
    """The clients of one process, for one event loop."""

    def __init__(self, order: ClientsOrder) -> None:
        self._counts = Counts()
        self._clients = {
            number: Client(number, topic_of(number, order), order, self._counts)
            for number in range(order.first, order.first + order.clients)
        }
        self._tasks = [asyncio.create_task(client.live()) for client in self._clients.values()]
        self._ways: Ways | None = None

    async def do(self, told: Told) -> None:
        """Do what the command says."""
        match told:
            case Stall(numbers, lasts_s):
                for client in self._named(numbers):
                    client.stall(lasts_s)
            case Leave(numbers, anew):
                for client in self._named(numbers):
                    client.leave(anew=anew)
            case Ends(file):
                self._ways = _read_ways(Path(file))
            case Judge():
                tell(await self._judge())

    def news(self) -> ClientsNews:
        """How far all are. Raises whatever no client may raise."""
        for task in self._tasks:
            if task.done():
                task.result()
        clients = self._clients.values()
        return ClientsNews(
            self._counts.connected, sum(client.delivered for client in clients), sum(map(self._is_done, clients))
        )

    def _named(self, numbers: list[int]) -> list[Client]:
        return [self._clients[number] for number in numbers if number in self._clients]

    def _is_done(self, client: Client) -> bool:
        if self._ways is None:
            return False
        way = self._ways[client.topic]
        return client.at(way[-1] if way else None)

    async def _judge(self) -> ClientsReport:
        for client in self._clients.values():
            client.finish()
        await asyncio.wait(self._tasks, timeout=CLOSE_S)
        clients, counts, ways = self._clients.values(), self._counts, self._ways or {}
        faults = [fault for client in clients for fault in client.faults(ways[client.topic])]
        return ClientsReport(
            sum(client.delivered for client in clients),
            counts.latency,
            counts.lost,
            counts.closed,
            counts.failed,
            counts.stalls,
            counts.anew,
            sum(client.replaced for client in clients),
            counts.outage_ns,
            faults[:MOST_FAULTS],
            len(faults[MOST_FAULTS:]),
        )


def topic_of(number: int, order: ClientsOrder) -> Topic:
    """What the client of that number watches: of each node some have all, and some a job each."""
    turn, node = divmod(number, len(order.nodes))
    jobs = order.content.job_names
    return Topic(order.nodes[node], None if turn % 2 == 0 or not jobs else jobs[turn // 2 % len(jobs)])


def _read_ways(file: Path) -> Ways:
    nodes = msgspec.msgpack.decode(file.read_bytes(), type=dict[str, Places])
    return {
        Topic(node, job or None): [Seen(epoch, index, before, Name(*name)) for epoch, index, before, name in way]
        for node, places in nodes.items()
        for job, way in places.topics.items()
    }


async def _serve(order: ClientsOrder) -> None:
    told = await read_input()
    clients = Clients(order)
    obeying = asyncio.create_task(_obey(clients, told))
    telling = asyncio.create_task(_tell_news(clients))
    await asyncio.wait([obeying, telling], return_when=asyncio.FIRST_COMPLETED)
    if telling.done():
        telling.result()
    telling.cancel()
    obeying.result()


async def _obey(clients: Clients, told: asyncio.StreamReader) -> None:
    decode = msgspec.json.Decoder(Told).decode
    while line := await told.readline():
        await clients.do(decode(line))


async def _tell_news(clients: Clients) -> None:
    while True:
        tell(clients.news())
        await asyncio.sleep(NEWS_S)


def main() -> None:
    """Take the order from the first line, and then do what the next ones say, until the input ends."""
    # Without a buffer: what follows is the event loop's to read.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as told:
        order = msgspec.json.decode(told.readline(), type=ClientsOrder)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(order))


if __name__ == "__main__":
    main()
