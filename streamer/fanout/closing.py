"""Closing a connection in the background, within bounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

CLOSE_S = 10.0
"""How long the closing of a connection may take; then it is cut off."""

_closing: set[asyncio.Task[None]] = set()


def close_soon(connection: ServerConnection, code: int, reason: str) -> None:
    """Close a connection in the background: within CLOSE_S, whatever the client does."""
    task = asyncio.get_running_loop().create_task(_close(connection, code, reason))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _close(connection: ServerConnection, code: int, reason: str) -> None:
    try:
        # It waits for a connection that takes nothing, and for the client's answer.
        async with asyncio.timeout(CLOSE_S):
            await connection.close(code, reason)
    except TimeoutError:
        connection.transport.abort()
