"""One pub/sub connection for all channels of a process.

Deliveries are hints: whoever listens reads the log whenever it is told that some may have been lost. What one wake-up
of the connection brings is handed over together, one list per channel.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from random import Random
from typing import Any, NamedTuple, Protocol

import redis

from streamer.core.backoff import backoff
from streamer.core.errors import LogUnavailable
from streamer.log.connecting import answering, connect_async, unavailable, unavailable_as_error, without_password

PING_S = 2.0
"""A connection that has nothing to send for so long sends a ping; one that brings nothing for three times that is given
up."""

REFUSED_S = 5.0
"""A channel that Redis has confirmed once, and refuses on a later connection, is asked for again after so long."""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Whoever listens to a channel. Both methods are called in the event loop and must not block.

    One that raises costs the others nothing: it is logged and, where `take` failed, `interrupted` is called.
    """

    def take(self, messages: list[bytes]) -> None:
        """Take what has arrived, in order."""

    def interrupted(self) -> None:
        """Deliveries may have been lost, and work again from now on."""


class _Subscription:
    """A listener of a channel, and what Redis answered: nothing yet, None for a yes, or why it refused.

    A channel that is unsubscribed and subscribed again gets another, which the answer to the first does not concern.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.answer: asyncio.Future[LogUnavailable | None] = asyncio.get_running_loop().create_future()

    def settle(self, error: LogUnavailable | None) -> None:
        """Let those know who wait for the answer, if it is the first."""
        if not self.answer.done():
            self.answer.set_result(error)


class _Command(NamedTuple):
    """What is sent to Redis, which answers all in their order, with one reply each."""

    verb: str
    channel: bytes | None = None
    subscription: _Subscription | None = None

    def packed(self) -> tuple[str | bytes, ...]:
        return (self.verb,) if self.channel is None else (self.verb, self.channel)


class Subscriber:
    """Listens to channels; for one event loop. It connects with the first subscription and then stays connected.

    ``connected`` says whether a connection is there on which Redis has answered. ``linger_s`` is for how many seconds
    what arrives is collected before it is handed over.

    Raises InvalidSetting where the URL is none that we know.
    """

    def __init__(self, url: str, rng: Random | None = None, linger_s: float = 0.0) -> None:
        self._url = url
        self._linger_s = linger_s
        self._rng = rng or Random()
        self._redis = connect_async(url, most_connections=1)
        self._subscriptions: dict[bytes, _Subscription] = {}
        self._commands: list[_Command] = []
        self._commanded = asyncio.Event()
        self._awaited: deque[_Command] = deque()
        self._arrived: dict[bytes, list[bytes]] = {}
        self._serving = False
        self._heard_at = 0.0
        self._running: asyncio.Task[None] | None = None
        self.connected = False

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
            subscription = self._subscriptions[key] = _Subscription(listener)
            self._command(_Command("SUBSCRIBE", key, subscription))
        subscription.listener = listener
        if error := await asyncio.shield(subscription.answer):
            raise error

    def unsubscribe(self, channel: str) -> None:
        """Stop listening to a channel at once; Redis is told in the background."""
        key = channel.encode()
        if subscription := self._subscriptions.pop(key, None):
            subscription.settle(LogUnavailable(f"listening to {channel} was ended"))
            self._arrived.pop(key, None)
            self._command(_Command("UNSUBSCRIBE", key))

    def start(self) -> None:
        """Connect, if not yet done, and stay connected."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run(), name="subscriber")

    async def aclose(self) -> None:
        """Stop listening and close the connection."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
            self.connected = False
        for subscription in self._subscriptions.values():
            subscription.settle(LogUnavailable("listening was ended"))
        self._subscriptions.clear()
        await self._redis.aclose()

    def _command(self, command: _Command) -> None:
        """Have a command sent. Where there is no connection, the next one begins with all that there is to say."""
        if self._serving:
            self._commands.append(command)
            self._commanded.set()

    async def _run(self) -> None:
        waits = backoff(self._rng)
        while True:
            try:
                await self._listen()
            except Exception as error:
                # Whatever it is: a process that no longer listens is worse than one that tries in vain.
                if self.connected:
                    waits = backoff(self._rng)
                self.connected = False
                wait = next(waits)
                _log.warning("listening failed: %s; next try in %.1f s", error, wait)
                await asyncio.sleep(wait)

    async def _listen(self) -> None:
        """Make a connection and serve it until it fails."""
        pool: Any = self._redis.connection_pool
        connection = pool.make_connection()
        try:
            async with answering(self._url):
                await connection.connect()
            self._serving = True
            self._heard_at = asyncio.get_running_loop().time()
            self._awaited.clear()
            self._commands = [_Command("PING"), *(_Command("SUBSCRIBE", *each) for each in self._subscriptions.items())]
            tasks = [asyncio.create_task(self._receive(connection)), asyncio.create_task(self._send(connection))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()
        finally:
            self._serving = False
            await connection.disconnect(nowait=True)

    async def _send(self, connection: Any) -> None:
        """Send commands in their order, those of one moment together, and ping where there are none."""
        loop = asyncio.get_running_loop()
        while True:
            commands, self._commands = self._commands, []
            self._commanded.clear()
            self._awaited += commands
            async with answering(self._url):
                await connection.send_packed_command(
                    connection.pack_commands(command.packed() for command in commands), check_health=False
                )
            try:
                async with asyncio.timeout(PING_S):
                    await self._commanded.wait()
            except TimeoutError:
                self._command(_Command("PING"))
            if loop.time() - self._heard_at > 3 * PING_S:
                raise LogUnavailable(f"Redis at {without_password(self._url)} says nothing any more")

    async def _receive(self, connection: Any) -> None:
        """Take in whatever comes. Reading suspends only where nothing has come yet, so that the hand-over, which
        waits for its turn in the event loop, finds together what came together."""
        loop = asyncio.get_running_loop()
        with unavailable_as_error(self._url):
            while True:
                try:
                    reply = await connection.read_response(
                        timeout=math.inf, disconnect_on_error=False, push_request=True
                    )
                except redis.ResponseError as error:
                    reply = unavailable(self._url, error)
                self.connected = True
                self._heard_at = loop.time()
                if isinstance(reply, list) and reply[0] == b"message":
                    if not self._arrived:
                        loop.call_later(self._linger_s, self._hand_over)
                    self._arrived.setdefault(reply[1], []).append(reply[2])
                else:
                    self._answered(self._awaited.popleft(), reply)

    def _answered(self, command: _Command, reply: object) -> None:
        channel, subscription = command.channel, command.subscription
        if channel is None or subscription is None or self._subscriptions.get(channel) is not subscription:
            return
        again = subscription.answer.done()
        if isinstance(reply, LogUnavailable):
            if again:
                _log.error("listening to %s is refused: %s; next try in %.0f s", channel.decode(), reply, REFUSED_S)
                asyncio.get_running_loop().call_later(REFUSED_S, self._command, command)
            else:
                del self._subscriptions[channel]
                subscription.settle(reply)
        elif again:
            self._interrupt(channel)
        else:
            subscription.settle(None)

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, {}
        for channel, messages in arrived.items():
            if subscription := self._subscriptions.get(channel):
                try:
                    subscription.listener.take(messages)
                except Exception:
                    _log.exception("who listens to %s failed to take what came", channel.decode())
                    asyncio.get_running_loop().call_soon(self._interrupt, channel)

    def _interrupt(self, channel: bytes) -> None:
        if subscription := self._subscriptions.get(channel):
            try:
                subscription.listener.interrupted()
            except Exception:
                _log.exception("who listens to %s failed to make up for what was lost", channel.decode())
