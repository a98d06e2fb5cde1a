"""A job on whichever nodes run it, over real sockets: by v1 and by the plain endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import Subprotocol

from streamer.core import protocol
from streamer.core.names import Topic
from streamer.core.protocol import Code, Error
from streamer.fanout.hub import HubSettings
from streamer.gateway.conversation import Conversation
from streamer.gateway.server import Gateway
from streamer.log.keys import Keys
from tests.gateway.clients import Message, Node, connect, end, eventually, publishing, receive, refusal, serving
from tests.gateway.v1 import JSON, MSGPACK, Talker, talking
from tests.servers import RedisServer

FORMATS = pytest.mark.parametrize("format", [JSON, MSGPACK])
NEVER_S = 3600.0
NO_TAKEOVER = ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)


class Job:
    """A job of its own, and nodes that run it."""

    def __init__(self, store: RedisServer, name: str, stack: ExitStack) -> None:
        self.name, self._store, self._stack = name, store, stack
        self._nodes: dict[str, Node] = {}

    def node(self, name: str) -> str:
        """A node's whole name."""
        return f"{self.name}-{name}"

    def run(self, name: str, count: int = 1, *, keep: int = 10_000, **state: object) -> Node:
        """Have a node run it, and publish so many updates."""
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = self._stack.enter_context(publishing(self._store, self.node(name), keep))
            node.announce([self.name], 100)
        if count:
            node.count(count, job=self.name, **state)
        return node

    def path(self, query: str = "") -> str:
        return f"/jobs/{quote(self.name, safe='')}{query}"


@pytest.fixture
async def gateway(valkey: RedisServer) -> AsyncIterator[Gateway]:
    """One that finds nothing by looking: all that it knows it was told."""
    async with serving(valkey, hub=HubSettings(check_s=NEVER_S)) as gateway:
        yield gateway


@pytest.fixture
def job(valkey: RedisServer, node: str) -> Iterator[Job]:
    with ExitStack() as stack:
        yield Job(valkey, f"{node}/ü", stack)


@pytest.fixture
def own_job(own_valkey: RedisServer, node: str) -> Iterator[Job]:
    with ExitStack() as stack:
        yield Job(own_valkey, node, stack)


async def hear(client: Talker, until: int) -> dict[str, list[int]]:
    """The indexes of the next updates, so many, by node; `joined` comes before them."""
    indexes: dict[str, list[int]] = {}
    while sum(map(len, indexes.values())) < until:
        message = await client.hear()
        if message["op"] == "joined":
            assert message["node"] not in indexes
            indexes[message["node"]] = []
        else:
            assert message["op"] == "updates", message
            indexes.setdefault(message["node"], []).extend(update["index"] for update in message["updates"])
    return indexes


def by_node(messages: list[Message]) -> dict[str, list[int]]:
    """The indexes of plain messages by node."""
    indexes: dict[str, list[int]] = {}
    for message in messages:
        indexes.setdefault(message["node"], []).append(message["index"])
    return indexes


@FORMATS
async def test_all_of_all_nodes_comes_then_it_is_live_and_follows_to_another_node(
    gateway: Gateway, job: Job, format: Subprotocol
) -> None:
    a, b = job.run("a", 300), job.run("b", 2)
    b.publish({"job": "another"})
    async with talking(gateway, format) as client, connect(gateway, job.path()) as plain:
        subscribed = await client.ask("subscribe", job=job.name, id=7)
        assert (subscribed["id"], sorted(subscribed["nodes"])) == (7, [a.name, b.name])
        assert await hear(client, 302) == {a.name: list(range(300)), b.name: [0, 1]}
        assert await client.hear() == {"op": "live", "job": job.name}
        assert by_node(await receive(plain, 302)) == {a.name: list(range(300)), b.name: [0, 1]}

        c = job.run("c", 3)
        assert await hear(client, 3) == {c.name: [0, 1, 2]}
        job.run("a")
        assert await hear(client, 1) == {a.name: [300]}
        assert by_node(await receive(plain, 4)) == {c.name: [0, 1, 2], a.name: [300]}


async def test_a_plain_message_is_the_update_with_its_node_before_it(gateway: Gateway, job: Job) -> None:
    a = job.run("a")
    async with connect(gateway, job.path()) as all_nodes, connect(gateway, f"/nodes/{quote(a.name, safe='')}") as one:
        [message], [update] = await receive(all_nodes, 1), await receive(one, 1)
        assert list(message) == ["node", *update]
        assert message == {"node": a.name, **update}


@FORMATS
async def test_a_job_that_nobody_has_run_is_live_at_once_and_comes_with_its_first_node(
    gateway: Gateway, job: Job, format: Subprotocol
) -> None:
    async with talking(gateway, format) as client, connect(gateway, job.path()) as plain:
        assert (await client.ask("subscribe", job=job.name))["nodes"] == []
        assert (await client.hear())["op"] == "live"
        a = job.run("a", 2)
        assert await hear(client, 2) == {a.name: [0, 1]}
        assert by_node(await receive(plain, 2)) == {a.name: [0, 1]}


async def test_who_comes_back_goes_on_behind_each_cursor_and_gets_all_of_new_nodes(gateway: Gateway, job: Job) -> None:
    a, b = job.run("a", 3), job.run("b", 3)
    async with talking(gateway) as client, connect(gateway, job.path()) as plain:
        await client.ask("subscribe", job=job.name)
        cursors = {
            message["node"]: message["cursor"] for message in await client.hear_until("live") if "node" in message
        }
        plain_cursors = {message["node"]: message["cursor"] for message in await receive(plain, 6)}
    assert cursors == plain_cursors
    assert set(cursors) == {a.name, b.name}
    job.run("a", 2)
    c = job.run("c", 1)
    expected = {a.name: [3, 4], c.name: [0]}
    query = "&".join(f"after={quote(node, safe='')}:{cursor}" for node, cursor in cursors.items())
    async with talking(gateway) as client, connect(gateway, job.path(f"?{query}")) as plain:
        assert (await client.ask("subscribe", job=job.name, after=cursors))["op"] == "subscribed"
        found = await hear(client, 3)
        assert {node: indexes for node, indexes in found.items() if indexes} == expected
        assert by_node(await receive(plain, 3)) == expected
        job.run("b", 1)
        assert by_node(await receive(plain, 1)) == {b.name: [3]}


async def test_a_node_with_a_cursor_is_followed_though_the_index_has_lost_it(
    gateway: Gateway, valkey: RedisServer, job: Job
) -> None:
    a = job.run("a", 3)
    with valkey.client() as client:
        client.delete(Keys().job(job.name))
    async with talking(gateway) as talker:
        assert (await talker.ask("subscribe", job=job.name, after={a.name: 0}))["nodes"] == [a.name]
        assert await hear(talker, 2) == {a.name: [1, 2]}


@pytest.mark.parametrize(("history", "expected"), [("none", []), (2, [3, 4]), ("all", [0, 1, 2, 3, 4])])
async def test_history_counts_for_each_known_node_and_later_ones_begin_at_their_start(
    gateway: Gateway, job: Job, history: str | int, expected: list[int]
) -> None:
    a, b = job.run("a", 5), job.run("b", 5)
    async with talking(gateway) as client, connect(gateway, job.path(f"?history={history}")) as plain:
        await client.ask("subscribe", job=job.name, history=history)
        updates: dict[str, list[int]] = {a.name: [], b.name: []}
        for message in await client.hear_until("live"):
            updates.get(message.get("node", ""), []).extend(each["index"] for each in message.get("updates", ()))
        assert updates == {a.name: expected, b.name: expected}
        c = job.run("c", 4)
        assert await hear(client, 4) == {c.name: [0, 1, 2, 3]}
        found = by_node(await receive(plain, 2 * len(expected) + 4))
        assert found == {c.name: [0, 1, 2, 3], **({a.name: expected, b.name: expected} if expected else {})}


async def test_one_unsubscribes_from_the_job_and_nothing_more_comes(gateway: Gateway, job: Job) -> None:
    job.run("a")
    async with talking(gateway) as client:
        await client.ask("subscribe", job=job.name)
        await client.hear_until("live")
        assert await client.ask("unsubscribe", job=job.name, id=1) == {"op": "unsubscribed", "job": job.name, "id": 1}
        job.run("a")
        job.run("b")
        assert (await client.ask("unsubscribe", job=job.name))["code"] == "not_subscribed"
        await client.ask("subscribe", job=job.name, history="none")
        await client.hear_until("live")


async def test_on_a_connection_a_job_is_on_all_nodes_or_on_single_ones(gateway: Gateway, job: Job) -> None:
    a = job.run("a")
    async with talking(gateway) as client:
        await client.ask("subscribe", job=job.name)
        await client.hear_until("live")
        for about in ({"node": a.name}, {"node": "unknown"}, {}):
            assert (await client.ask("subscribe", job=job.name, **about))["code"] == "already_subscribed"
        assert (await client.ask("subscribe", node=a.name))["op"] == "subscribed"
        await client.hear_until("live")
        await client.ask("unsubscribe", job=job.name)
        assert (await client.ask("subscribe", node=a.name, job=job.name))["op"] == "subscribed"
        await client.hear_until("live")
        assert (await client.ask("subscribe", job=job.name))["code"] == "already_subscribed"


async def test_a_gap_and_a_reset_are_told_with_their_node_and_the_others_go_on(gateway: Gateway, job: Job) -> None:
    a, b = job.run("a", 20, keep=5), job.run("b", 2)
    async with talking(gateway) as client:
        await client.ask("subscribe", job=job.name, after={a.name: 3, b.name: 0})
        messages = await client.hear_until("live")
        [gap] = [message for message in messages if message["op"] == "gap"]
        assert (gap["node"], gap["from"], gap["to"]) == (a.name, 4, 14)
        a.clear()
        assert (await client.hear())["op"] == "reset"
        job.run("b")
        assert await hear(client, 1) == {b.name: [2]}


async def test_a_plain_client_is_told_of_a_gap_or_a_reset_by_the_close_with_its_node(
    gateway: Gateway, job: Job
) -> None:
    a = job.run("a", 20, keep=5)
    name = quote(a.name, safe="")
    async with connect(gateway, job.path(f"?after={name}:3")) as plain:
        ended = await end(plain)
        assert (ended.code, ended.messages) == (4002, [])
        assert f"4 to 14 are no longer kept of {a.name}" in ended.reason
        cursor = ended.reason.removeprefix("gap: go on with ").partition(";")[0]
    async with connect(gateway, job.path(f"?after={name}:{cursor}")) as plain:
        assert by_node(await receive(plain, 5)) == {a.name: list(range(15, 20))}
        a.clear()
        ended = await end(plain)
        assert (ended.code, ended.reason) == (4001, f"reset: come back without the cursor of {a.name}")


async def test_a_reason_has_room_for_a_long_name(gateway: Gateway, job: Job) -> None:
    with publishing(job._store, "é" * 128) as long:
        long.announce([job.name], 100)
        long.publish({"job": job.name})
        async with connect(gateway, job.path(f"?after={quote(long.name)}:abc.1.5")) as plain:
            ended = await end(plain)
            assert ended.code == 4001
            assert ended.reason.startswith("reset: come back without the cursor of éé")
        long.clear()


async def test_many_watch_the_same_job_and_redis_is_read_once(gateway: Gateway, job: Job) -> None:
    job.run("a", 100)
    async with connect(gateway, job.path()) as first, connect(gateway, job.path()) as second:
        await receive(first, 100)
        await receive(second, 100)
        assert gateway.hub.statistics().feeds == 1
        job.run("b", 1)
        assert await receive(first, 1) == await receive(second, 1)
        assert gateway.hub.statistics().feeds == 2


async def test_nothing_is_left_of_those_who_have_left(valkey: RedisServer, job: Job) -> None:
    job.run("a")
    async with serving(valkey, hub=HubSettings(keep_s=0)) as gateway:
        async with talking(gateway) as client, connect(gateway, job.path()) as plain:
            await client.ask("subscribe", job=job.name)
            await client.hear_until("live")
            await receive(plain, 1)
        await eventually("nothing is kept", lambda: not gateway.hub.lookouts._kept and not gateway.hub._slots)
        assert not gateway.hub._subscriber._subscriptions


async def test_a_client_may_be_kept_from_some_nodes(
    gateway: Gateway, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def but_a(self: Conversation, request: Any, subject: object) -> Error | None:
        forbidden = subject == Topic(job.node("a"), job.name)
        return protocol.refusal(request, Code.INVALID_NAME, "no") if forbidden else None

    monkeypatch.setattr(Conversation, "_refusal", but_a)
    job.run("a")
    b = job.run("b")
    async with talking(gateway) as client:
        assert (await client.ask("subscribe", job=job.name))["nodes"] == [b.name]
        assert {message.get("node") for message in await client.hear_until("live")} == {b.name, None}


# What is lost.


async def test_a_new_node_that_was_not_told_is_found_by_looking(own_valkey: RedisServer, own_job: Job) -> None:
    async with serving(own_valkey, hub=HubSettings(check_s=0.2)) as gateway, talking(gateway) as client:
        await client.ask("subscribe", job=own_job.name)
        await client.hear_until("live")
        with own_valkey.client() as redis:
            redis.zadd(Keys().job(own_job.name), {own_job.node("a"): 1})
        with publishing(own_valkey, own_job.node("a")) as a:
            a.count(2, job=own_job.name)
            assert await hear(client, 2) == {a.name: [0, 1]}


async def test_a_new_node_that_came_while_redis_was_away_is_found_afterwards(
    own_valkey: RedisServer, own_job: Job
) -> None:
    async with serving(own_valkey, hub=HubSettings(check_s=NEVER_S)) as gateway, talking(gateway) as client:
        own_job.run("a")
        await client.ask("subscribe", job=own_job.name)
        await client.hear_until("live")
        with own_valkey.client() as redis:
            redis.zadd(Keys().job(own_job.name), {own_job.node("b"): 1})
            redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        with publishing(own_valkey, own_job.node("b")) as b:
            b.count(2, job=own_job.name)
            assert await hear(client, 2) == {b.name: [0, 1]}


async def test_after_a_flushall_all_nodes_are_reset_and_come_back(own_valkey: RedisServer, own_job: Job) -> None:
    async with serving(own_valkey, hub=HubSettings(check_s=0.2)) as gateway, talking(gateway) as client:
        nodes = [own_job.run("a", 2), own_job.run("b", 2)]
        await client.ask("subscribe", job=own_job.name)
        await client.hear_until("live")
        with own_valkey.client() as redis:
            redis.flushall()
        told = sorted([(message["op"], message["node"]) for message in [await client.hear(), await client.hear()]])
        assert told == [("reset", node.name) for node in nodes]
        with publishing(own_valkey, nodes[1].name) as again, publishing(own_valkey, own_job.node("c")) as new:
            for node in (again, new):
                node.announce([own_job.name], 100)
                node.count(1, job=own_job.name)
            assert await hear(client, 2) == {again.name: [0], new.name: [0]}


async def test_where_the_index_cannot_be_read_it_is_said(own_valkey: RedisServer, own_job: Job) -> None:
    hub = HubSettings(open_timeout_s=0.5)
    async with serving(own_valkey, hub=hub) as gateway, talking(gateway) as client:
        with own_valkey.client() as redis:
            redis.set(Keys().job(own_job.name), "no index")
            refused = await client.ask("subscribe", job=own_job.name, id=1)
            assert (refused["code"], refused["re"], refused["id"]) == ("unavailable", "subscribe", 1)
            assert (await refusal(gateway, own_job.path()))[0] == 503
            redis.delete(Keys().job(own_job.name))
            own_job.run("a")
            await eventually("it is read", lambda: not gateway.hub.lookouts._kept or _opened(gateway))
            assert (await client.ask("subscribe", job=own_job.name))["op"] == "subscribed"


def _opened(gateway: Gateway) -> bool:
    return all(lookout.opened.done() for lookout in gateway.hub.lookouts._kept.values())


async def test_a_client_that_says_anything_on_the_plain_endpoint_is_closed(gateway: Gateway, job: Job) -> None:
    for target in (job.path(), "/fleet"):
        async with connect(gateway, target) as plain:
            await plain.send(json.dumps({"op": "ping"}))
            assert (await end(plain)).code == 1003


async def test_who_watches_is_told_how_to_go_on_when_the_gateway_stops(valkey: RedisServer, job: Job) -> None:
    job.run("a")
    async with serving(valkey) as gateway, connect(gateway, job.path()) as plain, connect(gateway, "/fleet") as fleet:
        await receive(plain, 1)
        await gateway.stop(0)
        for client, reason in ((plain, "go on with the last cursor of each node"), (fleet, "come back")):
            ended = await end(client)
            assert (ended.code, ended.reason) == (1012, f"service restart; {reason}")


async def test_compressed_it_is_the_same(valkey: RedisServer, job: Job) -> None:
    job.run("a", 20)
    async with serving(valkey, compress=True) as gateway, connect(gateway, job.path()) as plain:
        expected = await receive(plain, 20)
        url = f"ws://127.0.0.1:{gateway.port}{job.path()}"
        async with websocket(url, extensions=[NO_TAKEOVER]) as compressed:
            assert await receive(compressed, 20) == expected
            job.run("b", 3, text="x" * 500)
            assert await receive(compressed, 3) == await receive(plain, 3)
