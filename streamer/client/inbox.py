"""What has come for a follow and was not taken yet, within a bound that all follows of a client share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from streamer.client.messages import Event


class Backlog:
    """How many bytes of messages were not taken yet; for one event loop. Who reads the socket waits for room."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._room = asyncio.Event()
        self._room.set()

    def add(self, size: int) -> None:
        """So many bytes more wait (or, where it is negative, less)."""
        self._bytes += size
        if self._bytes < self._most:
            self._room.set()
        else:
            self._room.clear()

    async def room(self) -> None:
        """Return once less waits than may."""
        await self._room.wait()


class Inbox:
    """What has come for one follow, a message at a time; for one event loop.

    ``start`` is the cursor before all that comes, None until that is known.
    """

    def __init__(self, backlog: Backlog, start: str | None) -> None:
        self._backlog = backlog
        self._messages: deque[tuple[Sequence[Event], int]] = deque()
        self._came = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self.start = start

    def put(self, events: Sequence[Event], size: int) -> None:
        """A message of so many bytes has come."""
        if not self._ended:
            self._backlog.add(size)
            self._messages.append((events, size))
            self._came.set()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes. With an error, which is raised behind what has come; else what has come is dropped."""
        if self._ended:
            return
        self._ended, self._error = True, error
        if error is None:
            while self._messages:
                self._backlog.add(-self._messages.popleft()[1])
        self._came.set()

    async def take(self) -> Sequence[Event] | None:
        """Return what the next message brought, once there is one; None at the end. Cancelled, it has taken nothing.

        Raises the error that it ended with.
        """
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._came.clear()
            await self._came.wait()
        events, size = self._messages.popleft()
        self._backlog.add(-size)
        return events
