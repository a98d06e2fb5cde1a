"""A gateway that is told to stop: not ready first, then nobody new, then all told one after another where to go on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from tests.commands import NO_REDIS, running
from tests.faults.watchers import DEADLINE_S, eventually
from tests.gateway.clients import path
from tests.gateways import GatewayProcess
from tests.servers import RedisServer

LONG_S = "600"
SERVICE_RESTART = 1012
KINDS = ["plain", "v1"]


@pytest.fixture(params=["1", "2"], ids=["one process", "two processes"])
def gateway(request: pytest.FixtureRequest, valkey: RedisServer) -> Iterator[GatewayProcess]:
    """One that gives notice and drains for longer than any test waits."""
    with GatewayProcess(valkey.url, "--processes", request.param, "--notice-s", LONG_S, "--drain-s", LONG_S) as gateway:
        yield gateway


def _connect(gateway: GatewayProcess, kind: str, node: str) -> connect:
    if kind == "v1":
        return connect(f"{gateway.url}/ws", subprotocols=[Subprotocol("streamer.v1.json")])
    return connect(gateway.url + path(node))


@asynccontextmanager
async def clients(gateway: GatewayProcess, node: str, many: int) -> AsyncIterator[list[ClientConnection]]:
    """So many of each kind."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_connect(gateway, kind, node)) for kind in KINDS for _ in range(many)]


async def test_during_the_notice_it_is_not_ready_and_serves_whoever_comes(gateway: GatewayProcess, node: str) -> None:
    gateway.process.terminate()
    await eventually("it is not ready", lambda: not gateway._ready())
    async with clients(gateway, node, 2) as late:
        for client in late:
            await (await client.ping())
        assert [client.close_code for client in late] == [None] * 4
        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(client.wait_closed() for client in late))
        assert {client.close_code for client in late} == {SERVICE_RESTART}
    assert await asyncio.to_thread(gateway.process.wait, DEADLINE_S) == 0


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_clients_are_told_one_after_another_and_a_second_signal_tells_the_rest_at_once(
    valkey: RedisServer, node: str, processes: str
) -> None:
    with GatewayProcess(valkey.url, "--processes", processes, "--drain-s", "60") as gateway:
        async with clients(gateway, node, 10) as all_:
            gateway.process.terminate()
            await eventually("the first is told", lambda: any(client.close_code for client in all_))
            with pytest.raises((OSError, InvalidHandshake)):
                async with _connect(gateway, "plain", node):
                    pass
            assert [client for client in all_ if client.close_code is None]
            gateway.process.terminate()
            for client in all_:
                with suppress(ConnectionClosed):
                    await client.recv()
                await client.wait_closed()
            assert {client.close_code for client in all_} == {SERVICE_RESTART}
        assert await asyncio.to_thread(gateway.process.wait, DEADLINE_S) == 0


async def test_a_node_that_ends_without_redis_says_how_much_it_could_not_send(node: str) -> None:
    arguments = ["node", node, "--job", "job", "--exit-flush-s", "0.5", "--", "sh", "-c", "true"]
    with running(*arguments, redis_url=NO_REDIS, stderr=subprocess.PIPE) as process:
        _, said = await asyncio.to_thread(process.communicate, None, DEADLINE_S)
    assert "Redis did not take the last 3 updates within 0.5 s" in said
    assert "3 updates lost" in said
