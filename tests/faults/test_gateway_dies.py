"""Gateways that are killed or stopped under load: all who watched go on at another, and miss and repeat nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from tests.commands import updates
from tests.faults.conftest import StartNode
from tests.faults.nodes import check_log, has_seen
from tests.faults.roaming import Roamer, roaming
from tests.faults.watchers import DEADLINE_S
from tests.gateways import GatewayProcess
from tests.proxies import Proxy
from tests.servers import RedisServer

TOPICS = [None, "job-0", "job-1"] * 2


@pytest.fixture
def gateways(real_store: RedisServer) -> Iterator[list[GatewayProcess]]:
    with GatewayProcess(real_store.url) as one, GatewayProcess(real_store.url) as other:
        yield [one, other]


def front(stack: AsyncExitStack, gateway: GatewayProcess) -> Proxy:
    """What stands before a gateway, and can lead to another."""
    return stack.enter_context(Proxy(gateway.port))


async def further(watchers: list[Roamer]) -> None:
    """Return once each has seen some more."""
    counts = [len(watcher.seen) for watcher in watchers]
    for watcher, count in zip(watchers, counts, strict=True):
        await watcher.until("more arrives", lambda seen, least=count + 20: len(seen) >= least)


async def test_who_watched_at_a_gateway_that_is_killed_resumes_at_another(
    real_store: RedisServer, gateways: list[GatewayProcess], start_node: StartNode, node: str
) -> None:
    nodes = [start_node(real_store.url, "--job", f"job-{n}") for n in range(2)]
    async with AsyncExitStack() as stack:
        fronts = [front(stack, gateway) for gateway in gateways]
        groups = [await stack.enter_async_context(roaming(each, node, *TOPICS)) for each in fronts]
        watchers = groups[0] + groups[1]
        await further(watchers)
        for turn in range(3):
            dying, living = gateways[turn % 2], gateways[(turn + 1) % 2]
            dying.kill()
            fronts[turn % 2].lead_to(living.port)
            await further(watchers)
            gateways[turn % 2] = stack.enter_context(GatewayProcess(real_store.url))
            fronts[turn % 2].lead_to(gateways[turn % 2].port)
        for each in nodes:
            await asyncio.to_thread(each.end)
        check_log(updates(real_store.url, node), *nodes)
        for watcher, job in zip(watchers, TOPICS * 2, strict=True):
            await has_seen(watcher, updates(real_store.url, node, job or "all"))
            assert [told for told in watcher.news if told.startswith("the connection broke")]


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_who_watched_at_a_gateway_that_is_stopped_is_told_and_goes_on_at_another(
    valkey: RedisServer, start_node: StartNode, node: str, processes: str
) -> None:
    nodes = [start_node(valkey.url, "--job", f"job-{n}") for n in range(2)]
    async with AsyncExitStack() as stack:
        options = ("--processes", processes, "--drain-s", "1")
        one = stack.enter_context(GatewayProcess(valkey.url, *options))
        other = stack.enter_context(GatewayProcess(valkey.url, *options))
        balancer = front(stack, one)
        watchers = await stack.enter_async_context(roaming(balancer, node, *TOPICS, *TOPICS))
        await further(watchers)
        last = stack.enter_context(GatewayProcess(valkey.url))
        for turn, (stopping, next_) in enumerate(((one, other), (other, last)), 1):
            balancer.lead_to(next_.port)
            stopping.process.terminate()
            assert await asyncio.to_thread(stopping.process.wait, DEADLINE_S) == 0
            for watcher in watchers:
                await watcher.until("it is back", lambda _, own=watcher, turn=turn: own.news.count("connected") >= turn)
            await further(watchers)
        for each in nodes:
            await asyncio.to_thread(each.end)
        check_log(updates(valkey.url, node), *nodes)
        for watcher, job in zip(watchers, TOPICS * 2, strict=True):
            await has_seen(watcher, updates(valkey.url, node, job or "all"))
            ends = [sentence for sentence in watcher.news if sentence != "connected"]
            assert [sentence.partition(";")[0] for sentence in ends] == ["service restart"] * 2
