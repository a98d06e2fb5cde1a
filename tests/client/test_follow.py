"""`connect` and `follow` through real gateways: each update once and in order, whatever happens to them."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop
from websockets.protocol import OPEN

from streamer.client import (
    AlreadyFollowed,
    ClientClosed,
    Follow,
    Gap,
    GatewayRefused,
    Live,
    LogReset,
    Missed,
    Reset,
    Update,
    connect,
)
from streamer.client import client as client_module
from streamer.core.errors import InvalidCursor, InvalidInput, InvalidName
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import Gateway
from tests.client.following import Hasty, indexes, numbers, take, url
from tests.gateway.clients import DEADLINE_S, PROMPT_S, Node, eventually, publishing, serving
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, free_port


@pytest.fixture
async def gateway(valkey: RedisServer) -> AsyncIterator[Gateway]:
    async with serving(valkey) as gateway:
        yield gateway


@pytest.fixture
def publisher(valkey: RedisServer, node: str) -> Iterator[Node]:
    with publishing(valkey, node) as publisher:
        yield publisher


# What comes


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_history_comes_first_and_then_live_updates_as_they_were_published(
    gateway: Gateway, publisher: Node, format: Any
) -> None:
    publisher.publish({"job": "j", "text": "ü"}, {})
    async with connect(url(gateway), format=format) as client, client.follow(publisher.name) as follow:
        [first] = await take(follow, 1)
        assert (first.status, first.state, first.timestamp) == ("running", {"job": "j", "text": "ü"}, 1000)
        assert (first.index, first.previous, first.cursor) == (0, -1, follow.cursor)
        assert await indexes(follow, 1) == [1]
        publisher.count(2)
        assert await indexes(follow, 2) == [2, 3]


@pytest.mark.parametrize(
    ("job", "options", "expected"),
    [
        (None, {"history": "none"}, [6]),
        (None, {"history": 2}, [4, 5, 6]),
        (None, {"after": 3}, [4, 5, 6]),
        ("b", {}, [1, 3, 5]),
        ("a", {"history": 1}, [4, 6]),
        ("a", {"after": "1"}, [2, 4, 6]),
    ],
)
async def test_job_after_and_history_choose_what_comes(
    gateway: Gateway, publisher: Node, job: str | None, options: dict[str, Any], expected: list[int]
) -> None:
    publisher.publish(*({"job": "ab"[n % 2]} for n in range(6)))
    async with connect(url(gateway)) as client:
        follow = client.follow(publisher.name, job, **options)
        taking = asyncio.create_task(indexes(follow, len(expected)))
        await eventually("it has joined", lambda: gateway.hub.statistics().live == 1)
        publisher.publish({"job": "a"})
        assert await taking == expected


async def test_several_topics_are_followed_on_one_connection(gateway: Gateway, publisher: Node) -> None:
    publisher.publish(*({"job": "ab"[n % 2]} for n in range(6)))
    async with connect(url(gateway)) as client:
        follows = [client.follow(publisher.name, job) for job in (None, "a", "b")]
        assert await asyncio.gather(*(indexes(follow, 3) for follow in follows)) == [[0, 1, 2], [0, 2, 4], [1, 3, 5]]
        assert len(gateway._connections) == 1


async def test_it_says_where_it_is_live(gateway: Gateway, publisher: Node) -> None:
    publisher.count(2)
    async with connect(url(gateway)) as client:
        follow = client.follow(publisher.name, events=True)
        first, second, live = await take(follow, 3)
        assert [type(event) for event in (first, second, live)] == [Update, Update, Live]
        assert live.cursor == second.cursor == follow.cursor


@pytest.mark.parametrize("name", ["a/b c", "nöde 🚀", "%2F?#&=+", "..", "all"])
async def test_any_name_can_be_followed(gateway: Gateway, valkey: RedisServer, node: str, name: str) -> None:
    with publishing(valkey, node + name) as publisher:
        publisher.publish({"job": "x" + name}, {})
        async with connect(url(gateway)) as client:
            assert await indexes(client.follow(node + name, "x" + name), 1) == [0]


async def test_an_update_of_the_greatest_size_is_taken(gateway: Gateway, publisher: Node) -> None:
    publisher.publish({"text": "\x01" * 1_000_000})
    async with connect(url(gateway), format="json") as client:
        assert await indexes(client.follow(publisher.name), 1) == [0]


# Its cursor


async def test_its_cursor_is_behind_what_was_handed_out_and_goes_on_there_in_another_client(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.count(5)
    async with connect(url(gateway)) as client:
        follow = client.follow(publisher.name)
        assert follow.cursor is None
        assert await indexes(follow, 3) == [0, 1, 2]
        cursor = follow.cursor
    async with connect(url(gateway), format="json") as client:
        follow = client.follow(publisher.name, after=cursor)
        assert follow.cursor == cursor
        assert await indexes(follow, 2) == [3, 4]


async def test_its_cursor_before_anything_came_goes_on_where_it_joined(gateway: Gateway, publisher: Node) -> None:
    publisher.count(5)
    async with connect(url(gateway)) as client, client.follow(publisher.name, history="none") as follow:
        await eventually("it has joined", lambda: follow.cursor)
        cursor = follow.cursor
    publisher.count(2)
    async with connect(url(gateway)) as client:
        assert await indexes(client.follow(publisher.name, after=cursor), 2) == [5, 6]


# Faults


async def test_killed_gateways_cost_nothing_and_nothing_comes_twice(valkey: RedisServer, node: str) -> None:
    """Several follows on one connection, three gateways, killed one after another while updates flow."""
    with (
        publishing(valkey, node) as publisher,
        GatewayProcess(valkey.url) as first,
        GatewayProcess(valkey.url) as second,
        GatewayProcess(valkey.url) as third,
    ):
        gateways = [first, second, third]
        told: list[str] = []
        async with connect([each.url for each in gateways], rng=Hasty(), notify=told.append) as client:
            everything, jobs = client.follow(node), [client.follow(node, job) for job in "ab"]
            taking = [
                asyncio.create_task(numbers(everything, 400)),
                *(asyncio.create_task(numbers(follow, 200)) for follow in jobs),
            ]
            for n in range(400):
                await asyncio.to_thread(publisher.publish, {"n": n, "job": "ab"[n % 2]})
                if n in (100, 250):
                    await eventually("it is connected", lambda: len(told) == 2 * (3 - len(gateways)))
                    gateways.pop(0).kill()
            assert await asyncio.gather(*taking) == [
                list(range(400)),
                list(range(0, 400, 2)),
                list(range(1, 400, 2)),
            ]
        assert [line.partition(";")[0] for line in told] == ["the connection broke", "connected"] * 2


async def test_stopped_gateways_are_left_for_others(valkey: RedisServer, publisher: Node) -> None:
    told: list[str] = []
    with GatewayProcess(valkey.url, "--drain-s", "0.2") as first, GatewayProcess(valkey.url) as second:
        async with connect([first.url, second.url], rng=Hasty(), notify=told.append) as client:
            follows = [client.follow(publisher.name), client.follow(publisher.name, "j")]
            publisher.count(3, job="j")
            assert await asyncio.gather(*(indexes(each, 3) for each in follows)) == [[0, 1, 2]] * 2
            first.process.send_signal(signal.SIGTERM)
            publisher.count(3, job="j")
            assert await asyncio.gather(*(indexes(each, 3) for each in follows)) == [[3, 4, 5]] * 2
            assert await asyncio.to_thread(first.process.wait, DEADLINE_S) == 0
            await eventually("it has left", lambda: told[-1:] == ["connected"])
            publisher.count(1, job="j")
            assert await asyncio.gather(*(indexes(each, 1) for each in follows)) == [[6]] * 2
    assert "restart" in told[0]


@pytest.mark.parametrize("history", ["none", 1, "all"])
async def test_what_is_published_between_two_connections_comes_though_nothing_had_come_before(
    valkey: RedisServer, publisher: Node, history: str | int
) -> None:
    """Who asked for no history joined at the head; it goes on from there and not from a later one."""
    publisher.count(0 if history != "none" else 3)
    async with AsyncExitStack() as client_stack:
        port = free_port()
        async with serving(valkey, port=port) as first:
            client = await client_stack.enter_async_context(connect(url(first), rng=Hasty()))
            taking = asyncio.create_task(indexes(client.follow(publisher.name, history=history), 2))
            await eventually("it has joined", lambda: first.hub.statistics().live == 1)
        publisher.count(2)
        async with serving(valkey, port=port):
            assert await taking == ([3, 4] if history == "none" else [0, 1])


async def test_it_waits_for_a_gateway_that_is_not_there_yet(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(1)
    port, told = free_port(), list[str]()

    async def first() -> list[int]:
        async with connect(f"ws://127.0.0.1:{port}", rng=Hasty(), notify=told.append) as client:
            return await indexes(client.follow(publisher.name), 1)

    taking = asyncio.create_task(first())
    await eventually("it has tried", lambda: told)
    async with serving(valkey, port=port):
        assert await taking == [0]


async def test_a_log_started_anew_is_raised_and_followed_from_its_start(gateway: Gateway, publisher: Node) -> None:
    publisher.count(3)
    async with connect(url(gateway)) as client:
        follow = client.follow(publisher.name, history=1)
        assert await indexes(follow, 1) == [2]
        before = follow.cursor
        publisher.clear()
        publisher.count(2)
        with pytest.raises(LogReset, match="started anew") as raised:
            await take(follow, 1)
        assert raised.value.temporary
        assert follow.cursor == before, "who does not go on meets it again"
        assert await indexes(follow, 2) == [0, 1]
    async with connect(url(gateway)) as client:
        with pytest.raises(LogReset):
            await take(client.follow(publisher.name, after=before), 1)


async def test_a_redis_that_was_emptied_is_an_event_for_who_asked_for_events(
    own_valkey: RedisServer, node: str
) -> None:
    async with serving(own_valkey) as gateway, connect(url(gateway)) as client:
        with publishing(own_valkey, node) as publisher:
            publisher.count(3)
            follow = client.follow(node, events=True)
            assert await indexes(follow, 3) == [0, 1, 2]
            assert isinstance((await take(follow, 1))[0], Live)
        with own_valkey.client() as redis:
            redis.flushall()
        with publishing(own_valkey, node) as publisher:
            publisher.count(2)
            [reset] = await take(follow, 1)
            assert isinstance(reset, Reset)
            assert follow.cursor == reset.cursor
            assert await indexes(follow, 2) == [0, 1]


async def test_updates_that_are_no_longer_kept_are_raised_and_the_rest_follows(
    gateway: Gateway, valkey: RedisServer, node: str
) -> None:
    with publishing(valkey, node, keep=10) as publisher:
        publisher.count(25)
        async with connect(url(gateway)) as client:
            follow = client.follow(node, after="3")
            with pytest.raises(Missed, match="updates 4 to 14 are no longer kept") as raised:
                await take(follow, 1)
            assert (raised.value.first, raised.value.last, follow.cursor) == (4, 14, "3")
            assert await indexes(follow, 10) == list(range(15, 25))
        async with connect(url(gateway)) as client:
            assert await indexes(client.follow(node, after=raised.value.cursor), 10) == list(range(15, 25))
        async with connect(url(gateway)) as client:
            follow = client.follow(node, after="3", events=True)
            [gap] = await take(follow, 1)
            assert isinstance(gap, Gap)
            assert (gap.first, gap.last, gap.cursor) == (4, 14, follow.cursor)


async def test_a_redis_that_is_away_ends_no_follow(own_valkey: RedisServer, node: str) -> None:
    told: list[str] = []
    with publishing(own_valkey, node) as publisher:
        publisher.count(1)
    async with serving(own_valkey) as gateway:
        own_valkey.kill()
        async with connect(url(gateway), notify=told.append, rng=Hasty()) as client:
            taking = asyncio.create_task(indexes(client.follow(node), 1))
            await eventually("it was told", lambda: told)
            own_valkey.start()
            assert await taking == [0]
    assert told[0].startswith(f"{node}: ")
    assert "next try in" in told[0]


# A slow consumer


@pytest.mark.parametrize(
    ("impatience", "why", "backlog_bytes", "hundreds"),
    [
        ({"hub": HubSettings(stall_s=0.5)}, "too slow", client_module.BACKLOG_BYTES, 60),
        # So few that all is written, and only the answer to a ping is missing.
        ({"ping_s": 0.2}, "keepalive ping timeout", 1000, 10),
    ],
)
async def test_a_slow_consumer_loses_nothing_though_its_gateway_gives_up_on_it(
    valkey: RedisServer,
    publisher: Node,
    monkeypatch: pytest.MonkeyPatch,
    impatience: dict[str, Any],
    why: str,
    backlog_bytes: int,
    hundreds: int,
) -> None:
    """What it does not take is not read; what was not read comes again behind what was."""
    monkeypatch.setattr(client_module, "BACKLOG_BYTES", backlog_bytes)
    for _ in range(hundreds):
        await asyncio.to_thread(publisher.count, 100, text="x" * 1000, job="j")
    told: list[str] = []
    async with (
        serving(valkey, **impatience) as gateway,
        connect(url(gateway), notify=told.append, rng=Hasty()) as client,
    ):
        slow, other = client.follow(publisher.name), client.follow(publisher.name, "j")
        assert await numbers(slow, 1) == [0]
        await eventually(
            "the gateway has given up on it", lambda: all(each.state is not OPEN for each in gateway._connections)
        )
        assert client._backlog._bytes < backlog_bytes + 2 * 65536, "and 2 or 12 MB wait"
        all_numbers = list(range(100 * hundreds))
        taking = asyncio.gather(numbers(slow, 100 * hundreds - 1), numbers(other, 100 * hundreds))
        assert await taking == [all_numbers[1:], all_numbers]
    assert any(why in line for line in told)


async def test_a_follow_that_ends_makes_room_for_the_others(gateway: Gateway, publisher: Node) -> None:
    for _ in range(30):
        await asyncio.to_thread(publisher.count, 100, text="x" * 1000, job="j")
    async with connect(url(gateway)) as client, client.follow(publisher.name) as first:
        await eventually("nothing more is read", lambda: not client._backlog._room.is_set())
        other = client.follow(publisher.name, "j")
        taking = asyncio.create_task(numbers(other, 3000))
        await eventually("the other waits", lambda: len(client._dialogue) == 2)
        assert not taking.done()
        await first.aclose()
        assert await taking == list(range(3000))


# How it ends


async def test_closing_a_follow_unsubscribes_and_the_topic_can_be_followed_again(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.count(3)
    async with connect(url(gateway)) as client:
        async with client.follow(publisher.name) as follow:
            assert await indexes(follow, 1) == [0]
        with pytest.raises(StopAsyncIteration):
            await anext(follow)
        await eventually("the gateway has forgotten it", lambda: gateway.hub.statistics().live == 0)
        assert await indexes(client.follow(publisher.name), 3) == [0, 1, 2]
        assert len(gateway._connections) == 1


async def test_leaving_the_loop_ends_a_follow_that_nobody_holds(gateway: Gateway, publisher: Node) -> None:
    publisher.count(3)
    async with connect(url(gateway)) as client:
        for _ in range(2):
            async for update in client.follow(publisher.name):
                assert update.index == 0
                break
            gc.collect()
            await eventually("the gateway has forgotten it", lambda: gateway.hub.statistics().live == 0)
        assert len(client._dialogue) == 0


async def test_a_topic_cannot_be_followed_twice_by_one_client(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with connect(url(gateway)) as client, client.follow(publisher.name) as first:
        with pytest.raises(AlreadyFollowed, match=publisher.name):
            await anext(client.follow(publisher.name))
        assert await indexes(first, 1) == [0]


async def test_a_follow_that_was_never_begun_ends_without_a_word(gateway: Gateway, node: str) -> None:
    async with connect(url(gateway)) as client:
        follow = client.follow(node)
        await follow.aclose()
        assert [update async for update in follow] == []


async def test_leaving_the_client_ends_the_loops_of_others(gateway: Gateway, publisher: Node) -> None:
    publisher.count(2)

    async def all_of(follow: Follow[Update]) -> list[int]:
        return [update.index async for update in follow]

    async with connect(url(gateway)) as client:
        iterating = asyncio.create_task(all_of(client.follow(publisher.name)))
        await eventually("it has joined", lambda: gateway.hub.statistics().live == 1)
        await asyncio.sleep(0)
    assert await asyncio.wait_for(iterating, PROMPT_S) == [0, 1]
    await eventually("the gateway has forgotten it", lambda: not gateway._connections)
    with pytest.raises(ClientClosed):
        await anext(client.follow(publisher.name))
    with pytest.raises(ClientClosed):
        await client.__aenter__()


async def test_leaving_the_client_in_the_middle_of_a_long_history_is_prompt(gateway: Gateway, publisher: Node) -> None:
    for _ in range(20):
        publisher.count(100, text="x" * 1000)
    async with asyncio.timeout(PROMPT_S):
        async with connect(url(gateway)) as client:
            assert await indexes(client.follow(publisher.name), 3) == [0, 1, 2]
        await eventually("the gateway has forgotten it", lambda: not gateway._connections)


async def test_a_step_that_is_cancelled_takes_nothing_away(gateway: Gateway, publisher: Node) -> None:
    async with connect(url(gateway)) as client, client.follow(publisher.name) as follow:
        for n in range(30):
            step = asyncio.create_task(anext(follow))
            await asyncio.sleep(0)
            await asyncio.to_thread(publisher.count, 1)
            await asyncio.wait([step], timeout=n / 10_000)
            if not step.cancel():
                assert step.result().index == n
                continue
            try:
                update = await step
            except asyncio.CancelledError:
                update = await asyncio.wait_for(anext(follow), DEADLINE_S)
            assert update.index == n


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
async def test_a_program_that_just_leaves_has_nothing_to_complain_about_at_its_end(
    gateway: Gateway, publisher: Node, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    publisher.count(100, text="x" * 10_000)
    complaints: list[dict[str, Any]] = []

    async def follow() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with connect(url(gateway)) as client:
            async for _ in client.follow(publisher.name):
                return

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(follow())

    await asyncio.wait_for(asyncio.to_thread(run), DEADLINE_S)
    assert complaints == []
    await eventually("the gateway has forgotten it", lambda: not gateway._connections)


async def test_cancelling_while_it_waits_for_the_first_connection_ends_it() -> None:
    told: list[str] = []

    async def enter() -> None:
        async with connect(f"ws://127.0.0.1:{free_port()}", notify=told.append):
            pass

    entering = asyncio.create_task(enter())
    await eventually("it could not connect", lambda: told)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(entering, PROMPT_S)


async def test_closing_while_it_waits_for_the_first_connection_ends_it() -> None:
    told: list[str] = []
    client = connect(f"ws://127.0.0.1:{free_port()}", notify=told.append)
    entering = asyncio.create_task(client.__aenter__())
    await eventually("it could not connect", lambda: told)
    await client.aclose()
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(entering, PROMPT_S)


# What cannot be


@pytest.mark.parametrize(("node", "job"), [("", None), ("a\n", None), ("x" * 257, None), ("n", "all"), ("n", "")])
def test_what_is_no_name_is_said_before_anybody_is_asked(node: str, job: str | None) -> None:
    with pytest.raises(InvalidName):
        connect("ws://127.0.0.1:1").follow(node, job)


@pytest.mark.parametrize("options", [{"history": "some"}, {"history": -1}, {"after": "1", "history": 3}])
def test_options_that_cannot_be_are_said_before_anybody_is_asked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        connect("ws://127.0.0.1:1").follow("n", **options)


@pytest.mark.parametrize("cursor", ["x", "", "ü", "\ud800"])
async def test_what_is_no_cursor_ends_its_follow_and_no_other(gateway: Gateway, publisher: Node, cursor: str) -> None:
    publisher.count(1)
    async with connect(url(gateway)) as client:
        with pytest.raises(InvalidCursor):
            await take(client.follow(publisher.name, "j", after=cursor), 1)
        assert await indexes(client.follow(publisher.name), 1) == [0]


async def test_what_the_gateway_refuses_is_raised_in_its_words(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(1)
    async with (
        serving(valkey, max_topics=1) as gateway,
        connect(url(gateway)) as client,
        client.follow(publisher.name) as first,
    ):
        assert await indexes(first, 1) == [0]
        with pytest.raises(GatewayRefused, match="1 topics at the same time") as refused:
            await take(client.follow(publisher.name, "j"), 1)
        assert refused.value.code == "too_many_topics"


async def test_a_client_is_used_inside_of_its_block(gateway: Gateway, node: str) -> None:
    with pytest.raises(ClientClosed):
        await anext(connect(url(gateway)).follow(node))
