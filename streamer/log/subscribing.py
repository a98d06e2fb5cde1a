"""One pub/sub connection for all channels of a process.

Deliveries are hints: whoever listens reads the log whenever it is told that some may have been lost. What one wake-up
of the connection brings is handed over together, one list per channel.
"""

from __future__ import annotations

import asyncio
import logging
import math
from itertools import groupby
from operator import itemgetter
from random import Random
from typing import Any, Protocol

from streamer.core.backoff import backoff
from streamer.core.errors import LogUnavailable
from streamer.log.connecting import answering, connect_async, without_password

PING_S = 2.0
"""A connection that brought nothing for so long is pinged; one that stays silent for twice that is given up."""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Whoever listens to a channel. Both methods are called in the event loop and must not block."""

    def take(self, messages: list[bytes]) -> None:
        """Take what has arrived, in order."""

    def interrupted(self) -> None:
        """Deliveries may have been lost, and work again from now on."""


class Subscriber:
    """Listens to channels; for one event loop. It connects with the first subscription and then stays connected.

    Raises InvalidSetting where the URL is none that we know.
    """

    def __init__(self, url: str, rng: Random | None = None) -> None:
        self._url = url
        self._rng = rng or Random()
        self._redis = connect_async(url, most_connections=1)
        self._listeners: dict[bytes, Listener] = {}
        self._confirmations: dict[bytes, asyncio.Future[None]] = {}
        self._commands: list[tuple[str, bytes]] = []
        self._commanded = asyncio.Event()
        self._arrived: dict[bytes, list[bytes]] = {}
        self._heard = False
        self._running: asyncio.Task[None] | None = None
        self.connected = False

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Listen to a channel; return once Redis has confirmed: from then on, what is published arrives.

        A channel has one listener. Cancelling leaves the subscription in place; `unsubscribe` ends it.
        """
        self.start()
        key = channel.encode()
        self._listeners[key] = listener
        confirmation = self._confirmations.get(key)
        if confirmation is None:
            confirmation = self._confirmations[key] = asyncio.get_running_loop().create_future()
            self._command("SUBSCRIBE", key)
        await asyncio.shield(confirmation)

    def unsubscribe(self, channel: str) -> None:
        """Stop listening to a channel at once; Redis is told in the background."""
        key = channel.encode()
        if self._listeners.pop(key, None) is not None:
            self._confirmations.pop(key).cancel()
            self._arrived.pop(key, None)
            self._command("UNSUBSCRIBE", key)

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
        await self._redis.aclose()

    def _command(self, verb: str, channel: bytes) -> None:
        self._commands.append((verb, channel))
        self._commanded.set()

    async def _run(self) -> None:
        pool: Any = self._redis.connection_pool
        waits = backoff(self._rng)
        while True:
            try:
                connection = await pool.get_connection()
                try:
                    waits = backoff(self._rng)
                    await self._listen(connection)
                finally:
                    self.connected = False
                    await connection.disconnect(nowait=True)
                    await pool.release(connection)
            except Exception as error:
                # Whatever it is: a process that no longer listens is worse than one that tries in vain.
                wait = next(waits)
                _log.warning(
                    "listening to Redis at %s failed: %s; next try in %.1f s", without_password(self._url), error, wait
                )
                await asyncio.sleep(wait)

    async def _listen(self, connection: Any) -> None:
        """Serve one connection until it fails."""
        self.connected = True
        self._commands = [("SUBSCRIBE", channel) for channel in self._listeners]
        self._commanded.set()
        tasks = [asyncio.create_task(self._receive(connection)), asyncio.create_task(self._send(connection))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _send(self, connection: Any) -> None:
        """Send commands in their order, those of one moment together, and ping where it is silent."""
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        while True:
            commands, self._commands = self._commands, []
            self._commanded.clear()
            for verb, group in groupby(commands, key=itemgetter(0)):
                await self._command_now(connection, verb, *(channel for _, channel in group))
            try:
                async with asyncio.timeout(PING_S):
                    await self._commanded.wait()
            except TimeoutError:
                await self._command_now(connection, "PING")
            if self._heard:
                self._heard = False
                silent_since = loop.time()
            elif loop.time() - silent_since > 3 * PING_S:
                raise LogUnavailable("the connection brings nothing any more") from None

    async def _command_now(self, connection: Any, *command: str | bytes) -> None:
        async with answering(self._url):
            await connection.send_command(*command, check_health=False)

    async def _receive(self, connection: Any) -> None:
        """Take in whatever comes. Reading suspends only where nothing has come yet, so that the hand-over, which
        waits for its turn in the event loop, finds together what came together."""
        hand_over = asyncio.get_running_loop().call_soon
        while True:
            reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False, push_request=True)
            self._heard = True
            if not isinstance(reply, list):
                continue
            kind, channel, content = reply if len(reply) == 3 else (reply[0], b"", b"")
            if kind == b"message":
                if not self._arrived:
                    hand_over(self._hand_over)
                self._arrived.setdefault(channel, []).append(content)
            elif kind == b"subscribe":
                self._confirm(channel)

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, {}
        for channel, messages in arrived.items():
            if listener := self._listeners.get(channel):
                listener.take(messages)

    def _confirm(self, channel: bytes) -> None:
        confirmation = self._confirmations.get(channel)
        if confirmation is None:
            return
        if confirmation.done():
            self._listeners[channel].interrupted()
        else:
            confirmation.set_result(None)
