"""What is followed beside logs: small things in Redis that are read as a whole, and of whose changes a channel tells.

As with feeds, the channel is subscribed to first, and what it brings is but a hint: the whole is read again after an
interruption, and now and then.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from streamer.core.backoff import backoff
from streamer.core.errors import LogUnavailable
from streamer.log.subscribing import Subscriber

LEAST_S = 0.5
"""How soon it may be read again, whatever happens."""

_log = logging.getLogger(__name__)


class Lookout(ABC):
    """One such thing, for one event loop.

    Args:
        name: what it is, for people.
        subscriber: where it hears of changes.
        channel: by which channel.
        every_s: how often it is read, whatever it hears.
        rng: spreads the reads.

    ``opened`` is done once it has been read; it has an error where Redis refuses the channel.
    """

    def __init__(self, name: str, subscriber: Subscriber, channel: str, every_s: float, rng: Random) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self._name, self._subscriber, self._channel, self._every_s, self._rng = name, subscriber, channel, every_s, rng
        self._again = asyncio.Event()
        self._joining = 0
        self._wanted_at = loop.time()
        self._running = loop.create_task(self._run())

    @property
    @abstractmethod
    def followed(self) -> bool:
        """Whether anybody follows."""

    @abstractmethod
    async def look(self) -> None:
        """Read it. Raises LogUnavailable."""

    @abstractmethod
    def take(self, messages: list[bytes]) -> None:
        """Take what the channel brings."""

    def interrupted(self) -> None:
        """Read it again, since something may have been lost."""
        self._again.set()

    @property
    def failed(self) -> bool:
        """Whether it will never be read."""
        return self._running.done()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Somebody is about to follow: it is wanted meanwhile."""
        self._joining += 1
        try:
            yield
        finally:
            self._joining -= 1

    def unwanted_s(self, now: float) -> float:
        """For how many seconds nobody has followed."""
        if self.followed or self._joining:
            self._wanted_at = now
        return now - self._wanted_at

    def close(self) -> None:
        """Stop all work. Whoever still follows hears nothing more."""
        self._running.cancel()
        if not self.failed:
            self._subscriber.unsubscribe(self._channel)
        self.opened.cancel()

    async def _run(self) -> None:
        try:
            await self._subscriber.subscribe(self._channel, self)
        except LogUnavailable as error:
            if not self.opened.done():
                self.opened.set_exception(error)
                self.opened.exception()  # whoever waited for it may have left
            return
        while True:
            await self._look_in_the_end()
            if not self.opened.done():
                self.opened.set_result(None)
            await asyncio.sleep(LEAST_S * (1 + self._rng.random()) / 2)
            try:
                async with asyncio.timeout(self._every_s * (1 + self._rng.random()) / 2):
                    await self._again.wait()
            except TimeoutError:
                pass

    async def _look_in_the_end(self) -> None:
        """Read it, as often as it takes."""
        for wait in backoff(self._rng):
            self._again.clear()
            try:
                return await self.look()
            except LogUnavailable as error:
                _log.warning("reading %s failed: %s; next try in %.1f s", self._name, error, wait)
            except Exception:
                # Whatever it is: without this task nobody would ever hear of changes that were lost.
                _log.exception("reading %s failed", self._name)
            await asyncio.sleep(wait)
        return None
