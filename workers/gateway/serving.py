"""A gateway in this process, from its start until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import re
import signal
from collections.abc import Callable

from streamer.core.errors import StreamerError
from streamer.gateway.server import Gateway
from streamer.gateway.settings import GatewaySettings
from streamer.log.url import without_password

GC_THRESHOLD = 100_000
"""The collector looks at new objects when so many more were made than freed; CPython's default is 700. What an update
makes is freed without it, and connections that come in a herd are not garbage."""

_log = logging.getLogger("streamer.gateway")


class CannotListen(StreamerError):
    """A port cannot be had; the text says which and why."""


def stopping_signals() -> asyncio.Queue[signal.Signals]:
    """A queue that gets each SIGTERM and SIGINT of this process from now on."""
    told: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.put_nowait, number)
    return told


async def serve(
    settings: GatewaySettings, told: asyncio.Queue[signal.Signals], serving: Callable[[Gateway], None] | None = None
) -> None:
    """Serve until a signal is told: SIGTERM drains, SIGINT does not, a second one of either ends notice and drain.

    ``serving`` is called once it listens. Raises CannotListen, and InvalidSetting where a file cannot be used.
    """
    server = Gateway(settings)
    try:
        await server.start()
    except OSError as error:
        raise cannot_listen(settings, error) from None
    # What is here now stays: the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    _log.info(
        "serving %s%s:%d/ from Redis at %s",
        settings.scheme,
        settings.host,
        server.port,
        without_password(settings.redis_url),
    )
    if serving is not None:
        serving(server)
    slow = await told.get() is signal.SIGTERM
    stopping = asyncio.create_task(server.stop() if slow else server.stop(0, 0))
    again = asyncio.create_task(told.get())
    await asyncio.wait([stopping, again], return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not stopping.done():
        stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    _log.info("stopped")


def cannot_listen(settings: GatewaySettings, error: OSError) -> CannotListen:
    """What to say where a port could not be had."""
    ports = {"--port": settings.port, "--internal-port": settings.internal_port}
    # asyncio and uvloop tell only in the error's text which address it was.
    named = {name: port for name, port in ports.items() if re.search(rf", {port}\b", str(error))}
    if error.errno == errno.EADDRINUSE and named:
        [(name, port), *_] = named.items()
        return CannotListen(f"port {port} of {settings.host} is in use; choose another with {name}")
    return CannotListen(f"cannot listen on {settings.host}: {error.strerror or error}")
