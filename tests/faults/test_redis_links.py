"""What lies between Redis and those who use it fails in every way that a network has: nobody misses anything."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import NamedTuple

import pytest

from streamer.core.names import Topic
from streamer.log.keys import Keys
from tests.commands import running, updates
from tests.faults.conftest import StartNode
from tests.faults.nodes import check_log, has_seen
from tests.faults.watchers import NEVER_S, eventually, watching
from tests.gateways import GatewayProcess
from tests.proxies import Proxy
from tests.servers import RedisServer

TURNS = 2
"""How often each fault happens in a test."""

JOBS = [None, "job"]


class Links(NamedTuple):
    """A Redis, and the links by which nodes and gateways reach it."""

    server: RedisServer
    of_nodes: Proxy
    of_gateways: Proxy

    def each(self, fail: Callable[[Proxy], None]) -> None:
        """Have both fail in a way."""
        fail(self.of_nodes)
        fail(self.of_gateways)

    def kill_clients(self, kind: str) -> None:
        """Have the server end the connections of a kind."""
        with self.server.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", kind)  # type: ignore[no-untyped-call]


@contextmanager
def linked(server: RedisServer) -> Iterator[Links]:
    with Proxy(server.port) as of_nodes, Proxy(server.port) as of_gateways:
        yield Links(server, of_nodes, of_gateways)


@pytest.fixture
def links(valkey: RedisServer) -> Iterator[Links]:
    with linked(valkey) as links:
        yield links


async def cut(links: Links) -> None:
    links.each(Proxy.cut)
    await asyncio.sleep(0.3)
    links.each(Proxy.mend)


async def half_close(links: Links) -> None:
    links.each(Proxy.half_close)


async def be_slow(links: Links) -> None:
    links.each(lambda link: link.delay(0.15))
    await asyncio.sleep(0.5)
    links.each(lambda link: link.delay(0))


async def be_silent(links: Links) -> None:
    links.each(Proxy.hold)
    await asyncio.sleep(0.5)
    links.each(Proxy.release)


async def be_silent_and_then_cut(links: Links) -> None:
    """The node does not learn that what it has sent was appended."""
    links.each(Proxy.hold)
    await asyncio.sleep(0.3)
    links.each(Proxy.end_all)
    links.each(Proxy.release)


async def kill_subscribers(links: Links) -> None:
    links.kill_clients("pubsub")


async def kill_all_others(links: Links) -> None:
    links.kill_clients("normal")


Fail = Callable[[Links], Awaitable[None]]


@pytest.mark.parametrize("fail", [cut, half_close, be_slow, be_silent, be_silent_and_then_cut])
async def test_links_that_fail_under_load_cost_no_update(
    links: Links, start_node: StartNode, node: str, fail: Fail
) -> None:
    await check_under_load(links, start_node, node, fail)


@pytest.mark.parametrize("fail", [kill_subscribers, kill_all_others])
async def test_connections_that_the_server_ends_under_load_cost_no_update(
    real_store: RedisServer, start_node: StartNode, node: str, fail: Fail
) -> None:
    with linked(real_store) as links:
        await check_under_load(links, start_node, node, fail)


async def check_under_load(links: Links, start_node: StartNode, node: str, fail: Fail) -> None:
    """Fail in a way again and again; what is then lost is not found by looking, but since it is known to be."""
    publishing = start_node(links.of_nodes.url)
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(links.of_gateways.url, "--check-s", NEVER_S))
        watchers = [await stack.enter_async_context(watching(gateway, node, job)) for job in JOBS]
        for _ in range(TURNS):
            await publishing.until_accepted(50)
            await watchers[0].until_index(len(watchers[0].seen) + 50)
            await fail(links)
        await asyncio.to_thread(publishing.end)
        log = updates(links.server.url, node)
        check_log(log, publishing)
        for watcher in watchers:
            await has_seen(watcher, log)
        await eventually("the gateway is ready again", gateway._ready)


def publish(process: subprocess.Popen[str], *numbers: int) -> None:
    """Have a process of `streamer publish` publish updates."""
    assert process.stdin is not None
    for n in numbers:
        process.stdin.write(json.dumps({"status": "running", "job": "job", "n": n}) + "\n")
        process.stdin.flush()


@pytest.mark.parametrize("last", [False, True])
async def test_messages_that_pub_sub_loses_are_read_from_the_log(links: Links, node: str, last: bool) -> None:
    """One in the middle shows by the next; the last by looking, though the connection is as it should be."""
    link = links.of_gateways
    check_s = "0.5" if last else NEVER_S
    async with AsyncExitStack() as stack:
        process = stack.enter_context(
            running("publish", node, "-", redis_url=links.of_nodes.url, stdin=subprocess.PIPE)
        )
        gateway = stack.enter_context(GatewayProcess(link.url, "--check-s", check_s))
        publish(process, 0)
        watchers = [await stack.enter_async_context(watching(gateway, node, job)) for job in JOBS]
        for n in (1, 3):
            for watcher in watchers:
                await watcher.until_index(n - 1)
            swallowed = link.swallowed
            for job in JOBS:
                link.swallow_next(Keys().records(Topic(node, job)))
            publish(process, n)
            await eventually("it is lost", lambda count=swallowed + 2: link.swallowed == count)
            if not last:
                assert [watcher.indexes[-1] for watcher in watchers] == [n - 1] * 2
            for watcher in watchers if last else []:
                await watcher.until_index(n)
            publish(process, n + 1)
        for watcher in watchers:
            await watcher.until_index(4)
            assert [seen.number for seen in watcher.seen] == watcher.indexes == list(range(5))
