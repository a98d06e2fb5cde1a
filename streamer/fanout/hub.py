"""All feeds of an event loop: opened by their first watcher, kept a little beyond their last, bounded together."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from random import Random

from streamer.core.cursor import Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.fanout.feed import Counts, Feed, Position
from streamer.fanout.session import Session
from streamer.log.keys import Keys
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubSettings:
    """How feeds are kept.

    ``linger_s``: seconds that a feed outlives its last watcher. ``check_s``: seconds between two looks into the log
    whether a delivery was lost. ``feed_bytes`` and ``memory_bytes``: how much a feed, and all together, keep of their
    records. ``open_timeout_s``: how long a watcher waits for Redis. ``max_lag``: how many updates a slow client may be
    behind before it is closed, 0 for as many as the log keeps.
    """

    linger_s: float = 5.0
    check_s: float = 5.0
    feed_bytes: int = 16 << 20
    memory_bytes: int = 256 << 20
    open_timeout_s: float = 10.0
    max_lag: int = 0


@dataclass(frozen=True)
class HubStatistics:
    """What a hub holds at the moment, and has met so far."""

    listening: bool
    feeds: int
    feed_bytes: int
    live: int
    behind: int
    appended: int
    duplicates: int
    repairs: int
    gaps: int
    resets: int
    rewinds: int


class _Slot:
    """A feed and its opening, which all who come meanwhile wait for."""

    def __init__(self, feed: Feed, opening: asyncio.Future[None], now: float) -> None:
        self.feed, self.opening, self.joined, self.watched = feed, opening, now, now


class Hub:
    """Joins sessions to feeds; for one event loop. Connects to Redis with the first of them.

    Raises InvalidSetting where the URL is none that we know.
    """

    def __init__(self, url: str, keys: Keys, settings: HubSettings | None = None, rng: Random | None = None) -> None:
        self.settings = settings or HubSettings()
        self.reader = Reader(url, keys)
        self.counts = Counts()
        self._keys = keys
        self._rng = rng or Random()
        self._subscriber = Subscriber(url, self._rng)
        self._slots: dict[Topic, _Slot] = {}
        self._tending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and tend the feeds from now on. Joining does it too."""
        if self._tending is None:
            self._subscriber.start()
            self._tending = asyncio.get_running_loop().create_task(self._tend(), name="hub")

    async def locate(self, topic: Topic, after: Cursor | None = None, history: int | None = None) -> Position:
        """Find where a watcher joins a topic: see `Feed.locate`. Raises LogUnavailable."""
        feed = await self._open(topic)
        return await feed.locate(after, history)

    async def join(self, session: Session, position: Position | None = None) -> None:
        """Have a session follow its topic, from a position found by `locate` or else from the start.

        Raises LogUnavailable. May be cancelled; the session has not joined then.
        """
        feed = await self._open(session.topic)
        if position is None:
            position = await feed.locate(None, None)
        elif position.era is not feed.era and not position.reset:
            position = await feed.locate(Cursor(position.log_id, position.epoch, position.index), None)
        session.join(feed, self.reader, position)

    def statistics(self) -> HubStatistics:
        """What the hub holds and has met."""
        feeds = [slot.feed for slot in self._slots.values()]
        return HubStatistics(
            listening=self._subscriber.connected,
            feeds=len(feeds),
            feed_bytes=sum(feed.window.size_bytes for feed in feeds),
            live=sum(len(feed.live) for feed in feeds),
            behind=sum(len(feed.behind) for feed in feeds),
            **vars(self.counts),
        )

    async def aclose(self) -> None:
        """End all feeds and close the connections to Redis. Sessions get nothing more."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        for topic in list(self._slots):
            self._retire(topic)
        await self._subscriber.aclose()
        await self.reader.aclose()

    async def _open(self, topic: Topic) -> Feed:
        """The topic's feed, once it has read what the log has."""
        self.start()
        loop = asyncio.get_running_loop()
        slot = self._slots.get(topic)
        if slot is None:
            feed = Feed(topic, self.reader, self.settings.feed_bytes, self.counts, self._rng)
            subscribed = loop.create_task(self._subscriber.subscribe(self._keys.records(topic), feed))
            slot = self._slots[topic] = _Slot(feed, feed.open(subscribed), loop.time())
        slot.joined = slot.watched = loop.time()
        if not slot.opening.done():
            try:
                async with asyncio.timeout(self.settings.open_timeout_s):
                    await asyncio.shield(slot.opening)
            except TimeoutError:
                raise LogUnavailable(f"Redis did not answer within {self.settings.open_timeout_s:g} s") from None
        return slot.feed

    def _retire(self, topic: Topic) -> None:
        slot = self._slots.pop(topic)
        self._subscriber.unsubscribe(self._keys.records(topic))
        slot.feed.close()

    async def _tend(self) -> None:
        """Once in a while: let go of feeds that nobody watches, keep to the bound, look for lost deliveries."""
        loop = asyncio.get_running_loop()
        next_check = loop.time() + self.settings.check_s
        while True:
            await asyncio.sleep(min(1.0, self.settings.check_s, self.settings.linger_s))
            try:
                self._let_go(loop.time())
                self._keep_to_bound()
                if loop.time() >= next_check:
                    for slot in list(self._slots.values()):
                        if slot.opening.done():
                            await slot.feed.check()
                    next_check = loop.time() + self.settings.check_s
            except Exception:
                # A fault in one feed must not leave all others untended.
                _log.exception("tending the feeds failed")

    def _let_go(self, now: float) -> None:
        for topic, slot in list(self._slots.items()):
            if slot.feed.watched:
                slot.watched = now
            elif now - slot.watched > self.settings.linger_s:
                self._retire(topic)

    def _keep_to_bound(self) -> None:
        """Have the feeds that were joined least recently give up their oldest records first."""
        excess = sum(slot.feed.window.size_bytes for slot in self._slots.values()) - self.settings.memory_bytes
        for slot in sorted(self._slots.values(), key=lambda slot: slot.joined):
            window = slot.feed.window
            while excess > 0:
                size = window.size_bytes
                if not window.forget_oldest():
                    break
                excess -= size - window.size_bytes
