"""A hub on a log in memory, and who joins there, in an event loop that runs only when told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from streamer.core.cursor import Cursor
from streamer.core.names import Topic
from streamer.fanout.hub import HubSettings
from streamer.fanout.session import Session
from streamer.log.keys import Keys
from streamer.log.scripts import PAGE_RECORDS
from tests.fanout.fakes import FakeConnection, Gateway, StillLoop
from tests.fanout.model_log import ModelLog

SETTINGS = HubSettings(keep_s=3, check_s=5, open_timeout_s=5, stall_s=30)
NODE = Topic("n")


@dataclass
class Client:
    """Takes whatever comes."""

    data: bytes = b""
    ends: list[tuple[int, str]] = field(default_factory=list)

    @property
    def updates(self) -> int:
        """How many came."""
        return self.data.count(b'"index":')

    @property
    def cursors(self) -> list[tuple[int, int]]:
        """The epoch and the index of each, in order."""
        return [(int(epoch), int(index)) for epoch, index in re.findall(rb'"cursor":"\w+\.(\d+)\.(\d+)"', self.data)]

    def receive(self, data: bytes) -> None:
        self.data += data

    def closed(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))


def client_of(connection: FakeConnection) -> Client:
    """Who is at the other end."""
    return cast(Client, connection.client)


class House:
    """A log, a gateway, and who has joined there."""

    def __init__(self, loop: StillLoop) -> None:
        self.loop, self.log = loop, ModelLog(keep=1000)
        self.use(SETTINGS)

    def use(self, settings: HubSettings) -> None:
        self.gateway = Gateway(self.loop, self.log, settings)
        self.hub, self.redis = self.gateway.hub, self.gateway.redis

    def append(self, job: str | None, count: int) -> None:
        """Append updates, which are published in one message on each channel."""
        for channel_job, message in self.log.append([job] * count).items():
            self.redis.publish(Keys().records(Topic(NODE.node, channel_job)), message)

    def join(
        self, topic: Topic = NODE, after: Cursor | None = None, history: int | None = None
    ) -> tuple[Session, FakeConnection, asyncio.Task[None]]:
        """Have somebody locate and join, as soon as it goes on."""
        connection = FakeConnection(self.loop, Client())
        session = Session(cast(Any, connection), topic, self.hub.settings.stall_s)
        return session, connection, self.loop.create_task(self._join(session, after, history))

    async def _join(self, session: Session, after: Cursor | None, history: int | None) -> None:
        await self.hub.join(session, await self.hub.locate(session.topic, after, history))

    def settle(self, rounds: int = 4) -> None:
        """Have Redis answer and deliver all, and again what is asked then."""
        self.gateway.settle(rounds, most=PAGE_RECORDS)

    def lose_deliveries(self) -> None:
        """What is under way on all channels never arrives."""
        for subscription in self.redis.subscriptions.values():
            subscription.in_flight.clear()

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.loop.now += 1
            self.loop.turn(40)


@contextmanager
def built() -> Iterator[House]:
    """A house that is left clean."""
    loop = StillLoop()
    house = House(loop)
    try:
        yield house
    finally:
        loop.run_until_complete(house.hub.aclose())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.turn(40)
        loop.close()
