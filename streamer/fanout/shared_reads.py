"""Reads that all who ask for the same at the same time share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SharedReads(Generic[K, T]):
    """Reads under way, by what was asked for; for one event loop."""

    def __init__(self) -> None:
        self._reads: dict[K, asyncio.Task[T]] = {}

    async def get(self, key: K, read: Callable[[], Awaitable[T]]) -> T:
        """What reading gives. Raises what reading raises.

        However many ask meanwhile, it is read once. May be cancelled, which leaves the others their answer.
        """
        reading = self._reads.get(key)
        if reading is None:
            reading = self._reads[key] = asyncio.get_running_loop().create_task(self._run(key, read))
            reading.add_done_callback(_no_fault)
        # Not `shield`, which says of an error that nobody waits for any more, that nobody has looked at it.
        await asyncio.wait([reading])
        return reading.result()

    async def _run(self, key: K, read: Callable[[], Awaitable[T]]) -> T:
        try:
            return await read()
        finally:
            # At once, not when the task is done: what was true a moment ago is not for those who ask from now on.
            del self._reads[key]

    def close(self) -> None:
        """End what is being read. Those who wait for it are cancelled."""
        for reading in self._reads.values():
            reading.cancel()


def _no_fault(reading: asyncio.Task[T]) -> None:
    """Look at an error, if there is one: whoever waited for it may have left."""
    if not reading.cancelled():
        reading.exception()
