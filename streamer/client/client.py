"""A client of the gateways: several follows on one connection, which is made again whenever it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random
from types import TracebackType
from typing import Any, Literal, Self, overload

from websockets.asyncio.client import ClientConnection

from streamer.client.dialogue import Dialogue, Heard, Joined, Outcome, Postponed, Refused, Restart, Subscription
from streamer.client.errors import ClientClosed, GatewayRefused, GatewayUnreachable
from streamer.client.follow import Follow
from streamer.client.hearing import next_message
from streamer.client.inbox import Backlog, Inbox
from streamer.client.messages import Event, Update, read, write
from streamer.client.opening import PASSING, Opening
from streamer.client.reading import Reading
from streamer.core.backoff import backoff
from streamer.core.cursor import MAX_INDEX
from streamer.core.errors import InvalidCursor, InvalidInput
from streamer.core.names import Topic, check_job, check_node
from streamer.core.protocol import Format

BACKLOG_BYTES = 1 << 20
"""So many bytes of messages may wait for their consumers; then the socket is not read."""


class Client:
    """Follows topics through gateways; made by `connect`, for one event loop.

    All its follows share a connection and a bounded memory. Where the consumer of one takes nothing, nothing is read
    any more, and the others wait, too: nothing is lost, and the gateway may close the connection, which is made again.
    Who wants a follow that waits for no other connects another client.
    """

    def __init__(
        self, opening: Opening, format: Format, timeout: float | None, notify: Callable[[str], None], rng: Random
    ) -> None:
        self._opening, self._format, self._timeout, self._notify, self._rng = opening, format, timeout, notify, rng
        self._dialogue = Dialogue()
        self._backlog = Backlog(BACKLOG_BYTES)
        self._inboxes: dict[Subscription, Inbox] = {}
        self._waits: dict[Subscription, Iterator[float]] = {}
        self._to_say = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._error: BaseException | None = None
        self._reason = "no answer came"
        self._heard = False

    async def __aenter__(self) -> Self:
        """Connect.

        Raises GatewayRefused or Unauthorized where that can never work, GatewayUnreachable where it did not in time.
        """
        if self._running is not None:
            raise ClientClosed("a client can be entered once; `connect` gives a new one")
        loop = asyncio.get_running_loop()
        self._loop, self._running = loop, loop.create_task(self._run())
        try:
            await self._wait_until_connected(self._running)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _wait_until_connected(self, running: asyncio.Task[None]) -> None:
        connected = asyncio.create_task(self._connected.wait())
        try:
            await asyncio.wait([running, connected], timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            connected.cancel()
        if self._error is not None:
            raise self._error
        if running.done():
            raise ClientClosed("the client was closed before it had connected")
        if not self._connected.is_set():
            raise GatewayUnreachable(self._timeout or 0, self._reason)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all follows, whose loops end, and the connection, at once. Closing twice changes nothing."""
        if self._running is None:
            return
        self._running.cancel()
        for inbox in self._inboxes.values():
            inbox.end()
        self._inboxes.clear()
        await asyncio.wait([self._running])

    @overload
    def follow(
        self,
        node: str,
        job: str | None = None,
        *,
        after: str | int | None = None,
        history: str | int = "all",
        events: Literal[False] = False,
    ) -> Follow[Update]: ...

    @overload
    def follow(
        self,
        node: str,
        job: str | None = None,
        *,
        after: str | int | None = None,
        history: str | int = "all",
        events: Literal[True],
    ) -> Follow[Event]: ...

    def follow(
        self,
        node: str,
        job: str | None = None,
        *,
        after: str | int | None = None,
        history: str | int = "all",
        events: bool = False,
    ) -> Follow[Any]:
        """Follow a node, or a job of it: first what the log keeps, then each update as it comes, in order, once.

        Where the connection is lost it goes on behind the last update. Where that cannot be as if nothing had
        happened, it says so: with ``events`` by what it yields, else by an exception, and either way its next step
        goes on.

        | event | exception | |
        |---|---|---|
        | `Gap` | `Missed` | updates that were due are no longer kept |
        | `Rewind` | `Rewound` | a failover lost updates that had come; what the log has instead follows |
        | `Reset` | `LogReset` | the log was started anew; it goes on with its first update |
        | `Live` | | all that there was has come; after a lost connection again |

        Args:
            after: begin behind this: a follow's or an update's `cursor`, or an index if there is no better.
            history: without ``after``, how much comes first: `all`, `none`, or how many updates.
            events: yield all of `Update | Gap | Rewind | Reset | Live`.

        Raises InvalidName, InvalidInput, InvalidCursor; all else is raised by the follow's steps.
        """
        topic = Topic(check_node(node), job if job is None else check_job(job))
        if after is not None and history != "all":
            raise InvalidInput("give either `after` or `history`: a cursor says already what comes first")
        if history not in ("all", "none") and not (isinstance(history, int) and 0 <= history <= MAX_INDEX):
            raise InvalidInput(f"`history` is all, none, or how many updates come first, not {history!r}")
        cursor = None if after is None else str(after)
        if cursor is not None and not cursor.isascii():
            raise InvalidCursor(f"{cursor[:80]!a} is no cursor")
        return Follow(topic, Reading(events, cursor), partial(self._begin, topic, cursor, history))

    # Follows.

    def _begin(self, topic: Topic, cursor: str | None, history: str | int) -> tuple[Inbox, Callable[[], None]]:
        if self._error is not None:
            raise self._error
        if self._running is None or self._running.done():
            raise ClientClosed("the client is closed, or not entered yet: use it in `async with connect(…)`")
        subscription = Subscription(topic, cursor, history)
        self._dialogue.want(subscription)
        self._to_say.set()
        inbox = self._inboxes[subscription] = Inbox(self._backlog, cursor)
        return inbox, partial(self._leave_soon, subscription)

    def _leave_soon(self, subscription: Subscription) -> None:
        """Leave, from whatever thread a follow is forgotten in."""
        if subscription not in self._inboxes:
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._leave(subscription)
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._leave, subscription)

    def _leave(self, subscription: Subscription) -> None:
        inbox = self._inboxes.pop(subscription, None)
        if inbox is not None:
            self._waits.pop(subscription, None)
            self._dialogue.leave(subscription)
            self._to_say.set()
            inbox.end()

    # The connection.

    async def _run(self) -> None:
        """Be connected, until that can never work any more."""
        try:
            await self._connect_again_and_again()
        except Exception as error:
            self._error = error
            for inbox in self._inboxes.values():
                inbox.end(error)
        finally:
            self._dialogue.disconnect()

    async def _connect_again_and_again(self) -> None:
        waits, waited = backoff(self._rng), False
        while True:
            try:
                connection = await self._opening.open()
                try:
                    if waited:
                        self._notify("connected")
                    self._connected.set()
                    await self._converse(connection)
                    reason = "the gateway has another idea of what is followed"
                finally:
                    # The gateway's answer to a close would come behind all that it has still to send.
                    connection.transport.abort()
            except PASSING as error:
                reason = self._opening.reason(error)
            if self._heard:
                waits = backoff(self._rng)
            self._heard = False
            wait, waited = next(waits), True
            self._reason = reason
            self._notify(f"{reason}; next try in {wait:.1f} s")
            await asyncio.sleep(wait)

    async def _converse(self, connection: ClientConnection) -> None:
        """Say what is to be said, and hear what comes. Raises ConnectionClosed; returns where another is needed."""
        self._dialogue.connect()
        self._to_say.set()
        saying = asyncio.create_task(self._say(connection))
        try:
            while True:
                await self._backlog.room()
                data = await next_message(connection)
                self._heard = True
                try:
                    message = read(self._format, data)
                except ValueError as error:
                    raise GatewayRefused(f"what {self._opening.url} sends is no v1: {error}") from error
                outcome = None if message is None else self._dialogue.receive(message)
                if isinstance(outcome, Restart):
                    return
                if outcome is not None:
                    self._meet(outcome, len(data))
        finally:
            self._dialogue.disconnect()
            saying.cancel()
            await asyncio.wait([saying])

    async def _say(self, connection: ClientConnection) -> None:
        # That it is lost is what the other task hears, too.
        with suppress(*PASSING):
            while True:
                await self._to_say.wait()
                self._to_say.clear()
                for request in self._dialogue.unsaid():
                    await connection.send(write(self._format, request))

    def _meet(self, outcome: Outcome, size: int) -> None:
        match outcome:
            case Heard(subscription, events):
                self._waits.pop(subscription, None)
                self._inboxes[subscription].put(events, size)
            case Joined(subscription, cursor):
                inbox = self._inboxes[subscription]
                inbox.start = inbox.start or cursor
            case Postponed(subscription, reason):
                self._ask_later(subscription, reason)
            case Refused(subscription, error):
                self._inboxes.pop(subscription).end(error)

    def _ask_later(self, subscription: Subscription, reason: str) -> None:
        wait = next(self._waits.setdefault(subscription, backoff(self._rng)))
        self._notify(f"{subscription.topic}: {reason}; next try in {wait:.1f} s")
        self._loop.call_later(wait, self._ask, subscription)

    def _ask(self, subscription: Subscription) -> None:
        self._dialogue.ask(subscription)
        self._to_say.set()
