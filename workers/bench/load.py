"""A process full of clients: `python -m workers.bench.load`, which is told what to do on its standard input."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

from streamer.core.names import Topic
from workers.bench.client import CannotConnect, Client, Counts, Target
from workers.bench.content import View
from workers.bench.following import Stream
from workers.bench.histogram import Histogram
from workers.bench.orders import MOST_FAULTS, LoadNews, LoadOrder, LoadReport, tell
from workers.bench.process import read_input, run_order, tell_news
from workers.bench.restless import Acts, Restless

CLOSE_S = 10.0
"""Within this time the gateway must answer a close."""


class Load:
    """The clients of one process, for one event loop. ``broken`` has the error that none of them may raise."""

    def __init__(self, order: LoadOrder) -> None:
        self._order = order
        self._target = Target.of(order.gateway)
        self._counts, self._acts = Counts(), Acts()
        streams = [Stream(view) for view in _views(order)]
        self._clients = [
            self._make_client(number, streams[number % len(streams)])
            for number in range(order.first, order.first + order.clients)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._began_ns = 0
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Let the clients connect."""
        self._began_ns = time.monotonic_ns()
        turn = asyncio.Semaphore(self._order.at_once)
        until = time.monotonic() + self._order.restless_s
        restless = Restless(self._target, self._order.timeout_s, until, self._acts)
        for client in self._clients:
            live = restless.live(client) if self._order.restless_s else self._live(client, turn)
            task = asyncio.create_task(live)
            task.add_done_callback(self._notice)
            self._tasks.append(task)

    async def finish(self) -> LoadReport:
        """Have each client close in order, hear what the gateway sent before it, and judge."""
        for client in self._clients:
            client.finish()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for client, task in zip(self._clients, self._tasks, strict=True):
            if not task.done():
                client.fail(f"got no answer to its close within {CLOSE_S:g} s")
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._report()

    def news(self) -> LoadNews:
        """How far all is."""
        counts = self._counts
        unfinished = sum(client.done_ns is None for client in self._clients if client.trouble or client.steady)
        return LoadNews(counts.connected, counts.delivered, counts.done, unfinished)

    def _notice(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self.broken.done():
            self.broken.set_exception(error)

    async def _live(self, client: Client, turn: asyncio.Semaphore) -> None:
        try:
            async with turn:
                connection = await client.connect(self._target, self._order.timeout_s)
        except CannotConnect as error:
            client.fail(f"could not connect: {error}")
            return
        ending = await connection.lost
        if not client.finishing:
            client.fail(f"lost its connection ({ending})")

    def _make_client(self, number: int, stream: Stream) -> Client:
        job = stream.view.job
        topic = Topic(self._order.node, None if job is None else self._order.content.job(job))
        return Client(number, topic, stream, self._counts, Random(f"{self._order.content.seed}:{number}"))

    def _report(self) -> LoadReport:
        faults = [
            f"client {client.number} of {client.topic} {text}" for client in self._clients for text in client.faults()
        ]
        joining = Histogram()
        for client in self._clients:
            if client.done_ns is not None:
                joining.add(client.done_ns - self._began_ns)
        acts, counts = self._acts, self._counts
        return LoadReport(
            counts.delivered,
            counts.done_ns,
            counts.latency,
            joining,
            faults[:MOST_FAULTS],
            len(faults[MOST_FAULTS:]),
            acts.resumed,
            acts.lost,
            acts.renewed,
            acts.stalls,
        )


def _views(order: LoadOrder) -> list[View]:
    """What its clients watch in turn: the node, and each of its jobs."""
    return [View(order.content), *(View(order.content, job) for job in range(order.content.jobs))]


async def _serve(order: LoadOrder) -> None:
    """Do what the command says; return where it says nothing more."""
    told = await read_input()
    load = Load(order)
    tell(load.news())
    if not await told.readline():
        return
    load.start()
    telling = asyncio.create_task(tell_news(load.news))
    finish = asyncio.ensure_future(told.readline())
    ends: list[asyncio.Future[Any]] = [finish, load.broken]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    if load.broken.done():
        load.broken.result()
    if await finish:
        tell(await load.finish())
        await told.readline()


def main() -> None:
    """Take the order from the first line, and then do what the next ones say, until the input ends."""
    run_order(LoadOrder, _serve)


if __name__ == "__main__":
    main()
