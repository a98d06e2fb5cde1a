"""`streamer gateway --processes N`: the process that starts those that serve, and ends with them."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace

from streamer.gateway.settings import GatewaySettings
from streamer.log.url import without_password
from workers.gateway.internal_port import InternalPort
from workers.gateway.ports import claim
from workers.gateway.processes import STOP_TIMEOUT_S, GatewayProcesses
from workers.gateway.serving import cannot_listen, stopping_signals

_log = logging.getLogger("streamer.gateway")


def supervise(settings: GatewaySettings, processes: int, log_level: str) -> None:
    """Have so many processes serve one port until a signal comes.

    SIGTERM drains them, SIGINT does not; a second one of either ends notice and drain, a third kills them. Raises
    CannotListen or CannotStart where that fails at the start; nothing is left running then.
    """
    with ExitStack() as stack:
        try:
            port = stack.enter_context(claim(settings.host, settings.port))
        except OSError as error:
            raise cannot_listen(settings, error) from None
        # Not uvloop: there is little to do here.
        asyncio.run(_supervise(replace(settings, port=port), processes, log_level))


async def _supervise(settings: GatewaySettings, many: int, log_level: str) -> None:
    told = stopping_signals()
    processes = GatewayProcesses(many, replace(settings, internal_port=None, reuse_port=True), log_level)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(InternalPort(settings.host, settings.internal_port, processes))
        except OSError as error:
            raise cannot_listen(settings, error) from None
        _log.info(
            "starting %d processes to serve %s%s:%d/ from Redis at %s",
            many,
            settings.scheme,
            settings.host,
            settings.port,
            without_password(settings.redis_url),
        )
        running = asyncio.create_task(processes.run())
        if number := await _signal_while(running, told, None):
            await _stop(processes, running, told, number, settings.notice_s + settings.drain_s)
        await running
    _log.info("stopped")


async def _stop(
    processes: GatewayProcesses,
    running: asyncio.Task[None],
    told: asyncio.Queue[signal.Signals],
    number: signal.Signals,
    stop_s: float,
) -> None:
    """End the processes, each time quicker: when another signal comes, or when they have had their time."""
    steps: list[tuple[signal.Signals, float | None]] = [
        (signal.SIGTERM, stop_s + STOP_TIMEOUT_S),
        (signal.SIGINT, STOP_TIMEOUT_S),
        (signal.SIGKILL, None),
    ]
    for how, timeout_s in steps[number is signal.SIGINT :]:
        processes.tell(how)
        await _signal_while(running, told, timeout_s)
        if running.done():
            return


async def _signal_while(
    running: asyncio.Task[None], told: asyncio.Queue[signal.Signals], timeout_s: float | None
) -> signal.Signals | None:
    """The next signal; None where the processes end before, or the time."""
    hearing = asyncio.create_task(told.get())
    await asyncio.wait([running, hearing], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if hearing.done():
        return hearing.result()
    hearing.cancel()
    return None
