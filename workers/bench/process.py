"""What the processes of a bench have in common: an order on the first line of the input, then news until it is done."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from workers.bench.orders import tell
from workers.event_loops import loop_factory

NEWS_S = 0.1

Order = TypeVar("Order", bound=msgspec.Struct)


async def read_input() -> asyncio.StreamReader:
    """This process's standard input, for the running event loop."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def tell_news(news: Callable[[], msgspec.Struct]) -> None:
    """Tell the command again and again what there is to tell, until cancelled."""
    while True:
        tell(news())
        await asyncio.sleep(NEWS_S)


def run_order(kind: type[Order], serve: Callable[[Order], Coroutine[Any, Any, None]]) -> None:
    """Take the order from the first line of the input, and serve it to its end."""
    # Without a buffer: what follows is the event loop's to read.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as told:
        order = msgspec.json.decode(told.readline(), type=kind)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(order))
