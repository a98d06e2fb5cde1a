"""A topic that is being followed, as an asynchronous iterator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from streamer.client.inbox import Inbox
from streamer.client.messages import Event
from streamer.client.reading import Reading
from streamer.core.names import Topic

T = TypeVar("T", bound=Event, covariant=True)


class Follow(Generic[T]):
    """The updates of a topic: those that the log keeps, then each as it comes, without end; see `Client.follow`.

    It begins with the first step, or as a context manager. It ends with `aclose`, with its client, or when nothing
    refers to it any more, so that one may simply leave the loop. A step that is cancelled takes nothing away. After an
    `Interrupted`, the next step goes on. For the event loop of its client.
    """

    def __init__(self, topic: Topic, reading: Reading, begin: Callable[[], tuple[Inbox, Callable[[], None]]]) -> None:
        self.topic = topic
        self._reading, self._begin = reading, begin
        self._inbox: Inbox | None = None
        self._leave: Callable[[], None] = lambda: None
        self._fetching = asyncio.Lock()
        self._ended = False

    @property
    def cursor(self) -> str | None:
        """The position behind the last update (or event) that was handed out: pass it as ``after`` to go on there, in
        this process or another. Stored together with what came of the update, it gives each exactly once.

        Before the first one it is where the follow began; None while that is not known.
        """
        if self._reading.cursor is None and self._inbox is not None:
            return self._inbox.start
        return self._reading.cursor

    @property
    def begun(self) -> bool:
        """Whether it follows, or did."""
        return self._inbox is not None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next update; with ``events``, the next event.

        Raises Missed, Rewound or LogReset where it was not asked for events; GatewayRefused, Unauthorized, InvalidName
        or InvalidCursor where it cannot go on; AlreadyFollowed or ClientClosed where it cannot begin.
        """
        while (event := self.at_hand()) is None:
            if not await self.fetch():
                raise StopAsyncIteration
        return event

    def at_hand(self) -> T | None:
        """The next event of those that were fetched, None where these are through. Raises as a step does."""
        return None if self._ended else cast("T | None", self._reading.next())

    async def fetch(self) -> bool:
        """Wait for more, when all is through; return whether there is any, which there is not at the end.

        Cancelled, it takes nothing away. Raises as a step does.
        """
        if self._ended:
            return False
        self._start()
        assert self._inbox is not None
        # A step that Ctrl-C has interrupted may have left a fetch behind it, which must not be overtaken.
        async with self._fetching:
            if self._reading.through:
                batch = await self._inbox.take()
                self._reading.turn_to(batch or ())
                return batch is not None
        return True

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End: what has come and was not taken is dropped. Closing twice changes nothing."""
        self.end()

    def end(self) -> None:
        """End, from any thread."""
        self._ended = True
        self._leave()

    def __del__(self) -> None:
        self._leave()

    def _start(self) -> None:
        if self._inbox is None:
            self._inbox, self._leave = self._begin()
