"""Fixtures of the gateway's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from streamer.gateway.server import Gateway
from tests.gateway.clients import Node, publishing, serving
from tests.servers import RedisServer


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run everything on the event loop that `streamer gateway` has, and on that of most programs that embed one."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
async def gateway(valkey: RedisServer) -> AsyncIterator[Gateway]:
    """A gateway with the default settings on the shared Valkey."""
    async with serving(valkey) as gateway:
        yield gateway


@pytest.fixture
def publisher(valkey: RedisServer, node: str) -> Iterator[Node]:
    """A node on the shared Valkey that publishes and keeps all."""
    with publishing(valkey, node) as publisher:
        yield publisher


@pytest.fixture
def forgetful(valkey: RedisServer, node: str) -> Iterator[Node]:
    """A node on the shared Valkey that keeps ten updates of each list."""
    with publishing(valkey, node, keep=10) as publisher:
        yield publisher
