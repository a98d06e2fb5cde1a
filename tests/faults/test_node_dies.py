"""Processes of a node are killed, or fork, while they publish: who watches sees each update that counts, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.commands import updates
from tests.faults.conftest import StartNode
from tests.faults.node import CHILDREN, EACH
from tests.faults.nodes import NodeProcess, check_log, has_seen, numbers_of
from tests.faults.watchers import Watcher, watching
from tests.gateways import GatewayProcess
from tests.servers import RedisServer

LIVES = 6


@pytest.fixture(scope="module")
def gateways(valkey: RedisServer) -> Iterator[list[GatewayProcess]]:
    with GatewayProcess(valkey.url) as one, GatewayProcess(valkey.url) as other:
        yield [one, other]


@pytest.fixture
async def watchers(gateways: list[GatewayProcess], node: str) -> AsyncIterator[list[Watcher]]:
    """Who watches the node, and its one job, at two gateways."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(watching(gateway, node, job))
            for gateway in gateways
            for job in (None, "job")
        ]


async def killed_soon(nodes: list[NodeProcess], rng: random.Random) -> None:
    """Let processes publish for a random while, and kill them at a random moment each."""
    for each in nodes:
        await each.until_accepted(1)
    for each in nodes:
        await asyncio.sleep(rng.uniform(0, 0.2))
        each.kill()


async def test_a_killed_process_with_a_durable_outbox_loses_nothing_that_was_accepted(
    valkey: RedisServer, start_node: StartNode, node: str, tmp_path: Path, watchers: list[Watcher]
) -> None:
    rng, nodes = random.Random(7), []
    settings = {"outbox_dir": tmp_path / "outbox", "outbox_sync": "normal"}

    def start() -> NodeProcess:
        nodes.append(start_node(valkey.url, "--pause-s", "0.0005", settings=settings))
        return nodes[-1]

    for _ in range(LIVES // 2):
        await killed_soon([start(), start()], rng)
    last = start()
    await last.until_accepted(10)
    await asyncio.to_thread(last.end)
    log = updates(valkey.url, node)
    check_log(log, *nodes)
    for watcher in watchers:
        await has_seen(watcher, log)


async def test_a_killed_process_without_one_loses_a_tail_of_what_was_not_acknowledged(
    valkey: RedisServer, start_node: StartNode, node: str, watchers: list[Watcher]
) -> None:
    rng, nodes = random.Random(8), []
    for _ in range(LIVES // 2):
        pair = [start_node(valkey.url, "--pause-s", "0.0005", "--flush-every", "20") for _ in range(2)]
        await killed_soon(pair, rng)
        nodes += pair
    last = start_node(valkey.url)
    await last.until_accepted(10)
    await asyncio.to_thread(last.end)
    log = updates(valkey.url, node)
    for each in nodes:
        published = numbers_of(log, each.first)
        assert published == list(range(each.first, each.first + len(published)))
        assert each.acknowledged <= len(published) <= len(each.accepted) + 1
    assert numbers_of(log, last.first) == last.accepted
    for watcher in watchers:
        await has_seen(watcher, log)


@pytest.mark.parametrize("way", ["os", "fork", "spawn", "forkserver"])
async def test_a_process_that_forks_while_it_publishes_and_its_children_have_each_update_there_once(
    valkey: RedisServer, start_node: StartNode, node: str, watchers: list[Watcher], way: str
) -> None:
    parent = start_node(valkey.url, "--pause-s", "0.001", "--fork", way)
    await asyncio.to_thread(parent.until, "forked")
    await asyncio.to_thread(parent.end)
    log = updates(valkey.url, node)
    firsts = range(parent.first, parent.first + (CHILDREN + 1) * 1_000_000, 1_000_000)
    for first in firsts:
        accepted = [n for n in parent.accepted if first <= n < first + 1_000_000]
        assert len(accepted) == EACH if first else len(accepted) > CHILDREN
        assert [update.state["n"] for update in log if first <= update.state["n"] < first + 1_000_000] == accepted
    assert len(log) == len(parent.accepted)
    for watcher in watchers:
        await has_seen(watcher, log)
