"""The gateway processes that serve a port together: each is kept running until all are to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping
from random import Random

from streamer.core.backoff import backoff
from streamer.core.errors import StreamerError
from streamer.gateway.settings import GatewaySettings
from workers.gateway.channel import Answer, Order
from workers.gateway.child import ENDED_WELL, Child, Ended

STEADY_S = 60.0
"""A process that has served this long is started again as soon as the first time."""

STOP_TIMEOUT_S = 5.0
"""How long a process may take to end, beyond notice and drain, before it is killed."""

_log = logging.getLogger("streamer.gateway")


class CannotStart(StreamerError):
    """A process ended before it served; the text says how."""


class GatewayProcesses:
    """So many processes that serve alike, numbered from 1; for one event loop. Run it once.

    ``restarts`` tells of each how often it was started again, ``stopping`` is set once they are to stop.
    """

    def __init__(self, many: int, settings: GatewaySettings, log_level: str) -> None:
        self._orders = [Order(number, settings, log_level) for number in range(1, many + 1)]
        self._children: dict[int, Child] = {}
        self._stop_signal = signal.SIGTERM
        self.stopping = asyncio.Event()
        self.restarts = {order.number: 0 for order in self._orders}

    @property
    def serving(self) -> Mapping[int, Child]:
        """Those that have begun to serve and have not ended, by number."""
        return {number: child for number, child in sorted(self._children.items()) if child.serving}

    async def run(self) -> None:
        """Start them all, and each again whenever it has ended; return once they were told to stop and have ended.

        Raises CannotStart where one ends at the first start before it serves; then all have ended.
        """
        keeping = [asyncio.create_task(self._keep(order)) for order in self._orders]
        _, others = await asyncio.wait(keeping, return_when=asyncio.FIRST_EXCEPTION)
        if others:
            self.tell(signal.SIGINT)
            _, stuck = await asyncio.wait(others, timeout=STOP_TIMEOUT_S)
            if stuck:
                self.tell(signal.SIGKILL)
                await asyncio.wait(stuck)
        for error in filter(None, [task.exception() for task in keeping]):
            raise error

    def tell(self, number: signal.Signals) -> None:
        """Stop them: SIGTERM drains, SIGINT ends at once, SIGKILL kills. Any may follow another."""
        self._stop_signal = number
        self.stopping.set()
        for child in self._children.values():
            child.tell(number)

    async def ask(self, path: str) -> dict[int, Answer | None]:
        """Ask each that serves for a path of its internal port; None is for one that does not answer in time."""

        async def ask(child: Child) -> Answer | None:
            try:
                return await child.ask(path)
            except TimeoutError:
                return None

        children = self.serving
        answers = await asyncio.gather(*map(ask, children.values()), return_exceptions=True)
        found: dict[int, Answer | None] = {}
        for number, answer in zip(children, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, Ended):
                    raise answer
            else:
                found[number] = answer
        return found

    async def _keep(self, order: Order) -> None:
        """Keep one running until all are to stop."""
        rng = Random()
        waits = backoff(rng)
        began = False
        while True:
            how, served_s = await self._live(order)
            if self.stopping.is_set():
                return
            began = began or served_s is not None
            if not began:
                raise CannotStart(how)
            if served_s is not None and served_s >= STEADY_S:
                waits = backoff(rng)
            pause_s = next(waits)
            _log.error("%s; it is started again in %.1f s", how, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self.stopping.wait()
                    return
            self.restarts[order.number] += 1

    async def _live(self, order: Order) -> tuple[str, float | None]:
        """Run one to its end; return how it ended, in words, and how many seconds it served, None for not at all."""
        name = f"gateway process {order.number}"
        try:
            child = await Child.start(order)
        except OSError as error:
            return f"{name} cannot be started: {error.strerror}", None
        self._children[order.number] = child
        if self.stopping.is_set():
            child.tell(self._stop_signal)
        try:
            how = await child.ended()
        finally:
            del self._children[order.number]
        if child.failure is not None:
            return f"{name}: {child.failure}", None
        if self.stopping.is_set() and child.serving and how != ENDED_WELL:
            _log.warning("%s ended with %s when it was to stop", name, how)
        return f"{name} ended with {how}", child.served_s
