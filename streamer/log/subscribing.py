"""All channels of a process: one pub/sub connection or, on a cluster, one to each server that has some of them.

Deliveries are hints: whoever listens reads the log whenever it is told that some may have been lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random

from redis.exceptions import MovedError

from streamer.core.backoff import backoff
from streamer.core.errors import LogUnavailable
from streamer.core.outages import Outages
from streamer.log.client import Client
from streamer.log.connecting import answering
from streamer.log.keys import Keys
from streamer.log.line import Line
from streamer.log.listening import PLAIN, SHARDED, Listener, Subscription
from streamer.log.routing import Route
from streamer.log.url import Address

LOOK_AGAIN_S = 2.0
"""How often it is asked, where that may change, which server has which channel: a server that was replaced may go on
answering as if nothing had happened."""

LEAST_LOOK_S = 0.1
"""How soon it may be asked again where something has failed."""

_log = logging.getLogger(__name__)


class Subscriber:
    """Listens to channels; for one event loop. It connects with `start`, at the latest with the first subscription, and
    then stays connected.

    ``linger_s`` is for how many seconds what arrives is collected before it is handed over; ``keys`` name the channels
    of its probes.

    Raises InvalidSetting where the URL is none that we know.
    """

    def __init__(self, url: str, rng: Random | None = None, linger_s: float = 0.0, keys: Keys | None = None) -> None:
        self._url, self._linger_s, self._keys = url, linger_s, keys or Keys()
        self._rng = rng or Random()
        self._client = Client(url, most_connections=4)
        self._verbs = SHARDED if self._client.sharded else PLAIN
        self._subscriptions: dict[bytes, Subscription] = {}
        self._lines: dict[Address, Line] = {}
        self._on: dict[bytes, Line] = {}
        self._spread: Route | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._look_now = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._started = self._found = False
        self._outages = Outages()

    @property
    def connected(self) -> bool:
        """Whether what is published is heard: each connection is there, Redis has answered, and is not deaf."""
        found = self._found and (self._client.sharded or bool(self._lines))
        return found and all(line.connected for line in self._lines.values())

    @property
    def deaf_periods(self) -> int:
        """How often what is published was not heard any more."""
        return self._outages.count

    @property
    def deaf_s(self) -> float:
        """For how many seconds it was not heard, in all."""
        return self._outages.seconds(time.monotonic())

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Listen to a channel; return once Redis has confirmed: from then on, what is published arrives.

        A channel has one listener; another takes its place. Cancelling leaves the subscription in place; `unsubscribe`
        ends it. Raises LogUnavailable where Redis refuses the channel, and where `unsubscribe` or `aclose` ends the
        waiting; a Redis that does not answer is waited for.
        """
        self.start()
        key = channel.encode()
        subscription = self._subscriptions.get(key)
        if subscription is None:
            subscription = self._subscriptions[key] = Subscription(listener)
            if self._found:
                self._put_on_line(key, subscription)
        subscription.listener = listener
        if error := await asyncio.shield(subscription.answer):
            raise error

    def unsubscribe(self, channel: str) -> None:
        """Stop listening to a channel at once; Redis is told in the background."""
        key = channel.encode()
        if subscription := self._subscriptions.pop(key, None):
            subscription.settle(LogUnavailable(f"listening to {channel} was ended"))
            if line := self._on.pop(key, None):
                line.drop(key)

    def start(self) -> None:
        """Connect, if not yet done, and stay connected."""
        if self._started:
            return
        self._started = True
        if self._client.changes:
            self._running = asyncio.get_running_loop().create_task(self._follow(), name="subscriber-route")
        else:
            self._found = True
            self._spread_channels()

    async def aclose(self) -> None:
        """Stop listening and close the connections."""
        tasks = [line.close() for line in self._lines.values()]
        if self._running is not None:
            self._running.cancel()
            tasks.append(self._running)
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)
        self._running, self._started, self._found = None, False, False
        for subscription in self._subscriptions.values():
            subscription.settle(LogUnavailable("listening was ended"))
        for held in (self._subscriptions, self._lines, self._on):
            held.clear()
        await self._client.aclose()

    # What its lines tell it.

    def changed(self) -> None:
        """Take note of whether what is published is heard."""
        if self.connected:
            self._outages.look(True, time.monotonic())
        elif not self._found or any(line.deaf for line in self._lines.values()):
            self._outages.look(False, time.monotonic())

    def troubled(self) -> None:
        """Look at once whether channels belong elsewhere now."""
        self._look_now.set()

    def moved(self, line: Line, channel: bytes, error: MovedError) -> None:
        """Have another server's line listen to a channel."""
        self._client.moved(error, line.address)
        self._put_on_line(channel, self._subscriptions[channel])
        if self._on.get(channel) is line:
            line.again(channel)
        self._look_now.set()

    def refused(self, channel: bytes) -> None:
        """Forget a channel."""
        del self._subscriptions[channel]
        self._on.pop(channel, None)

    async def _follow(self) -> None:
        """Again and again, find out which server has which channel."""
        waits = backoff(self._rng)
        while True:
            self._look_now.clear()
            try:
                async with answering(self._url):
                    await self._client.look()
                self._found = True
                self._spread_channels()
                self.changed()
                waits, wait = backoff(self._rng), LOOK_AGAIN_S
            except Exception as error:
                # Whatever it is: as in a line.
                self._found, wait = False, next(waits)
                self.changed()
                _log.warning("finding the servers failed: %s; next try in %.1f s", error, wait)
                await asyncio.sleep(wait)
                continue
            await asyncio.sleep(LEAST_LOOK_S * (1 + self._rng.random()))
            try:
                async with asyncio.timeout(wait):
                    await self._look_now.wait()
            except TimeoutError:
                pass

    def _spread_channels(self) -> None:
        """Have each channel be listened to on the line of its server, and keep no line that is not needed."""
        route = self._client.route
        assert route is not None
        if route != self._spread or len(self._on) < len(self._subscriptions):
            self._spread = route
            for channel, subscription in self._subscriptions.items():
                self._put_on_line(channel, subscription)
        if not self._client.sharded:
            self._line(route.addresses[0])
        for address, line in list(self._lines.items()):
            if line.idle and (self._client.sharded or address != route.addresses[0]):
                del self._lines[address]
                task = line.close()
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _put_on_line(self, channel: bytes, subscription: Subscription) -> None:
        """Have a channel be listened to on the line of its server, if it has one."""
        assert self._client.route is not None
        address = self._client.route.server_of(channel)
        before = self._on.get(channel)
        if address is None or (before is not None and before.address == address):
            return
        if before is not None:
            before.drop(channel)
        line = self._on[channel] = self._line(address)
        line.add(channel, subscription)

    def _line(self, address: Address) -> Line:
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = Line(
                self._client, self._url, address, self._verbs, self._keys, self, self._rng, self._linger_s
            )
        return line
