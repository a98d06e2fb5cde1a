"""A topic's recent records in memory, shared by all who watch it.

Opening subscribes first and reads the log second; what arrives meanwhile is offered afterwards, and the chain of
indexes drops what was read already. Every later repair is the same step: read from the cursor to the head, offer what
arrived meanwhile. Records are taken in and handed to the live watchers in one go, without an await in between, so that
whoever joins sees each record either in the window or live, never both.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from random import Random
from typing import Protocol

from streamer.core.backoff import backoff
from streamer.core.cursor import START, Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.messages import plain_frame
from streamer.core.names import Topic
from streamer.core.records import unpack_message
from streamer.core.window import Outcome, Window
from streamer.log.reading import Reader
from streamer.log.scripts import Page

PENDING_BYTES = 8 << 20
"""How much may arrive while the log is read; beyond it all of that is dropped, and the log read once more."""

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """Whoever follows a feed. All methods are called in the event loop and must not block."""

    index: int

    def push(self, data: bytes) -> bool:
        """Send live frames; False, and nothing sent, where the connection takes no more at the moment."""

    def follow(self, index: int) -> None:
        """Read on from an index until the head is reached, then be live."""

    def gap(self, first: int, last: int) -> None:
        """Records were missed and are no longer kept. The watch ends."""

    def reset(self) -> None:
        """The log was started anew. The watch ends."""


@dataclass(frozen=True)
class Position:
    """Where a watcher joins: behind ``index`` of the log of that id and epoch.

    ``truncated``: older records than those that follow are no longer kept. ``missing``: the first and the last index
    of what a resuming watcher has missed for good. ``reset``: its cursor is of another log. ``era`` is the
    feed's at that moment: it is another object once the feed has been set back.
    """

    log_id: str
    epoch: int
    head: int
    index: int
    era: object
    truncated: bool = False
    missing: tuple[int, int] | None = None
    reset: bool = False


@dataclass
class Counts:
    """What all feeds of a hub have met so far."""

    appended: int = 0
    duplicates: int = 0
    repairs: int = 0
    gaps: int = 0
    resets: int = 0
    rewinds: int = 0


class Feed:
    """The feed of one topic; for one event loop.

    Args:
        topic: what it is a feed of.
        reader: where it reads the log.
        limit_bytes: how much of the topic it keeps at the most; the log has the rest.
        counts: where it counts what it meets.
        rng: spreads retries.
    """

    def __init__(self, topic: Topic, reader: Reader, limit_bytes: int, counts: Counts, rng: Random) -> None:
        self.topic = topic
        self.window = Window(of_job=topic.job is not None, frame=plain_frame, limit_bytes=limit_bytes)
        self.live: set[Watcher] = set()
        self.behind: set[Watcher] = set()
        self.era = object()
        self._reader, self._counts, self._rng = reader, counts, rng
        self._oldest = -1  # the index behind which the log's oldest record stood at the last start
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._reading: asyncio.Task[None] | None = None
        self._again = False

    @property
    def watched(self) -> bool:
        """Whether anybody follows."""
        return bool(self.live or self.behind)

    def open(self, subscribed: asyncio.Future[None]) -> asyncio.Future[None]:
        """Read what the log has, once the subscription is confirmed; what is returned is done when all is read."""
        return self._read_log(subscribed)

    def close(self) -> None:
        """Stop all work. Whoever still follows gets nothing more."""
        if self._reading is not None:
            self._reading.cancel()

    async def locate(self, after: Cursor | None, history: int | None) -> Position:
        """Find where a watcher joins: behind its cursor or, without one, so many records before the head (None: all).

        Within the window, and so for a herd of clients that come back, this asks nothing of Redis. Raises
        LogUnavailable where it has to ask.
        """
        window = self.window
        if after is not None:
            return await self._locate_cursor(after)
        if history is None:
            if window.start > self._oldest:  # the window has forgotten what the log may still have
                page = await self._reader.read(self.topic, START, limit=1)
                return self._position(page.missing[1] if page.missing else -1, truncated=page.missing is not None)
            return self._position(window.start, truncated=window.start > -1)
        index = window.before_last(history)
        if index is None:
            index = await self._reader.before_last(self.topic, history)
        return self._position(index)

    async def _locate_cursor(self, after: Cursor) -> Position:
        mine = self.window.cursor
        known = (after.log_id == mine.log_id and after.epoch == mine.epoch) or not after.log_id
        if known and self.window.start <= after.index <= mine.index:
            return self._position(after.index)
        page = await self._reader.read(self.topic, after, limit=1)
        return self._position(page.start, missing=page.missing, reset=page.reset)

    def _position(
        self, index: int, *, truncated: bool = False, missing: tuple[int, int] | None = None, reset: bool = False
    ) -> Position:
        mine = self.window.cursor
        return Position(mine.log_id, mine.epoch, mine.index, index, self.era, truncated, missing, reset)

    def take(self, messages: list[bytes]) -> None:
        """Take published messages: deliver what continues the chain, and read the log where something is missing."""
        if self._reading is None:
            self._offer(messages)
            return
        self._pending += messages
        self._pending_bytes += sum(map(len, messages))
        if self._pending_bytes > PENDING_BYTES:
            self._drop_pending()
            self._again = True

    def interrupted(self) -> None:
        """Read the log, since deliveries may have been lost."""
        self._read_log()

    async def check(self) -> None:
        """Look whether the log has more than was delivered, as after the loss of a last message."""
        try:
            page = await self._reader.read(self.topic, self.window.cursor, limit=1)
        except LogUnavailable:
            return  # whatever ails Redis, the next check finds what it has cost
        if page.reset or page.updates or page.start < self.window.cursor.index:
            self.interrupted()

    def _drop_pending(self) -> list[bytes]:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        return pending

    def _offer(self, messages: list[bytes]) -> None:
        before = self.window.cursor.index
        frames: list[bytes] = []
        lost = False
        for message in messages:
            try:
                log_id, updates = unpack_message(message)
            except ValueError as error:
                _log.error("what was published on %s cannot be read: %s", self.topic, error)
                lost = True
                continue
            lost = lost or log_id != self.window.cursor.log_id
            for update in updates:
                outcome, frame = self.window.offer(log_id, update)
                if outcome is Outcome.APPENDED:
                    frames.append(frame)
                elif outcome is Outcome.DUPLICATE:
                    self._counts.duplicates += 1
                else:
                    lost = True
        if frames:
            self._deliver(b"".join(frames), len(frames), before)
        if lost:
            self._counts.repairs += 1
            self.interrupted()

    def _deliver(self, data: bytes, count: int, before: int) -> None:
        self._counts.appended += count
        stalled = [watcher for watcher in self.live if not watcher.push(data)]
        for watcher in stalled:
            watcher.follow(before)

    def _read_log(self, subscribed: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        """Read from the cursor to the head, again if that is being done already."""
        self._again = True
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read_to_head(subscribed))
        return self._reading

    async def _read_to_head(self, subscribed: asyncio.Future[None] | None) -> None:
        try:
            if subscribed is not None:
                await subscribed
            while self._again:
                self._again = False
                while self._extend(await self._read_page()):
                    pass
                # Offering may find that the log must be read again; what was offered is there already then.
                self._offer(self._drop_pending())
        finally:
            self._reading = None

    async def _read_page(self) -> Page:
        for wait in backoff(self._rng):
            try:
                return await self._reader.read(self.topic, self.window.cursor)
            except LogUnavailable as error:
                _log.warning("reading %s failed: %s; next try in %.1f s", self.topic, error, wait)
            await asyncio.sleep(wait)
        raise AssertionError("the waits never end")

    def _extend(self, page: Page) -> bool:
        """Take a page in; return whether another must be read."""
        window = self.window
        if page.reset:
            self._counts.resets += 1
            self._set_back("", 0, -1)
            for watcher in [*self.live, *self.behind]:
                watcher.reset()
            return True
        if not window.cursor.log_id and page.log_id:
            self._set_back(page.log_id, 0, -1)
        elif page.start < window.cursor.index:
            self._counts.rewinds += 1
            self.era = object()
            window.rewind(page.start)
            for watcher in self.behind:
                watcher.index = min(watcher.index, page.start)
        if page.missing:
            first, last = page.missing
            # Those behind find it out when they read on. While the feed opens, there is nobody.
            self._counts.gaps += bool(self.live)
            for watcher in list(self.live):
                watcher.gap(first, last)
            self._set_back(page.log_id, page.epoch, last)
        if page.updates:
            before = window.cursor.index
            self._deliver(window.extend(page.updates), len(page.updates), before)
        return page.more > 0

    def _set_back(self, log_id: str, epoch: int, index: int) -> None:
        self.era = object()
        self.window.restart(log_id, epoch, index)
        self._oldest = index
