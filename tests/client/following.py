"""What tests of the client share."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from streamer.client import Follow, Update
from streamer.gateway.server import Gateway
from tests.gateway.clients import DEADLINE_S


class Hasty(Random):
    """Draws the shortest waits and the first gateway, and counts the waits."""

    drawn = 0

    def uniform(self, a: float, b: float) -> float:
        self.drawn += 1
        return a

    def randrange(self, *_: Any) -> int:
        return 0


def url(gateway: Gateway, scheme: str = "ws") -> str:
    """Where a gateway is."""
    return f"{scheme}://127.0.0.1:{gateway.port}"


async def take(follow: Follow[Any], count: int) -> list[Any]:
    """The next so many that come of a follow."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(follow) for _ in range(count)]


async def indexes(follow: Follow[Any], count: int) -> list[int]:
    """The indexes of the next updates, so many. Nothing else may come."""
    updates = await take(follow, count)
    assert all(isinstance(update, Update) for update in updates), updates
    return [update.index for update in updates]


async def numbers(follow: Follow[Any], count: int) -> list[int]:
    """What their publisher numbered the next updates, so many."""
    return [update.state["n"] for update in await take(follow, count)]
