"""All feeds of an event loop: opened by their first watcher, kept a little beyond their last, bounded together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from random import Random

from streamer.core.cursor import Cursor
from streamer.core.errors import InvalidSetting, LogUnavailable
from streamer.core.latencies import LatencyCounts
from streamer.core.names import Topic
from streamer.fanout.feed import Counts, Feed
from streamer.fanout.following import Follower
from streamer.fanout.locating import Position
from streamer.fanout.lookouts import Lookouts
from streamer.log.keys import Keys
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber

TEND_S = 1.0
CHECKED_AT_ONCE = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubSettings:
    """How feeds are kept.

    ``keep_s``: seconds that a feed outlives its last watcher. ``check_s``: seconds between two looks into the log
    whether a delivery was lost. ``memory_bytes``: how much all feeds together keep in memory; the log has the rest.
    ``open_timeout_s``: how long a watcher waits for Redis. ``stall_s``: how long a client may take nothing before it is
    closed.

    Raises InvalidSetting where a value is out of range.
    """

    keep_s: float = 5.0
    check_s: float = 5.0
    memory_bytes: int = 256 << 20
    open_timeout_s: float = 5.0
    stall_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise InvalidSetting(f"{name} must be 0 or more, not {value}")
            if value == 0 and name in ("check_s", "open_timeout_s", "stall_s"):
                raise InvalidSetting(f"{name} must be more than 0")


@dataclass(frozen=True)
class HubStatistics:
    """What a hub holds at the moment, and has met so far.

    ``repairs``: times that what a feed had read from the log, while open, turned out not to have been delivered; a feed
    counts that once, however many updates it were. ``gaps`` and ``resets``: each watcher that was told of one, on
    joining or later. ``epochs``: times that an open feed found its log on another server.
    """

    listening: bool
    feeds: int
    feed_bytes: int
    live: int
    behind: int
    unsent_bytes: int
    appended: int
    duplicates: int
    repairs: int
    gaps: int
    resets: int
    rewinds: int
    epochs: int
    read_retries: int
    deaf_periods: int
    deaf_s: float
    latencies: LatencyCounts


class _Slot:
    """A feed, its opening, which all who come meanwhile wait for, and how many are about to join."""

    def __init__(self, feed: Feed, opening: asyncio.Future[None], now: float) -> None:
        self.feed, self.opening = feed, opening
        self.joining = 0
        self.joined = self.watched = now

    @property
    def failed(self) -> bool:
        """Whether the feed could not be opened, as where Redis refuses the channel."""
        return self.opening.done() and not self.ready

    @property
    def ready(self) -> bool:
        """Whether the feed is open."""
        opening = self.opening
        return opening.done() and not opening.cancelled() and opening.exception() is None


class Hub:
    """Joins sessions to feeds; for one event loop. It owns the reader and the subscriber, and closes them.

    Args:
        reader: where feeds read the log.
        subscriber: where they hear of new records.
        keys: the names of their channels.
        rng: spreads retries.
    """

    def __init__(
        self,
        reader: Reader,
        subscriber: Subscriber,
        keys: Keys,
        settings: HubSettings | None = None,
        rng: Random | None = None,
    ) -> None:
        self.reader = reader
        self.settings = settings or HubSettings()
        self._subscriber = subscriber
        self._keys = keys
        self._rng = rng or Random()
        self._counts = Counts()
        self.lookouts = Lookouts(
            reader,
            subscriber,
            keys,
            check_s=self.settings.check_s,
            open_timeout_s=self.settings.open_timeout_s,
            keep_s=self.settings.keep_s,
            rng=self._rng,
        )
        self._growth = 0
        self._slots: dict[Topic, _Slot] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Connect, and look after the feeds from now on. Joining does it too."""
        if not self._tasks:
            self._subscriber.start()
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._tend()), loop.create_task(self._check())]

    async def locate(self, topic: Topic, after: Cursor | None = None, history: int | None = None) -> Position:
        """Find where a watcher joins a topic: see `Locator.locate`. Raises LogUnavailable."""
        with self._held(topic) as slot:
            position = slot.feed.locator.in_window(after, history) if slot.ready else None
            if position is None:
                async with self._in_time(slot):
                    position = await slot.feed.locator.locate(after, history)
            return position

    async def join(self, follower: Follower, position: Position | None = None) -> None:
        """Have a follower follow its topic, from a position found by `locate` or else from the start.

        Raises LogUnavailable. May be cancelled; it has not joined then.
        """
        with self._held(follower.topic) as slot:
            if position is None or not (slot.ready and slot.feed.locator.holds(position)):
                async with self._in_time(slot):
                    position = await slot.feed.locator.again(position)
            follower.join(slot.feed, position)

    def statistics(self) -> HubStatistics:
        """What the hub holds and has met."""
        feeds = [slot.feed for slot in self._slots.values()]
        unsent_bytes = {watcher.connection: watcher.unsent_bytes for feed in feeds for watcher in feed.watchers.all}
        return HubStatistics(
            listening=self._subscriber.connected,
            feeds=len(feeds),
            feed_bytes=sum(feed.size_bytes for feed in feeds),
            live=sum(feed.watchers.live_count for feed in feeds),
            behind=sum(len(feed.watchers.behind) for feed in feeds),
            deaf_periods=self._subscriber.deaf_periods,
            deaf_s=self._subscriber.deaf_s,
            unsent_bytes=sum(unsent_bytes.values()),
            **{**vars(self._counts), "latencies": self._counts.latencies.counts()},
        )

    async def aclose(self) -> None:
        """End all feeds and close the connections to Redis. Sessions get nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for topic in list(self._slots):
            self._retire(topic)
        self.lookouts.close()
        await self._subscriber.aclose()
        await self.reader.aclose()

    @contextmanager
    def _held(self, topic: Topic) -> Iterator[_Slot]:
        """The topic's feed, opened or being opened; it is not let go of meanwhile."""
        self.start()
        loop = asyncio.get_running_loop()
        slot = self._slots.get(topic)
        if slot is not None and slot.failed:
            self._retire(topic)
            slot = None
        if slot is None:
            feed = Feed(topic, self.reader, self._counts, self._grew, self._rng)
            subscribed = loop.create_task(self._subscriber.subscribe(self._keys.records(topic), feed))
            slot = self._slots[topic] = _Slot(feed, feed.open(subscribed), loop.time())
        slot.joining += 1
        try:
            yield slot
        finally:
            slot.joining -= 1
            slot.joined = slot.watched = loop.time()

    @asynccontextmanager
    async def _in_time(self, slot: _Slot) -> AsyncIterator[None]:
        """Wait until a feed has read what the log has. Raises LogUnavailable where it, or what is done then, takes too
        long.
        """
        try:
            async with asyncio.timeout(self.settings.open_timeout_s):
                await asyncio.shield(slot.opening)
                yield
        except TimeoutError:
            raise LogUnavailable(f"Redis did not answer within {self.settings.open_timeout_s:g} s") from None

    def _retire(self, topic: Topic) -> None:
        slot = self._slots.pop(topic)
        self._subscriber.unsubscribe(self._keys.records(topic))
        slot.feed.close()

    async def _tend(self) -> None:
        """Again and again, let go of what nobody needs any more."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TEND_S)
            try:
                self._let_go(loop.time())
                self._keep_to_bound(self.settings.memory_bytes)
            except Exception:
                # A fault in one feed must not leave all others untended.
                _log.exception("tending the feeds failed")

    async def _check(self) -> None:
        """Again and again, look into the log for what was published and did not arrive."""
        while True:
            await asyncio.sleep(self.settings.check_s)
            slots = [slot for slot in self._slots.values() if slot.ready]
            for first in range(0, len(slots), CHECKED_AT_ONCE):
                try:
                    await self._check_some(slots[first : first + CHECKED_AT_ONCE])
                except LogUnavailable:
                    pass  # the next look finds what it has cost
                except Exception:
                    _log.exception("looking for lost deliveries failed")

    async def _check_some(self, slots: list[_Slot]) -> None:
        asked_at = [slot.feed.window.cursor.index for slot in slots]
        heads = await self.reader.heads([slot.feed.topic for slot in slots])
        for slot, head, index in zip(slots, heads, asked_at, strict=True):
            if head is not None and self._slots.get(slot.feed.topic) is slot:
                slot.feed.check(head, index)

    def _let_go(self, now: float) -> None:
        self.lookouts.let_go(now)
        for topic, slot in list(self._slots.items()):
            if not slot.feed.watchers.behind:
                slot.feed.older.forget()
            if slot.feed.watchers or slot.joining:
                slot.watched = now
            elif now - slot.watched >= self.settings.keep_s:
                self._retire(topic)

    def _grew(self, size: int) -> None:
        """Count what feeds take in. A small part of the bound is for what comes until they are looked at again."""
        self._growth += size
        part = self.settings.memory_bytes // 16
        if self._growth > part:
            self._growth = 0
            self._keep_to_bound(self.settings.memory_bytes - part)

    def _keep_to_bound(self, size: int) -> None:
        """Have the feeds that were joined least recently give up their oldest records first."""
        excess = sum(slot.feed.size_bytes for slot in self._slots.values()) - size
        if excess <= 0:
            return
        for slot in sorted(self._slots.values(), key=lambda slot: slot.joined):
            before = slot.feed.size_bytes
            while slot.feed.size_bytes > before - excess and slot.feed.give_up_oldest():
                pass
            excess -= before - slot.feed.size_bytes
            if excess <= 0:
                return
