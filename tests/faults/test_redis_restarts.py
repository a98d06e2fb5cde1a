"""Redis ends under load, and is there again: with its data nothing is lost, without it the log begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect as websocket

from streamer.core.messages import RESET
from streamer.core.records import Update
from streamer.log.keys import Keys
from tests.commands import updates
from tests.faults.conftest import StartNode
from tests.faults.nodes import check_log, has_seen, numbers_of, records
from tests.faults.roaming import Roamer, roaming
from tests.faults.watchers import watching
from tests.gateway.clients import end, path
from tests.gateways import GatewayProcess
from tests.proxies import Proxy
from tests.servers import RedisServer


def log_id(server: RedisServer, node: str) -> str:
    with server.client() as client:
        found = client.hget(Keys().log(node), "id")
    assert isinstance(found, bytes)
    return found.decode()


async def test_redis_killed_and_started_again_with_its_data_loses_nothing(
    own_store: RedisServer, start_node: StartNode, node: str
) -> None:
    nodes = [start_node(own_store.url, "--job", f"job-{n}") for n in range(2)]
    async with AsyncExitStack() as stack:
        gateways = [stack.enter_context(GatewayProcess(own_store.url)) for _ in range(2)]
        topics = [None, "job-0", "job-1"]
        watchers = [
            await stack.enter_async_context(watching(gateway, node, job)) for gateway in gateways for job in topics
        ]
        await watchers[0].until_index(100)
        before = log_id(own_store, node)
        for _ in range(2):
            await asyncio.to_thread(own_store.kill)
            await nodes[0].until_accepted(50)
            await asyncio.to_thread(own_store.start)
            await watchers[0].until_index(watchers[0].seen[-1].index + 200)
        for each in nodes:
            await asyncio.to_thread(each.end)
        check_log(updates(own_store.url, node), *nodes)
        assert log_id(own_store, node) == before
        for watcher, job in zip(watchers, topics * 2, strict=True):
            await has_seen(watcher, updates(own_store.url, node, job or "all"))


def flush_all(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


def start_without_data(server: RedisServer) -> None:
    server.kill()
    server.forget()
    server.start()


Empty = Callable[[RedisServer], None]
EMPTYINGS = pytest.mark.parametrize("empty", [flush_all, start_without_data])


@EMPTYINGS
async def test_an_emptied_redis_is_told_and_gets_again_what_publishers_still_hold(
    own_valkey: RedisServer, start_node: StartNode, node: str, empty: Empty
) -> None:
    """They hold all that was acknowledged in the last minute: only what ended processes had published is lost."""
    dead = start_node(own_valkey.url)
    await dead.until_accepted(20)
    await asyncio.to_thread(dead.end)
    nodes = [start_node(own_valkey.url) for _ in range(2)]
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(own_valkey.url))
        balancer = stack.enter_context(Proxy(gateway.port))
        watchers = await stack.enter_async_context(roaming(balancer, node, None, "job", None, "job"))
        plain = await stack.enter_async_context(websocket(gateway.url + path(node), max_size=None))
        for watcher in watchers:
            await watcher.until("it watches", lambda seen: len(seen) > 100)
        first = log_id(own_valkey, node)
        await asyncio.to_thread(empty, own_valkey)
        told = await end(plain)
        assert (told.code, told.reason.partition(":")[0]) == (RESET, "reset")
        for each in nodes:
            await each.until_accepted(100)
        for each in nodes:
            await asyncio.to_thread(each.end)
        log, anew = updates(own_valkey.url, node), log_id(own_valkey, node)
        assert anew != first
        check_log(log, *nodes)
        for watcher in watchers:
            await came_over(watcher, log, first, anew)


async def came_over(watcher: Roamer, log: Sequence[Update], first: str, anew: str) -> None:
    """Return once a watcher has come to the end of a new log; fail unless it was told once, and has seen all of that.

    Of the first log, it must have seen a part from the start on, each record once and in order.
    """
    last = records(log)[-1]
    await watcher.until(f"{last} arrives", lambda seen: watcher.log_ids[-1] == anew and seen[-1] == last)
    old = watcher.log_ids.count(first)
    assert watcher.log_ids == [first] * old + [anew] * len(log)
    assert watcher.seen[old:] == records(log)
    assert watcher.indexes[:old] == list(range(old))
    assert len({seen.number for seen in watcher.seen[:old]}) == old
    assert watcher.news == ["reset"]


@EMPTYINGS
async def test_what_publishers_hold_no_more_when_redis_is_emptied_is_lost_and_nothing_behind_it(
    own_valkey: RedisServer, start_node: StartNode, node: str, empty: Empty
) -> None:
    held = 10
    publishing = start_node(own_valkey.url, settings={"resend_records": held})
    with GatewayProcess(own_valkey.url) as gateway, Proxy(gateway.port) as balancer:
        async with roaming(balancer, node, None, "job") as watchers:
            for watcher in watchers:
                await watcher.until_index(200)
            first = log_id(own_valkey, node)
            await asyncio.to_thread(empty, own_valkey)
            most = len(publishing.accepted)
            await publishing.until_accepted(100)
            await asyncio.to_thread(publishing.end)
            log = updates(own_valkey.url, node)
            lost = len(publishing.accepted) - len(log)
            assert 0 < lost <= most + 1 - held  # one may be accepted and not yet told
            assert numbers_of(log, publishing.first) == publishing.accepted[lost:]
            for watcher in watchers:
                await came_over(watcher, log, first, log_id(own_valkey, node))
