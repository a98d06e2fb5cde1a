"""The fleet over real sockets: the newest of every node, then changes, by v1 and by the plain endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from redis import Redis
from websockets.asyncio.client import ClientConnection
from websockets.typing import Subprotocol

from streamer.fanout import fleet_feed
from streamer.fanout.fleet_feed import PAGE_NODES
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import Gateway
from streamer.log.fleet import Summary, Told
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from tests.gateway.clients import DEADLINE_S, connect, end, eventually, receive, refusal, serving
from tests.gateway.v1 import JSON, MSGPACK, Talker, talking
from tests.servers import RedisServer

FORMATS = pytest.mark.parametrize("format", [JSON, MSGPACK])
FLEET = Keys().fleet


class Fleet:
    """Nodes that report."""

    def __init__(self, store: RedisServer, stack: ExitStack) -> None:
        self.store, self._stack = store, stack
        self._logs: dict[str, NodeLog] = {}

    def log(self, node: str) -> NodeLog:
        """The log of a node."""
        if node not in self._logs:
            self._logs[node] = self._stack.enter_context(NodeLog(self.store.url, Keys(), node))
        return self._logs[node]

    def report(self, node: str, n: int, job: str | None = None) -> dict[str, Any]:
        """Have a node report; return what is told of it."""
        self.log(node).report(Summary(n, f"status-{n}", job, n))
        return told(node, n, job)


def told(node: str, n: int, job: str | None = None) -> dict[str, Any]:
    """What is told of a node."""
    summary = {"node": node, "last_seen": n, "status": f"status-{n}", "index": n}
    return summary if job is None else {**summary, "job": job}


@pytest.fixture
def fleet(own_valkey: RedisServer) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(own_valkey, stack)


@pytest.fixture
async def own_gateway(own_valkey: RedisServer) -> AsyncIterator[Gateway]:
    """One that looks at the fleet only when it is told to."""
    async with serving(own_valkey, hub=HubSettings(check_s=3600)) as gateway:
        yield gateway


@pytest.fixture
def redis(own_valkey: RedisServer) -> Iterator[Redis]:
    with own_valkey.client() as redis:
        yield redis


class View:
    """The fleet as a client knows it."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.messages = 0

    def take(self, nodes: list[dict[str, Any]]) -> None:
        for node in nodes:
            self.messages += 1
            if node.get("gone"):
                self.nodes.pop(node["node"], None)
            else:
                self.nodes[node["node"]] = node

    async def talk(self, client: Talker, nodes: dict[str, dict[str, Any]]) -> None:
        """Hear of changes until the fleet is this one."""
        while self.nodes != nodes:
            message = await client.hear()
            assert message["op"] == "nodes"
            self.take(message["nodes"])

    async def read(self, plain: ClientConnection, nodes: dict[str, dict[str, Any]]) -> None:
        """As `talk`."""
        async with asyncio.timeout(DEADLINE_S):
            while self.nodes != nodes:
                self.take([json.loads(await plain.recv())])


@FORMATS
async def test_the_newest_of_each_node_comes_first_and_then_changes(
    own_gateway: Gateway, fleet: Fleet, format: Subprotocol
) -> None:
    nodes = {node: fleet.report(node, n, job) for n, (node, job) in enumerate([("a", None), ("b", "j"), ("ü/:", None)])}
    async with talking(own_gateway, format) as client, connect(own_gateway, "/fleet") as plain:
        assert await client.ask("subscribe", node="*", id=1) == {"op": "subscribed", "node": "*", "id": 1}
        first, live = await client.hear(), await client.hear()
        assert {node["node"]: node for node in first["nodes"]} == nodes
        assert live == {"op": "live", "node": "*"}
        assert {node["node"]: node for node in await receive(plain, 3)} == nodes
        change = fleet.report("a", 7, "j2")
        assert await client.hear() == {"op": "nodes", "node": "*", "nodes": [change]}
        assert await receive(plain, 1) == [change]
        new = fleet.report("new", 8)
        assert (await client.hear())["nodes"] == await receive(plain, 1) == [new]


async def test_one_unsubscribes_from_the_fleet_and_may_come_back(own_gateway: Gateway, fleet: Fleet) -> None:
    fleet.report("a", 1)
    async with talking(own_gateway) as client:
        assert (await client.ask("unsubscribe", node="*"))["code"] == "not_subscribed"
        await client.ask("subscribe", node="*")
        await client.hear_until("live")
        assert (await client.ask("subscribe", node="*"))["code"] == "already_subscribed"
        assert await client.ask("unsubscribe", node="*", id="x") == {"op": "unsubscribed", "node": "*", "id": "x"}
        fleet.report("a", 2)
        assert (await client.ask("subscribe", node="*"))["op"] == "subscribed"
        view = View()
        *nodes, _ = await client.hear_until("live")
        for message in nodes:
            view.take(message["nodes"])
        await view.talk(client, {"a": told("a", 2)})


async def test_an_empty_fleet_is_live_at_once(own_gateway: Gateway) -> None:
    async with talking(own_gateway) as client:
        await client.say("subscribe", node="*")
        assert [message["op"] for message in await client.hear_until("live")] == ["subscribed", "live"]


async def test_what_is_older_than_what_is_known_is_not_told(own_gateway: Gateway, fleet: Fleet, redis: Redis) -> None:
    fleet.report("a", 5)
    async with connect(own_gateway, "/fleet") as plain:
        await receive(plain, 1)
        for n in (4, 5):
            redis.publish(FLEET, Told("a", Summary(n, f"status-{n}", None, n)).pack())
        redis.publish(FLEET, b"\x00 is no summary")
        later = fleet.report("b", 1)
        assert await receive(plain, 1) == [later]


async def test_a_node_that_starts_anew_is_gone_until_it_reports(own_gateway: Gateway, fleet: Fleet) -> None:
    async with talking(own_gateway) as client, connect(own_gateway, "/fleet") as plain:
        fleet.report("a", 5)
        await client.say("subscribe", node="*")
        await client.hear_until("live")
        view, plain_view = View(), View()
        view.nodes = {"a": told("a", 5)}
        await plain_view.read(plain, {"a": told("a", 5)})
        fleet.log("a").clear()
        await view.talk(client, {})
        await plain_view.read(plain, {})
        fleet.report("a", 1)
        await view.talk(client, {"a": told("a", 1)})
        await plain_view.read(plain, {"a": told("a", 1)})


async def test_what_was_not_told_is_found_by_looking(own_valkey: RedisServer, fleet: Fleet, redis: Redis) -> None:
    fleet.report("a", 5)
    async with (
        serving(own_valkey, hub=HubSettings(check_s=0.1)) as gateway,
        talking(gateway) as client,
    ):
        await client.say("subscribe", node="*")
        await client.hear_until("live")
        view = View()
        redis.hset(FLEET, "a", Summary(6, "status-6", None, 6).pack())
        await view.talk(client, {"a": told("a", 6)})
        redis.hset(FLEET, "b", Summary(1, "status-1", None, 1).pack())
        await view.talk(client, {"a": told("a", 6), "b": told("b", 1)})
        redis.hset(FLEET, "a", Summary(2, "status-2", None, 2).pack())  # its clock was set back
        await view.talk(client, {"a": told("a", 2), "b": told("b", 1)})
        redis.flushall()
        await view.talk(client, {})


async def test_what_was_not_told_is_found_after_an_interruption(
    own_gateway: Gateway, fleet: Fleet, redis: Redis
) -> None:
    fleet.report("a", 5)
    async with connect(own_gateway, "/fleet") as plain:
        await receive(plain, 1)
        redis.hset(FLEET, "a", Summary(6, "status-6", None, 6).pack())
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await receive(plain, 1) == [told("a", 6)]


@FORMATS
async def test_two_thousand_nodes_come_in_pages_that_all_share(
    own_gateway: Gateway, fleet: Fleet, redis: Redis, format: Subprotocol
) -> None:
    nodes = {f"node-{n}": told(f"node-{n}", n) for n in range(2000)}
    redis.hset(FLEET, mapping={f"node-{n}": Summary(n, f"status-{n}", None, n).pack() for n in range(2000)})
    async with talking(own_gateway, format) as one, talking(own_gateway, format) as other:
        for client in (one, other):
            await client.say("subscribe", node="*")
            _, *pages, _ = await client.hear_until("live")
            assert len(pages) == 2000 / PAGE_NODES
            assert {node["node"]: node for page in pages for node in page["nodes"]} == nodes
        feed = await own_gateway.hub.lookouts.fleet()
        assert len(feed._pages) == 2000 / PAGE_NODES + 1
        redis.hset(FLEET, "node-7", Summary(9999, "status-9999", None, 9999).pack())
        redis.publish(FLEET, Told("node-7", Summary(9999, "status-9999", None, 9999)).pack())
        for client in (one, other):
            assert (await client.hear())["nodes"] == [told("node-7", 9999)]


@pytest.mark.parametrize("plain", [True, False])
async def test_who_is_slow_gets_the_newest_of_each_node_and_costs_no_memory(
    own_valkey: RedisServer, fleet: Fleet, redis: Redis, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    """It reads nothing while each of 300 nodes, which say much, reports 40 times."""
    monkeypatch.setattr(fleet_feed, "TICK_S", 0.0)
    much = "x" * 1000
    async with serving(own_valkey) as gateway:
        feed = await gateway.hub.lookouts.fleet()

        def publish(last_seen: int) -> None:
            with redis.pipeline(transaction=False) as pipeline:
                for n in range(300):
                    summary = Summary(last_seen, much, None, last_seen)
                    pipeline.hset(FLEET, f"node-{n}", summary.pack())
                    pipeline.publish(FLEET, Told(f"node-{n}", summary).pack())
                pipeline.execute()

        def in_view() -> list[int | None]:
            return [node.last_seen for node in feed.view.after(0, 1000).nodes]

        options: Any = {"max_queue": 1}
        async with (
            connect(gateway, "/fleet", **options) if plain else talking(gateway, **options) as client,
            connect(gateway, "/fleet") as quick,
        ):
            if not plain:
                await client.say("subscribe", node="*")
            await eventually("both watch", lambda: len(feed.watches) == 2)
            reading = asyncio.create_task(_count(quick, 40))
            for last_seen in range(1, 41):
                await asyncio.to_thread(publish, last_seen)
                await eventually("it has come", lambda last_seen=last_seen: in_view() == [last_seen] * 300)
            assert await reading == 300
            unsent = max(watch._connection.transport.get_write_buffer_size() for watch in feed.watches)
            assert unsent < 2 * PAGE_NODES * 1100
            assert len(feed.view._numbers) <= 2 * 300 + 101
            view = View()
            nodes = {f"node-{n}": {**told(f"node-{n}", 40), "status": much} for n in range(300)}
            if plain:
                await view.read(client, nodes)
            else:
                await client.hear_until("live")
                async with asyncio.timeout(DEADLINE_S):
                    while any(each.get("last_seen") != 40 for each in view.nodes.values()) or len(view.nodes) < 300:
                        view.take((await client.hear()).get("nodes", []))
            assert view.messages < 300 * 30


async def _count(plain: ClientConnection, last_seen: int) -> int:
    """How many nodes have come that were last seen then, once 300 have."""
    nodes: set[str] = set()
    async with asyncio.timeout(2 * DEADLINE_S):
        while len(nodes) < 300:
            message = json.loads(await plain.recv())
            if message["last_seen"] == last_seen:
                nodes.add(message["node"])
    return len(nodes)


async def test_who_takes_nothing_for_too_long_is_closed(own_valkey: RedisServer, redis: Redis) -> None:
    much = Summary(1, "x" * 4000, None, 1).pack()
    redis.hset(FLEET, mapping={f"node-{n}": much for n in range(2000)})
    async with serving(own_valkey, hub=HubSettings(stall_s=0.5)) as gateway:
        async with connect(gateway, "/fleet", max_queue=1) as client:
            await eventually("it has ended", lambda: not _watches(gateway) and gateway._connections)
            assert (await end(client)).code == 4003
        await eventually("nobody watches", lambda: not _watches(gateway))


def _watches(gateway: Gateway) -> int:
    kept: Any = gateway.hub.lookouts._kept.values()
    return sum(len(lookout.watches) + lookout._joining for lookout in kept)


async def test_where_the_fleet_cannot_be_read_it_is_said(own_valkey: RedisServer, redis: Redis) -> None:
    redis.set(FLEET, "no hash")
    hub = HubSettings(open_timeout_s=0.5)
    async with serving(own_valkey, hub=hub) as gateway, talking(gateway) as client:
        assert (await client.ask("subscribe", node="*"))["code"] == "unavailable"
        assert (await refusal(gateway, "/fleet"))[0] == 503


async def test_a_summary_that_cannot_be_read_harms_no_other(own_gateway: Gateway, fleet: Fleet, redis: Redis) -> None:
    redis.hset(FLEET, "bad", b"\x00")
    redis.hset(FLEET, b"\xff", b"\x00")
    fleet.report("a", 1)
    async with connect(own_gateway, "/fleet") as plain:
        assert await receive(plain, 1) == [told("a", 1)]
