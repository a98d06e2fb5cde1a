"""Whether what is published still arrives: a message to oneself, through a channel, again and again.

Redis's answers to pings do not tell: a master that was replaced, and to which nobody publishes any more, answers them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import redis

from streamer.core.errors import LogUnavailable
from streamer.log.client import Client
from streamer.log.keys import Keys
from streamer.log.listening import Subscription, Verbs
from streamer.log.scripts import new_id
from streamer.log.url import Address, without_password

PROBE_S = 1.0
"""So often a message is published, and so long it may take to arrive where nothing else does."""

MOST_MISSED = 2
"""So many that did not arrive make a connection deaf."""

_log = logging.getLogger(__name__)


class Probe:
    """Listens to a channel of its own, which one server has, and publishes there as all publishers do.

    ``deaf`` says that what was published last, even on an earlier connection, did not arrive; ``changed`` is called
    when that may be otherwise.
    """

    def __init__(
        self, client: Client, url: str, address: Address, verbs: Verbs, keys: Keys, changed: Callable[[], None]
    ) -> None:
        self._client, self._url, self._address, self._verbs, self._keys = client, url, address, verbs, keys
        self._changed = changed
        self._id = new_id()
        self._echo = asyncio.Event()
        self._refused = False
        self.deaf = False

    def take(self, messages: list[bytes]) -> None:
        """Hear that it still arrives."""
        self._echo.set()
        self._hears(True)

    def interrupted(self) -> None:
        """Nothing is lost."""

    async def repeat(self, listen: Callable[[bytes], Subscription], delivered: Callable[[], int]) -> None:
        """Publish again and again, for the time of a connection.

        Args:
            listen: subscribes to a channel on the connection, if that is not done yet.
            delivered: how many messages have arrived on the connection, of any channel.

        Raises LogUnavailable once what was published does not arrive, and nothing else does. Where Redis refuses the
        channel, it says so and rests: pings must do then.
        """
        missed = 0
        while True:
            await asyncio.sleep(PROBE_S)
            if self._refused or (channel := self._channel()) is None:
                continue
            before = delivered()
            try:
                arrived = await self._arrives(channel, listen(channel))
            except (redis.RedisError, OSError) as error:
                # It was not published, which says nothing of the connection; but nobody can publish now.
                self._missed(error)
                continue
            missed = 0 if arrived or delivered() != before else missed + 1
            if missed >= MOST_MISSED:
                self._hears(False)
                raise LogUnavailable(f"Redis at {without_password(self._url)} delivers nothing any more")

    def _missed(self, error: Exception) -> None:
        if isinstance(error, redis.exceptions.NoPermissionError):
            self._refuse(str(error))
        else:
            self._hears(False)

    def _hears(self, yes: bool) -> None:
        self.deaf = not yes
        self._changed()

    def _channel(self) -> bytes | None:
        """The channel: on a cluster one that the server has; None where it has none."""
        tag = None if self._client.route is None else self._client.route.tag_on(self._address)
        return None if tag is None else self._keys.probe(self._id, tag).encode()

    async def _arrives(self, channel: bytes, subscription: Subscription) -> bool:
        """Publish; return whether it arrived in time. Raises redis-py's errors and OSError where that fails."""
        try:
            async with asyncio.timeout(PROBE_S):
                refused = await asyncio.shield(subscription.answer)
        except TimeoutError:
            return False
        if refused is not None:
            self._refuse(str(refused))
            return True
        self._echo.clear()
        # Longer than it may take to arrive: to publish, the master may have to be found first.
        async with asyncio.timeout(3 * PROBE_S):
            await self._client.ask_one(channel, self._verbs.publish, channel, b"")
        try:
            async with asyncio.timeout(PROBE_S):
                await self._echo.wait()
        except TimeoutError:
            return False
        return True

    def _refuse(self, why: str) -> None:
        self._refused = True
        self._hears(True)
        _log.warning(
            "whether pub/sub delivers cannot be probed, only pinged: the user needs the right to publish and subscribe "
            "to %sprobe:*: %s",
            self._keys.prefix,
            why,
        )
