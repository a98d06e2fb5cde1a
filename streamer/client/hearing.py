"""What a connection brings next, or that it is dead."""

from __future__ import annotations

import asyncio

from websockets.asyncio.client import ClientConnection

SILENT_S = 20.0
"""After so long without a message the gateway is asked for a sign of life, and given as long again for it."""


async def next_message(connection: ClientConnection) -> str | bytes:
    """The next message. Raises ConnectionClosed, or ConnectionError where nothing is heard, not even a pong."""
    pong: asyncio.Future[float] | None = None
    while True:
        try:
            async with asyncio.timeout(SILENT_S):
                return await connection.recv()
        except TimeoutError:
            if pong is not None and not pong.done():
                raise ConnectionError("the gateway gives no sign of life") from None
            async with asyncio.timeout(SILENT_S):
                pong = asyncio.ensure_future(await connection.ping())
