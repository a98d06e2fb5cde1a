"""A subscription that no longer delivers is noticed: the gateway is not ready meanwhile, and nothing is missed."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from streamer import NodeSettings
from streamer.state_streamer import StateStreamer
from tests.faults.watchers import NEVER_S, Watcher, eventually, watching
from tests.gateways import GatewayProcess
from tests.proxies import Proxy
from tests.servers import RedisServer, wait_until
from tests.streamers import Make

SOON_S = 12.0
"""Within so many seconds deafness must be noticed."""


@pytest.fixture
def proxy(own_valkey: RedisServer) -> Iterator[Proxy]:
    with Proxy(own_valkey.port) as proxy:
        yield proxy


@pytest.fixture
def gateway(proxy: Proxy) -> Iterator[GatewayProcess]:
    """One behind the proxy, that does not look for lost deliveries."""
    with GatewayProcess(proxy.url, "--check-s", NEVER_S) as gateway:
        yield gateway


@pytest.fixture
def streamer(own_valkey: RedisServer, streaming: Make) -> StateStreamer:
    """A node that reaches the server without the proxy."""
    return streaming(redis_url=own_valkey.url)


@pytest.fixture
async def watcher(gateway: GatewayProcess, streamer: StateStreamer, node: str) -> AsyncIterator[Watcher]:
    """Someone who has seen the first update."""
    publish(streamer, 1)
    async with watching(gateway, node) as watcher:
        await watcher.until_index(0)
        yield watcher


def publish(streamer: StateStreamer, many: int, **state: str) -> None:
    """Publish updates; return once they are acknowledged."""
    for _ in range(many):
        streamer.update("running", state)
    streamer.flush()


async def test_a_connection_whose_answers_are_swallowed(
    proxy: Proxy, gateway: GatewayProcess, streamer: StateStreamer, watcher: Watcher
) -> None:
    proxy.hold()
    publish(streamer, 5)
    await eventually("the gateway is not ready", lambda: not gateway._ready(), SOON_S)
    proxy.release()
    await watcher.until_index(5)
    await eventually("the gateway is ready again", gateway._ready)
    publish(streamer, 5)
    await watcher.until_index(10)
    assert watcher.indexes == list(range(11))


async def test_a_server_that_answers_and_to_which_nobody_publishes_any_more(
    own_valkey: RedisServer, proxy: Proxy, gateway: GatewayProcess, watcher: Watcher, node: str
) -> None:
    """Its name leads to its successor now, and it was never told that it is a master no more."""
    with RedisServer("valkey") as successor:
        with own_valkey.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        with successor.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", own_valkey.port)  # type: ignore[no-untyped-call]
            wait_until("it has the data", lambda: client.exists(f"streamer:{{{node}}}:log"))
            client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
        proxy.lead_to(successor.port)
        publishing = StateStreamer(node, NodeSettings(redis_url=successor.url))
        publish(publishing, 5)
        await watcher.until_index(5)
        publish(publishing, 5)
        await watcher.until_index(10)
        publishing.close()
    assert watcher.indexes == list(range(11))


async def test_a_server_that_ends_the_subscription_since_its_buffer_is_full(
    own_valkey: RedisServer, gateway: GatewayProcess, streamer: StateStreamer, watcher: Watcher
) -> None:
    with own_valkey.client() as client:
        client.config_set("client-output-buffer-limit", "pubsub 100kb 0 0")

        def ended() -> bool:
            # Nobody can say how much the kernel and the proxy hold before the server's buffer begins to fill.
            if client.client_list(_type="pubsub"):
                publish(streamer, 50, padding="x" * 100_000)
                return False
            return True

        gateway.process.send_signal(signal.SIGSTOP)
        try:
            wait_until("the server has ended it", ended)
        finally:
            gateway.process.send_signal(signal.SIGCONT)
    last = streamer.index - 1
    await watcher.until_index(last)
    publish(streamer, 5)
    await watcher.until_index(last + 5)
    assert watcher.indexes == list(range(last + 6))


async def test_a_server_that_pauses_its_clients(
    own_valkey: RedisServer, gateway: GatewayProcess, streamer: StateStreamer, watcher: Watcher
) -> None:
    with own_valkey.client() as client:
        client.client_pause(8000)
        await eventually("the gateway is not ready", lambda: not gateway._ready(), SOON_S)
        publish_soon(streamer, 5)
    await watcher.until_index(5)
    await eventually("the gateway is ready again", gateway._ready)
    assert watcher.indexes == list(range(6))


def publish_soon(streamer: StateStreamer, many: int) -> None:
    """Publish updates, which the server may not take yet."""
    for _ in range(many):
        streamer.update("running", {})
