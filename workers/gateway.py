"""`streamer gateway`: a process that serves those who watch."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import re
import signal
from collections.abc import Callable

import click

from streamer.core.errors import StreamerError
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import Gateway
from streamer.gateway.settings import GatewaySettings
from streamer.log.connecting import without_password
from streamer.log.keys import Keys
from workers.logs import configure_logs
from workers.options import DEFAULT_PORT, Seconds, option, redis_options

_log = logging.getLogger("streamer.gateway")

GC_THRESHOLD = 100_000
"""The collector looks at new objects when so many more were made than freed; CPython's default is 700. What an update
makes is freed without it, and connections that come in a herd are not garbage."""

_HUB = HubSettings()


class CannotListen(StreamerError):
    """A port cannot be had; the text says which and why."""


@click.command(short_help="Serve those who watch: WebSockets, the HTTP API and the web page.")
@redis_options
@option("--host", default=GatewaySettings.host, help="The address to listen on; 0.0.0.0 for all.")
@option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, help="The port to listen on; 0 for a free one.")
@option("--internal-port", type=click.IntRange(0, 65535), help="A port for /healthz, /readyz and /metrics.")
@option("--drain-s", type=Seconds(), default=GatewaySettings.drain_s, help="Seconds over which SIGTERM closes clients.")
@option(
    "--ping-s", type=Seconds(more_than_0=True), default=GatewaySettings.ping_s, help="Seconds between keep-alive pings."
)
@option("--keep-s", type=Seconds(), default=_HUB.keep_s, help="Seconds that a topic is kept without a watcher.")
@option(
    "--check-s", type=Seconds(more_than_0=True), default=_HUB.check_s, help="Seconds between looks for lost deliveries."
)
@option("--memory-bytes", type=int, default=_HUB.memory_bytes, help="Bytes of history kept in memory.")
@option(
    "--stall-s",
    type=Seconds(more_than_0=True),
    default=_HUB.stall_s,
    help="Seconds that a client may take nothing before it is closed.",
)
@option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="What to log.")
def gateway(
    redis_url: str,
    prefix: str,
    host: str,
    port: int,
    internal_port: int | None,
    drain_s: float,
    ping_s: float,
    keep_s: float,
    check_s: float,
    memory_bytes: int,
    stall_s: float,
    log_level: str,
) -> None:
    """Serve those who watch: WebSockets, the HTTP API and the web page.

    \b
    ws://HOST:PORT/nodes/NODE                 every update of a node: what is kept, then live
    ws://HOST:PORT/nodes/NODE/jobs/JOB        those of a job
      ?after=CURSOR                           resume behind an update (its `cursor`, or its `index`)
      ?history=all|none|N                     how much comes first
    http://HOST:PORT/                         the page
    http://HOST:PORT/api/nodes                the fleet, as JSON

    Any number of gateways may serve the same Redis. SIGTERM drains: clients are closed bit by bit and resume
    elsewhere. Ctrl-C ends at once.
    """
    configure_logs(log_level)
    hub = HubSettings(keep_s=keep_s, check_s=check_s, memory_bytes=memory_bytes, stall_s=stall_s)
    settings = GatewaySettings(redis_url, Keys(prefix), host, port, internal_port, drain_s, ping_s, hub)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: GatewaySettings) -> None:
    """Serve until a signal comes: SIGTERM drains, SIGINT does not, a second one of either ends the drain."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.put_nowait, number)
    server = Gateway(settings)
    try:
        await server.start()
    except OSError as error:
        raise _cannot_listen(settings, error) from None
    # What is here now stays: the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    _log.info(
        "serving http://%s:%d/ from Redis at %s", settings.host, server.port, without_password(settings.redis_url)
    )
    drain_s = settings.drain_s if await told.get() is signal.SIGTERM else 0.0
    stopping = asyncio.create_task(server.stop(drain_s))
    again = asyncio.create_task(told.get())
    await asyncio.wait([stopping, again], return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not stopping.done():
        stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    _log.info("stopped")


def _cannot_listen(settings: GatewaySettings, error: OSError) -> CannotListen:
    ports = {"--port": settings.port, "--internal-port": settings.internal_port}
    # asyncio and uvloop tell only in the error's text which address it was.
    named = {name: port for name, port in ports.items() if re.search(rf", {port}\b", str(error))}
    if error.errno == errno.EADDRINUSE and named:
        [(name, port), *_] = named.items()
        return CannotListen(f"port {port} of {settings.host} is in use; choose another with {name}")
    return CannotListen(f"cannot listen on {settings.host}: {error.strerror or error}")
