"""A process of clients in a storm: `python -m workers.bench.storm.clients`, told what to do on its input."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from streamer.core.names import Topic
from workers.bench.orders import MOST_FAULTS, tell
from workers.bench.process import read_input, run_order, tell_news
from workers.bench.storm.client import Client, Counts
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

CLOSE_S = 10.0
"""Within this time the gateways must answer a close."""

Ways = dict[Topic, list[Seen[Name]]]


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
    telling = asyncio.create_task(tell_news(clients.news))
    await asyncio.wait([obeying, telling], return_when=asyncio.FIRST_COMPLETED)
    if telling.done():
        telling.result()
    telling.cancel()
    obeying.result()


async def _obey(clients: Clients, told: asyncio.StreamReader) -> None:
    decode = msgspec.json.Decoder(Told).decode
    while line := await told.readline():
        await clients.do(decode(line))


def main() -> None:
    """Take the order from the first line, and then do what the next ones say, until the input ends."""
    run_order(ClientsOrder, _serve)


if __name__ == "__main__":
    main()
