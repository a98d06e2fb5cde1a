"""One server's channels, over one pub/sub connection after the other.

What one wake-up of the connection brings is handed over together, one list per channel.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Coroutine
from random import Random
from typing import Any, Protocol

import redis
from redis.exceptions import BusyLoadingError, ClusterDownError, MovedError, TryAgainError

from streamer.core.backoff import backoff
from streamer.core.errors import LogUnavailable
from streamer.log.client import Client
from streamer.log.connecting import answering, unavailable, unavailable_as_error
from streamer.log.keys import Keys
from streamer.log.listening import Order, Subscription, Verbs
from streamer.log.probing import Probe
from streamer.log.url import Address, without_password

PING_S = 2.0
"""A connection that has nothing to send for so long sends a ping; one that brings nothing for three times that is given
up."""

REFUSED_S = 5.0
"""A channel that Redis has confirmed once, and refuses on a later connection, is asked for again after so long."""

PASSING_S = 0.5
"""A channel that a server cannot say yes or no to at the moment is asked for again after so long."""

_PASSING = (BusyLoadingError, ClusterDownError, TryAgainError)

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Whoever has lines, and spreads channels over them."""

    def changed(self) -> None:
        """Whether a line is connected may be otherwise now."""

    def troubled(self) -> None:
        """A line's connection has failed: its channels may belong elsewhere now."""

    def moved(self, line: Line, channel: bytes, error: MovedError) -> None:
        """A line's server has said that another has a channel."""

    def refused(self, channel: bytes) -> None:
        """A channel is not listened to, since its first subscription was refused."""


class Line:
    """Listens to channels of one server; connects at once, and again whenever the connection fails, until it is closed.

    ``channels`` are those that it listens to; change them by `add` and `drop`.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        address: Address,
        verbs: Verbs,
        keys: Keys,
        owner: Owner,
        rng: Random,
        linger_s: float,
    ) -> None:
        self.address = address
        self.channels: dict[bytes, Subscription] = {}
        self._client, self._url, self._verbs, self._owner = client, url, verbs, owner
        self._rng, self._linger_s = rng, linger_s
        self._probe = Probe(client, url, address, verbs, keys, owner.changed)
        self._probing: bytes | None = None
        self._orders: list[Order] = []
        self._ordered = asyncio.Event()
        self._awaited: deque[Order] = deque()
        self._arrived: dict[bytes, list[bytes]] = {}
        self._delivered = 0
        self._serving = self._answered = self._was_connected = False
        self._heard_at = 0.0
        self._running = asyncio.get_running_loop().create_task(self._keep(), name="subscriber")

    @property
    def connected(self) -> bool:
        """Whether a connection is there on which Redis has answered, and which is not known to be deaf."""
        return self._answered and not self._probe.deaf

    @property
    def deaf(self) -> bool:
        """Whether something that was heard is not: a line for new channels alone, that connects, is not deaf yet."""
        heard = self._was_connected or any(subscription.answer.done() for subscription in self.channels.values())
        return heard and not self.connected

    @property
    def idle(self) -> bool:
        """Whether nobody listens to any channel."""
        return len(self.channels) == (self._probing in self.channels)

    def add(self, channel: bytes, subscription: Subscription) -> None:
        """Listen to a channel. The subscription learns of the server's answer."""
        self.channels[channel] = subscription
        self._order(Order(self._verbs.subscribe, channel, subscription))

    def drop(self, channel: bytes) -> None:
        """Stop listening to a channel at once; the server is told in the background."""
        del self.channels[channel]
        self._arrived.pop(channel, None)
        self._order(Order(self._verbs.unsubscribe, channel))

    def close(self) -> asyncio.Task[None]:
        """Stop listening; what is returned ends when the connection is closed. What lingers is handed over no more."""
        self._running.cancel()
        self._arrived.clear()
        self._answered = False
        return self._running

    def _order(self, order: Order) -> None:
        """Have a command sent. Where there is no connection, the next one begins with all that there is to say."""
        if self._serving:
            self._orders.append(order)
            self._ordered.set()

    async def _keep(self) -> None:
        waits = backoff(self._rng)
        while True:
            try:
                await self._serve()
            except Exception as error:
                # Whatever it is: a process that no longer listens is worse than one that tries in vain.
                if self._answered:
                    waits = backoff(self._rng)
                self._answered = False
                self._owner.changed()
                wait = next(waits)
                _log.warning("listening failed: %s; next try in %.1f s", error, wait)
                self._owner.troubled()
                await asyncio.sleep(wait)

    async def _serve(self) -> None:
        """Make a connection and serve it until it fails."""
        connection = self._client.connection(self.address)
        try:
            async with answering(self._url):
                await connection.connect()
            # The right to probe may be another now.
            self._end_probing()
            self._serving = True
            self._heard_at = asyncio.get_running_loop().time()
            self._awaited.clear()
            subscribe = self._verbs.subscribe
            self._orders = [Order("PING"), *(Order(subscribe, *each) for each in self.channels.items())]
            await _first_of(
                self._receive(connection),
                self._send(connection),
                self._probe.repeat(self._listen_to_probe, lambda: self._delivered),
            )
        finally:
            self._serving = False
            await connection.disconnect(nowait=True)

    async def _send(self, connection: Any) -> None:
        """Send commands in their order, those of one moment together, and ping where there are none."""
        loop = asyncio.get_running_loop()
        delivered = self._delivered
        while True:
            orders, self._orders = self._orders, []
            self._ordered.clear()
            self._awaited += orders
            async with answering(self._url):
                await connection.send_packed_command(
                    connection.pack_commands(order.packed() for order in orders), check_health=False
                )
            try:
                async with asyncio.timeout(PING_S):
                    await self._ordered.wait()
            except TimeoutError:
                self._order(Order("PING"))
            if self._delivered != delivered:
                delivered, self._heard_at = self._delivered, loop.time()
            if loop.time() - self._heard_at > 3 * PING_S:
                raise LogUnavailable(f"Redis at {without_password(self._url)} says nothing any more")

    async def _receive(self, connection: Any) -> None:
        """Take in whatever comes. Reading suspends only where nothing has come yet, so that the hand-over, which
        waits for its turn in the event loop, finds together what came together."""
        loop = asyncio.get_running_loop()
        message = self._verbs.message
        with unavailable_as_error(self._url):
            while True:
                try:
                    reply = await connection.read_response(
                        timeout=math.inf, disconnect_on_error=False, push_request=True
                    )
                except redis.ResponseError as error:
                    reply = error
                if isinstance(reply, list) and reply[0] == message:
                    self._delivered += 1
                    if not self._arrived:
                        loop.call_later(self._linger_s, self._hand_over)
                    self._arrived.setdefault(reply[1], []).append(reply[2])
                else:
                    self._heard_at = loop.time()
                    if not self._answered:
                        self._answered = self._was_connected = True
                        self._owner.changed()
                    self._answer(reply)

    def _answer(self, reply: Any) -> None:
        """Take in what is no message: an answer, or that the server has ended a subscription by itself."""
        if isinstance(reply, list) and reply[0] == self._verbs.unsubscribed:
            told = self._awaited[0] if self._awaited else None
            if told is None or told.word != self._verbs.unsubscribe or told.channel != reply[1]:
                # As where the channel's slot has moved: asked again, it says where.
                if subscription := self.channels.get(reply[1]):
                    self._order(Order(self._verbs.subscribe, reply[1], subscription))
                return
        order = self._awaited.popleft()
        channel, subscription = order.channel, order.subscription
        if channel is None or subscription is None or self.channels.get(channel) is not subscription:
            return
        if isinstance(reply, redis.ResponseError):
            self._refused(order, channel, subscription, reply)
        elif subscription.answer.done():
            self._interrupt(channel)
        else:
            subscription.settle(None)

    def _refused(self, order: Order, channel: bytes, subscription: Subscription, error: redis.ResponseError) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(error, MovedError):
            if channel == self._probing:
                self._end_probing()
                self._owner.troubled()
            else:
                self._owner.moved(self, channel, error)
        elif isinstance(error, _PASSING):
            loop.call_later(PASSING_S, self._again, order)
        elif subscription.answer.done():
            reason = unavailable(self._url, error)
            _log.error("listening to %s is refused: %s; next try in %.0f s", channel.decode(), reason, REFUSED_S)
            loop.call_later(REFUSED_S, self._again, order)
        else:
            del self.channels[channel]
            subscription.settle(unavailable(self._url, error))
            if channel != self._probing:
                self._owner.refused(channel)

    def again(self, channel: bytes) -> None:
        """Ask for a channel again, a little later."""
        order = Order(self._verbs.subscribe, channel, self.channels[channel])
        asyncio.get_running_loop().call_later(PASSING_S, self._again, order)

    def _again(self, order: Order) -> None:
        if order.channel is not None and self.channels.get(order.channel) is order.subscription:
            self._order(order)

    def _listen_to_probe(self, channel: bytes) -> Subscription:
        if self._probing != channel:
            self._end_probing()
            self._probing = channel
            self.add(channel, Subscription(self._probe))
        return self.channels[channel]

    def _end_probing(self) -> None:
        channel, self._probing = self._probing, None
        if channel is not None and channel in self.channels:
            self.drop(channel)

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, {}
        for channel, messages in arrived.items():
            if subscription := self.channels.get(channel):
                try:
                    subscription.listener.take(messages)
                except Exception:
                    _log.exception("who listens to %s failed to take what came", channel.decode())
                    asyncio.get_running_loop().call_soon(self._interrupt, channel)

    def _interrupt(self, channel: bytes) -> None:
        if subscription := self.channels.get(channel):
            try:
                subscription.listener.interrupted()
            except Exception:
                _log.exception("who listens to %s failed to make up for what was lost", channel.decode())


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Do all at once until one ends, and end as that one."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
