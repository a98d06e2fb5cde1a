"""Watchers that know what must arrive, through a gateway, whatever happens to Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streamer.core.records import Update
from streamer.log.keys import Keys
from streamer.log.reading import Reader
from tests.gateway.clients import path
from tests.gateways import GatewayProcess
from tests.sentinels import DEADLINE_S
from workers.bench.storm.course import Course
from workers.bench.storm.course import Seen as Placed

NEVER_S = "3600"
"""For `--check-s`: what is found is then not found by looking."""


class Seen(NamedTuple):
    """An update as a watcher got it, and what its publisher numbered it."""

    epoch: int
    index: int
    number: int


class Watcher:
    """Keeps what one connection brings, in order. That it ends is a fault."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.cursor: str | None = None
        """Of the last update seen."""
        self._came = asyncio.Event()

    @property
    def indexes(self) -> list[int]:
        """The indexes of all, in order."""
        return [seen.index for seen in self.seen]

    async def until(self, what: str, condition: Callable[[list[Seen]], object]) -> None:
        """Return once the condition holds for what was seen; fail, naming what was waited for, where it does not."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition(self.seen):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            pytest.fail(f"{what}: not within {DEADLINE_S:g} s; seen are {len(self.seen)}, the last {self.seen[-3:]}")

    async def until_index(self, index: int) -> None:
        """Return once an index has come."""
        await self.until(f"index {index} arrives", lambda seen: seen and seen[-1].index >= index)

    async def follow(self, connection: Any) -> None:
        """Take what comes, until cancelled."""
        try:
            async for text in connection:
                message = json.loads(text)
                self.cursor = message["cursor"]
                _, epoch, _ = message["cursor"].split(".")
                self.seen.append(Seen(int(epoch), message["index"], message["state"].get("n", -1)))
                self._came.set()
        except ConnectionClosed:
            pass
        pytest.fail(f"the connection was closed: {connection.close_code} {connection.close_reason}")


@asynccontextmanager
async def watching(
    gateway: GatewayProcess, node: str, job: str | None = None, **query: object
) -> AsyncIterator[Watcher]:
    """Someone who watches a node, or a job of it, to the end of the block."""
    watcher = Watcher()
    async with connect(gateway.url + path(node, job, **query), compression=None, max_size=None) as connection:
        following = asyncio.create_task(watcher.follow(connection))
        try:
            yield watcher
        finally:
            if following.done():
                following.result()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reader]:
    """Someone who reads the log without a gateway, to the end of the block."""
    reader = Reader(url, Keys())
    try:
        yield reader
    finally:
        await reader.aclose()


async def eventually(what: str, condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """Return once the condition holds, which is asked in a thread; fail, naming what was waited for."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{what}: not within {deadline_s:g} s")


def check_against_log(watcher: Watcher, log: list[Update]) -> None:
    """Fail unless what was seen is the log: in order, without a hole, each once in its epoch.

    Where a master was lost with its last updates, the next epoch begins with what the log has instead of them.
    """
    course: Course[int] = Course()
    for epoch, index, number in watcher.seen:
        course.take(Placed(epoch, index, index - 1, number))
    places = [Placed(update.epoch, update.index, update.index - 1, update.state.get("n", -1)) for update in log]
    assert course.against(places) == []
