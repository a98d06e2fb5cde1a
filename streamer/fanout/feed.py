"""A topic's recent records in memory, shared by all who watch it.

Opening subscribes first and reads the log second; what arrives meanwhile is offered afterwards, and the chain of
indexes drops what was read already. Every later repair is the same step: read from the cursor to the head, offer what
arrived meanwhile. Records are taken in and handed to the live watchers in one go, without an await in between, so that
whoever joins sees each record either in the window or live, never both.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from streamer.core.backoff import backoff
from streamer.core.errors import LogUnavailable
from streamer.core.latencies import Latencies
from streamer.core.messages import plain_frame
from streamer.core.names import Topic
from streamer.core.records import Update, unpack_message
from streamer.core.window import Chunk, Outcome, Window, blocks_of
from streamer.fanout.fresh_reads import read_fresh
from streamer.fanout.locating import Locator
from streamer.fanout.older import Found, Gone, Nothing, Older
from streamer.fanout.unheard import Unheard
from streamer.fanout.watchers import Watcher, Watchers
from streamer.log.reading import Head, Reader
from streamer.log.scripts import Page

OPENED_RECORDS = 10_000
"""How many of the last records a feed reads when it is opened. Who is owed more reads that from the log."""

PENDING_BYTES = 8 << 20
"""How much may arrive while the log is read; beyond it all of that is dropped, and the log read once more."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What all feeds of a hub have met so far; HubStatistics says what each field counts."""

    appended: int = 0
    duplicates: int = 0
    repairs: int = 0
    gaps: int = 0
    resets: int = 0
    rewinds: int = 0
    epochs: int = 0
    read_retries: int = 0
    latencies: Latencies = field(default_factory=Latencies)


class Feed:
    """The feed of one topic; for one event loop.

    Args:
        topic: what it is a feed of.
        reader: where it reads the log.
        counts: where it counts what it meets.
        grew: is told how many bytes more it has in memory.
        rng: spreads retries.
    """

    def __init__(self, topic: Topic, reader: Reader, counts: Counts, grew: Callable[[int], None], rng: Random) -> None:
        self.topic = topic
        self.window = Window(of_job=topic.job is not None, frame=plain_frame)
        self.watchers = Watchers()
        self.locator = Locator(topic, self.window, reader, self.catch_up)
        self._reader, self._counts, self._grew, self._rng = reader, counts, grew, rng
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._reading: asyncio.Task[None] | None = None
        self._again = self._opened = False
        self._unheard = Unheard()
        self._last_look = (-1, -1)
        self.older = Older(self._read_older, grew)

    @property
    def size_bytes(self) -> int:
        """How much it holds in memory."""
        return self.window.size_bytes + self.older.size_bytes

    def give_up_oldest(self) -> bool:
        """Hold less in memory, if it holds anything: the log has the rest."""
        if self.older.size_bytes:
            self.older.forget()
            return True
        return self.window.forget_oldest()

    def open(self, subscribed: asyncio.Future[None]) -> asyncio.Future[None]:
        """Read what the log has, once the subscription is confirmed; what is returned is done when all is read."""
        return self._read_log(subscribed)

    def close(self) -> None:
        """Stop all work. Whoever still follows gets nothing more."""
        if self._reading is not None:
            self._reading.cancel()
        self.locator.close()
        self.older.close()

    # Watchers are told what they cannot have.

    def tell_gap(self, watcher: Watcher, first: int, last: int) -> None:
        """Tell a watcher which updates it has missed for good."""
        self._counts.gaps += 1
        watcher.gap(first, last)

    def tell_reset(self, watcher: Watcher) -> None:
        """Tell a watcher that its cursor is not of this log."""
        self._counts.resets += 1
        watcher.reset()

    # Watchers read on.

    async def read_back(self, watcher: Watcher) -> Chunk:
        """The next frames for a watcher further behind than the window, from the log.

        They are empty, and the watcher's index may be another, where it has to look again. The watcher is told where
        what follows is no longer kept. Raises LogUnavailable.
        """
        index, mine = watcher.index, self.window.cursor
        chunk = await self.older.after(index, watcher.encoding)
        moved = self.window.cursor.at(0) != mine.at(0)  # to another log or epoch, and the chunk may be of the old one
        if chunk is None or moved or watcher.index != index:
            return Chunk(b"", watcher.index)
        if isinstance(chunk, Gone):
            self.tell_gap(watcher, index + 1, chunk.last)
            return Chunk(b"", watcher.index)
        return chunk if isinstance(chunk, Chunk) else Chunk(b"", chunk.last)

    async def _read_older(self, index: int) -> Found:
        """Read what stands behind an index."""
        page = await self._reader.read(self.topic, self.window.cursor.at(index))
        if page.start == index and self.window.knows(page) and not page.reset:
            if page.missing:
                return Gone(page.missing[1])
            # What the feed has not got yet, it is going to deliver.
            mine = self.window.cursor
            known = [update for update in page.updates if update.index <= mine.index and update.epoch <= mine.epoch]
            if known:
                return blocks_of((update.cursor(page.log_id), plain_frame(page.log_id, update)) for update in known)
        await self.catch_up()
        if page.updates or page.start < index or index >= self.window.start or not self.window.knows(page):
            return []
        if page.forgotten:
            return Gone(self.window.start)
        # As where the window begins with an epoch, at an index that is no record's of the job.
        return Nothing(max(index, min(self.window.start, page.head)))

    # Records come in.

    def take(self, messages: list[bytes]) -> None:
        """Take published messages: deliver what continues the chain, and read the log where something is missing."""
        if self._reading is None:
            self._offer(messages)
            return
        self._pending += messages
        self._pending_bytes += sum(map(len, messages))
        if self._pending_bytes > PENDING_BYTES:
            self._drop_pending()
            self._unheard.dropped()
            self._again = True

    def interrupted(self) -> None:
        """Read the log, since deliveries may have been lost."""
        self._read_log()

    def check(self, head: Head, asked_at: int) -> None:
        """Read the log where it shows that a delivery was lost, as of a last message, which no later one would show.

        Args:
            head: where the topic stands in the log.
            asked_at: the feed's index when that was asked, of which the log cannot know less.
        """
        self._counts.repairs += self._unheard.look()
        mine = self.window.cursor
        last = asked_at if head.last is None else head.last
        changed = head.log_id != mine.log_id or head.epoch > mine.epoch
        # Where a job lost its tail, its feed stands behind the job's last record for good, and was read for that once.
        shrunk = last < asked_at and (asked_at, last) != self._last_look
        # What was there at the last look already is not just under way.
        if changed or shrunk or mine.index < self._last_look[1]:
            self.interrupted()
        self._last_look = asked_at, last

    async def catch_up(self) -> None:
        """Return once the feed has all that the log has at the moment. Waits as long as Redis does not answer."""
        await asyncio.shield(self._read_log())

    def _drop_pending(self) -> list[bytes]:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        return pending

    def _offer(self, messages: list[bytes]) -> None:
        before = self.window.cursor.index
        taken: list[Update] = []
        frames: list[bytes] = []
        lost = False
        for message in messages:
            try:
                log_id, updates = unpack_message(message)
                lost = lost or log_id != self.window.cursor.log_id
                for update in updates:
                    outcome, frame = self.window.offer(log_id, update)
                    if outcome is Outcome.APPENDED:
                        taken.append(update)
                        frames.append(frame)
                    elif outcome is Outcome.DUPLICATE:
                        self._counts.duplicates += 1
                        self._counts.repairs += self._unheard.delivered(update.index)
                    else:
                        self._unheard.delivered_untaken(update.index)
                        lost = True
            except (ValueError, TypeError) as error:
                # It is no record, or holds what JSON cannot: what stands before it is delivered all the same.
                _log.error("what was published on %s cannot be read: %s", self.topic, error)
                lost = True
        if taken:
            self._counts.repairs += self._unheard.delivered(taken[0].index)
            self._deliver(b"".join(frames), taken, before)
        if lost:
            self.interrupted()

    def _deliver(self, data: bytes, updates: list[Update], before: int) -> None:
        """Push frames, which the window has already, to all who are live: those behind an index, in each encoding."""
        self._counts.appended += len(updates)
        if self.watchers.live_count:
            now_s = time.time()
            for update in updates:
                self._counts.latencies.add(now_s - update.timestamp / 1000)
        size = self.window.size_bytes
        stalled = self.watchers.push(lambda encoding: self.window.all_after(before, encoding) if encoding else data)
        for watcher in stalled:
            watcher.follow(before)
        self._grew(len(data) + self.window.size_bytes - size)

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
                await self._skip_old()
            while self._again:
                self._again = False
                while self._extend(await self._answer(self._read_page)):
                    pass
                self._opened = True
                # Offering may find that the log must be read again; what was offered is there already then.
                self._offer(self._drop_pending())
            self._unheard.read_to_head()
        finally:
            self._reading = None

    async def _skip_old(self) -> None:
        """Leave what is old to the log, so that the first who come need not wait until all of it is read."""
        index = await self._answer(lambda: self._reader.before_last(self.topic, OPENED_RECORDS))
        if index is not None:
            self.window.move(0, index)

    async def _answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis until it answers."""
        for wait in backoff(self._rng):
            try:
                return await ask()
            except LogUnavailable as error:
                self._counts.read_retries += 1
                _log.warning("reading %s failed: %s; next try in %.1f s", self.topic, error, wait)
            await asyncio.sleep(wait)
        raise AssertionError("the waits never end")

    def _read_page(self) -> Awaitable[Page]:
        mine = self.window.cursor
        return read_fresh(lambda: self._reader.read(self.topic, mine), mine)

    def _extend(self, page: Page) -> bool:
        """Take a page in; return whether another must be read."""
        window, epoch = self.window, self.window.cursor.epoch
        if page.reset:
            window.restart("", 0, -1)
            self.older.forget()
            self._unheard.forget()
            for watcher in self.watchers.all:
                self.tell_reset(watcher)
            return True
        if not window.cursor.log_id and page.log_id:
            window.begin(page.log_id)
        elif page.start < window.cursor.index:
            self._counts.rewinds += 1
            window.move(page.epoch, page.start)
            self.older.forget()
            self._unheard.forget()
            for watcher in self.watchers.all:
                watcher.rewind(page.start)
        if page.missing:
            first, last = page.missing
            # Those behind find it out when they read on. While the feed opens, there is nobody.
            live = self.watchers.live
            window.restart(page.log_id, page.epoch, last)
            for watcher in live:
                self.tell_gap(watcher, first, last)
        if page.updates:
            before = window.cursor.index
            # While the feed opens, nothing need have been delivered.
            self._counts.repairs += self._opened and self._unheard.read(page.updates[0].index)
            self._deliver(window.extend(page.updates), page.updates, before)
        if not page.more:
            window.confirm(page.epoch)
        # A history that spans epochs is no news.
        self._counts.epochs += self._opened and 0 < epoch < window.cursor.epoch
        return page.more > 0
