"""The fleet as a gateway knows it, shared by all who watch it: the newest summary of each node.

Changes are collected for a moment, then written to all who can take them; who cannot reads on by itself, from what is
the newest then. So a slow client is sent less, and never what is outdated.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random

from streamer.core.fleet_view import FleetView, NodeSummary
from streamer.core.names import Fleet
from streamer.fanout.fleet_watch import FleetWatch, Form, Page
from streamer.fanout.lookout import Lookout
from streamer.log.fleet import Told
from streamer.log.keys import Keys
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber

TICK_S = 0.2
"""For so long changes are collected."""

PAGE_NODES = 200
"""So many summaries are written at once."""

_log = logging.getLogger(__name__)


class FleetFeed(Lookout):
    """The fleet, for one event loop: see Lookout for its arguments."""

    def __init__(self, reader: Reader, subscriber: Subscriber, keys: Keys, every_s: float, rng: Random) -> None:
        self.view = FleetView()
        self.watches: set[FleetWatch] = set()
        self._reader = reader
        self._pages: dict[tuple[int, Form], Page] = {}
        self._pages_at = self._ticked_at = 0
        self._ticking: asyncio.TimerHandle | None = None
        super().__init__(str(Fleet()), subscriber, keys.fleet, every_s, rng)

    @property
    def followed(self) -> bool:
        """Whether anybody watches."""
        return bool(self.watches)

    def take(self, messages: list[bytes]) -> None:
        """Take what nodes tell of themselves, and look where one has left."""
        for message in messages:
            try:
                told = Told.unpack(message)
            except ValueError as error:
                _log.error("what was published of the fleet cannot be read: %s", error)
                self.interrupted()
                continue
            if told.summary is None:
                # Not taken as said: it may have come back since, of which a message may have been lost.
                self.interrupted()
            else:
                self.view.offer(told.summary.of(told.node))
        self._tick_soon()

    async def look(self) -> None:
        """Read all summaries."""
        since = self.view.last
        found: dict[str, NodeSummary] = {}
        async for page in self._reader.fleet():
            found |= page
        self.view.settle(found.values(), since)
        self._tick_soon()

    def page_after(self, number: int, form: Form) -> Page:
        """What has changed behind a number, as it is written; all who ask for the same get the same bytes."""
        if self._pages_at != self.view.last:
            self._pages.clear()
            self._pages_at = self.view.last
        page = self._pages.get((number, form))
        if page is None:
            changes = self.view.after(number, PAGE_NODES)
            data = form.frame(changes.nodes) if changes.nodes else b""
            page = self._pages[number, form] = Page(data, changes.last)
        return page

    def close(self) -> None:
        """Stop all work. Whoever still watches hears nothing more."""
        super().close()
        if self._ticking is not None:
            self._ticking.cancel()

    def _tick_soon(self) -> None:
        if self._ticking is None and self._ticked_at != self.view.last:
            self._ticking = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking, self._ticked_at = None, self.view.last
        for watch in list(self.watches):
            watch.wake()
        self.view.forget_gone(min((watch.number for watch in self.watches), default=self.view.last))
