"""One of the processes that serve a port together: `python -m workers.gateway.process`, started by the supervisor.

Its standard input is its end of the channel.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from websockets.datastructures import Headers
from websockets.http11 import Request

from streamer.core.errors import InvalidSetting
from streamer.gateway.internal import answer_internal
from streamer.gateway.server import Gateway
from workers.event_loops import loop_factory
from workers.gateway.channel import Answer, Ask, Channel, Failed, Order, Serving
from workers.gateway.serving import CannotListen, serve
from workers.logs import configure_logs


class _Process:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._told: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._draining = False
        self._gateway: Gateway | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve as ordered; return the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, self._told.put_nowait, signal.SIGINT)
        order = await self._channel.receive()
        if not isinstance(order, Order):
            return 1
        configure_logs(order.log_level, str(order.number))
        listening = asyncio.create_task(self._listen())
        try:
            await serve(order.settings, self._told, self._serving)
        except (CannotListen, InvalidSetting) as error:
            self._channel.send(Failed(str(error)))
            return 1
        finally:
            listening.cancel()
            await self._channel.close()
        return 0

    def _drain(self) -> None:
        """Stop as SIGTERM asks for. Once: who sends it to all processes and the supervisor wants it no quicker."""
        if not self._draining:
            self._draining = True
            self._told.put_nowait(signal.SIGTERM)

    def _serving(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._channel.send(Serving())

    async def _listen(self) -> None:
        """Answer what the supervisor asks; drain when it is gone."""
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Ask) and self._gateway is not None:
                task = asyncio.create_task(self._answer(self._gateway, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._drain()

    async def _answer(self, gateway: Gateway, ask: Ask) -> None:
        response = await answer_internal(gateway.hub, gateway.endings, gateway.draining, Request(ask.path, Headers()))
        self._channel.send(Answer(ask.number, response.status_code, bytes(response.body)))


async def _run() -> int:
    return await _Process(await Channel.open(socket.socket(fileno=sys.stdin.fileno()))).run()


def main() -> None:
    """Serve, and end with the exit status."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        status = runner.run(_run())
    sys.exit(status)


if __name__ == "__main__":
    main()
