"""A gateway that is none: it passes on what a real one sends, but for what a test has it do to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Tamper = Callable[[int, str], Iterable[str]]
"""Takes an update's index and message; gives the messages that are sent in its place."""


@asynccontextmanager
async def tampering_gateway(gateway: str, tamper: Callable[[], Tamper], only: int | None = 0) -> AsyncIterator[str]:
    """Serve what a gateway serves, tampered with on the connection of that number, None for all. Gives the URL."""
    count = 0

    async def handle(client: ServerConnection) -> None:
        nonlocal count
        number, count = count, count + 1
        assert client.request is not None
        async with connect(f"{gateway}{client.request.path}", compression=None) as upstream:
            change: Tamper = tamper() if only in (None, number) else lambda _, message: [message]
            passing = asyncio.create_task(_pass_on(upstream, client, change))
            await client.wait_closed()
            passing.cancel()
            # What it has still to send would come before its answer to a close.
            upstream.transport.abort()

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _pass_on(upstream: AsyncIterator[object], client: ServerConnection, change: Tamper) -> None:
    with suppress(ConnectionClosed):
        async for message in upstream:
            assert isinstance(message, str)
            try:
                for changed in change(json.loads(message)["index"], message):
                    await client.send(changed)
            except Closing:
                await client.close(4003, "too slow")


class Closing(Exception):
    """Raised by a `Tamper` to have the connection closed as a gateway closes one that is too slow."""


def closing(index: int) -> Callable[[], Tamper]:
    """Close the connection in place of the update of that index."""

    def change(at: int, message: str) -> list[str]:
        if at == index:
            raise Closing
        return [message]

    return lambda: change


def losing(index: int) -> Callable[[], Tamper]:
    """Lose the update of that index."""
    return lambda: lambda at, message: [] if at == index else [message]


def doubling(index: int) -> Callable[[], Tamper]:
    """Send the update of that index twice."""
    return lambda: lambda at, message: [message] * (2 if at == index else 1)


def altering(index: int, old: str, new: str) -> Callable[[], Tamper]:
    """Alter the update of that index."""
    return lambda: lambda at, message: [message.replace(old, new) if at == index else message]


def swapping(index: int) -> Callable[[], Tamper]:
    """Send the update of that index behind the next."""

    def make() -> Tamper:
        held: list[str] = []

        def change(at: int, message: str) -> list[str]:
            if at == index:
                held.append(message)
                return []
            return [message, held.pop()] if held else [message]

        return change

    return make
