"""v1 over real sockets: what is promised to a client that follows many topics on one connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from streamer.core.protocol import Updates
from streamer.core.window import Chunk
from streamer.fanout.following import Follower
from streamer.fanout.hub import HubSettings
from streamer.gateway.conversation import WAITING_REQUESTS, Conversation
from streamer.gateway.server import Gateway
from tests.gateway.clients import DEADLINE_S, Node, ask, connect, early, eventually, path, receive, serving
from tests.gateway.v1 import JSON, MSGPACK, Talker, talking
from tests.servers import RedisServer

FORMATS = pytest.mark.parametrize("format", [JSON, MSGPACK])
KIB = 1024


# The handshake.


@pytest.mark.parametrize("offered", [None, ["streamer.v2.json", "graphql-ws"]])
async def test_who_offers_no_format_is_told_which_there_are(
    gateway: Gateway, offered: list[Subprotocol] | None
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await websocket(f"ws://127.0.0.1:{gateway.port}/ws", subprotocols=offered)
    assert refused.value.response.status_code == 400
    sentence = json.loads(refused.value.response.body)["error"]
    assert sentence == "offer a WebSocket subprotocol: streamer.v1.json or streamer.v1.msgpack"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [([JSON, MSGPACK], JSON), ([MSGPACK, JSON], MSGPACK), (["streamer.v2.json", MSGPACK], MSGPACK)],
)
async def test_what_a_client_likes_best_is_taken(gateway: Gateway, offered: list[Subprotocol], chosen: str) -> None:
    async with websocket(f"ws://127.0.0.1:{gateway.port}/ws", subprotocols=offered) as connection:
        assert connection.subprotocol == chosen


async def test_without_a_websocket_it_is_said_that_one_is_needed(gateway: Gateway) -> None:
    assert (await ask(gateway.port, "/ws")).status == 426
    assert (await ask(gateway.port, "/ws?node=n")).status == 400


# What comes.


@FORMATS
async def test_history_then_live_is_what_the_plain_endpoints_give(
    gateway: Gateway, publisher: Node, format: Subprotocol
) -> None:
    publisher.count(300, text="é" * 400, job="j", some=[1.5, None, {"deep": -(2**63)}])
    publisher.count(5)
    async with (
        talking(gateway, format) as client,
        connect(gateway, path(publisher.name)) as node,
        connect(gateway, path(publisher.name, "j")) as job,
    ):
        for topic, plain, count in (({}, node, 305), ({"job": "j"}, job, 300)):
            subscribed = await client.ask("subscribe", node=publisher.name, **topic)
            *history, live = await client.hear_until("live")
            updates = [update for message in history for update in message["updates"]]
            assert updates == await receive(plain, count)
            assert (subscribed["head"], subscribed["truncated"]) == (count - 1, False)
            assert live["cursor"] == updates[-1]["cursor"]
            assert 2 <= len(history) < 10, "many come in one message"
        publisher.publish({"n": 1})
        assert await client.updates(1) == await receive(node, 1)
        publisher.count(3, job="j")
        both = [await client.hear(), await client.hear()]
        of = {message.get("job"): message["updates"] for message in both}
        assert of == {None: await receive(node, 3), "j": await receive(job, 3)}


@FORMATS
async def test_many_topics_are_followed_on_one_connection(
    gateway: Gateway, publisher: Node, format: Subprotocol
) -> None:
    jobs = [f"job-{n}" for n in range(500)]
    publisher.publish(*({"job": job} for job in jobs))
    async with talking(gateway, format) as client:
        for n, job in enumerate(jobs):
            await client.say("subscribe", node=publisher.name, job=job, id=n)
        answers = []
        lives: set[str] = set()
        while len(lives) < len(jobs):
            message = await client.hear()
            if message["op"] == "subscribed":
                answers.append(message["id"])
            elif message["op"] == "live":
                lives.add(message["job"])
        assert answers == list(range(500)), "answers come in the order of the requests"
        publisher.publish(*({"job": job, "again": True} for job in jobs))
        got = [await client.hear() for _ in jobs]
        assert sorted(message["job"] for message in got) == sorted(jobs)
        assert all(message["updates"][0]["state"]["job"] == message["job"] for message in got)


@pytest.mark.parametrize(
    ("where", "first"),
    [
        ({}, 0),
        ({"history": "all"}, 0),
        ({"history": "none"}, 10),
        ({"history": 3}, 7),
        ({"after": 4}, 5),
        ({"after": "4"}, 5),
        ({"after": -1}, 0),
    ],
)
async def test_a_client_joins_where_it_asks_to(
    gateway: Gateway, publisher: Node, where: dict[str, Any], first: int
) -> None:
    publisher.count(10)
    async with talking(gateway) as client:
        await client.ask("subscribe", node=publisher.name, **where)
        if first < 10:
            assert await client.indexes(10 - first) == list(range(first, 10))
        assert (await client.hear())["op"] == "live"
        publisher.count(1)
        assert await client.indexes(1) == [10]


async def test_a_client_resumes_at_another_gateway_behind_its_cursor(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(5)
    async with serving(valkey) as one, talking(one) as client:
        await client.ask("subscribe", node=publisher.name)
        cursor = (await client.hear_until("live"))[-1]["cursor"]
    publisher.count(3)
    async with serving(valkey) as other, talking(other, MSGPACK) as client:
        assert (await client.ask("subscribe", node=publisher.name, after=cursor))["cursor"] == cursor
        assert await client.indexes(3) == [5, 6, 7]


async def test_what_reports_nothing_yet_can_be_followed(gateway: Gateway, publisher: Node) -> None:
    async with talking(gateway) as client:
        subscribed = await client.ask("subscribe", node=publisher.name, job="later")
        assert "log" not in subscribed
        assert (subscribed["head"], subscribed["cursor"]) == (-1, "-1")
        assert (await client.hear())["cursor"] == "-1"
        publisher.count(2, job="later")
        assert await client.indexes(2) == [0, 1]


async def test_behind_unsubscribed_nothing_comes_of_the_topic_and_it_can_be_subscribed_to_again(
    gateway: Gateway, publisher: Node
) -> None:
    async with talking(gateway) as client:
        for job in ("a", "b"):
            await client.ask("subscribe", node=publisher.name, job=job)
            await client.hear()
        answer = await client.ask("unsubscribe", node=publisher.name, job="a", id="x")
        assert answer == {"op": "unsubscribed", "id": "x", "node": publisher.name, "job": "a"}
        publisher.publish({"job": "a"}, {"job": "b"})
        assert (await client.hear())["job"] == "b"
        await client.ask("subscribe", node=publisher.name, job="a")
        assert await client.indexes(1) == [0]
    await eventually("nobody follows", lambda: gateway.hub.statistics().live == 0)


# What was missed, or is no more.


@FORMATS
async def test_a_gap_is_told_and_the_watch_goes_on_behind_it(
    gateway: Gateway, forgetful: Node, format: Subprotocol
) -> None:
    forgetful.count(3)
    async with talking(gateway, format) as client:
        await client.ask("subscribe", node=forgetful.name)
        cursor = (await client.hear_until("live"))[-1]["cursor"]
        await client.ask("unsubscribe", node=forgetful.name)
    forgetful.count(30)
    async with serving(forgetful._store) as other, talking(other, format) as client:
        subscribed = await client.ask("subscribe", node=forgetful.name, after=cursor)
        assert subscribed["cursor"] == cursor
        gap = await client.hear()
        assert (gap["op"], gap["from"], gap["to"]) == ("gap", 3, 22)
        assert await client.indexes(10) == list(range(23, 33))
        assert (await client.hear())["op"] == "live"
        await client.ask("unsubscribe", node=forgetful.name)
        await client.ask("subscribe", node=forgetful.name, after=gap["cursor"])
        assert await client.indexes(10) == list(range(23, 33))


async def test_a_truncated_history_is_said_to_be(gateway: Gateway, forgetful: Node) -> None:
    forgetful.count(30)
    async with talking(gateway) as client:
        assert (await client.ask("subscribe", node=forgetful.name))["truncated"]
        assert await client.indexes(10) == list(range(20, 30))


@FORMATS
async def test_a_reset_is_told_and_the_watch_goes_on_in_the_new_log(
    gateway: Gateway, publisher: Node, format: Subprotocol
) -> None:
    publisher.count(5)
    async with talking(gateway, format) as client:
        await client.ask("subscribe", node=publisher.name)
        old = (await client.hear_until("live"))[-1]["cursor"]
        publisher.clear()
        assert await client.hear() == {"op": "reset", "node": publisher.name, "cursor": "-1"}
        publisher.count(2)
        assert await client.indexes(2) == [0, 1]
        await client.ask("unsubscribe", node=publisher.name)
        await client.ask("subscribe", node=publisher.name, after=old)
        assert (await client.hear())["op"] == "reset"
        assert await client.indexes(2) == [0, 1]
        assert (await client.hear())["op"] == "live"


# Slow clients, and those who stop.


async def _stop_reading(client: Talker) -> None:
    client.connection.transport.pause_reading()


async def test_a_client_that_falls_behind_on_all_its_topics_catches_up_and_misses_nothing(
    gateway: Gateway, publisher: Node
) -> None:
    jobs = [None, "a", "b"]
    async with talking(gateway, max_queue=1) as slow, talking(gateway, MSGPACK) as quick:
        for client in (slow, quick):
            for job in jobs:
                await client.ask("subscribe", node=publisher.name, **({"job": job} if job else {}))
                await client.hear()
        await _stop_reading(slow)
        rounds = 0
        while gateway.hub.statistics().behind < 3:
            assert rounds < 200, "it never fell behind"
            publisher.count(10, job="ab"[rounds % 2], text="x" * 20_000)
            await quick.updates(20)
            rounds += 1
        slow.connection.transport.resume_reading()
        got: dict[str | None, list[int]] = {job: [] for job in jobs}
        while sum(map(len, got.values())) < rounds * 20:
            message = await slow.hear()
            got[message.get("job")] += [update["index"] for update in message["updates"]]
        assert got[None] == list(range(rounds * 10))
        assert sorted(got["a"] + got["b"]) == got[None]
        assert got["a"] == sorted(got["a"])
        await eventually("it is live again", lambda: gateway.hub.statistics().live == 6)


async def test_a_client_that_takes_nothing_for_too_long_is_closed(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(300, text="x" * 20_000)
    async with serving(valkey, hub=HubSettings(stall_s=0.2)) as gateway, talking(gateway, max_queue=1) as slow:
        await slow.ask("subscribe", node=publisher.name)
        await _stop_reading(slow)
        await eventually("its subscription ends", lambda: gateway.hub.statistics().behind == 0)
        slow.connection.transport.resume_reading()
        closed = await slow.end()
        assert closed.code == 4003
        assert closed.reason.startswith("too slow: nothing was taken for 0.2 s; ")
        got = [update["index"] for message in closed.messages for update in message["updates"]]
        assert got == list(range(len(got)))


async def test_a_gateway_that_stops_says_so(valkey: RedisServer, publisher: Node) -> None:
    async with serving(valkey) as gateway, talking(gateway) as client:
        await client.ask("subscribe", node=publisher.name)
        stopping = asyncio.create_task(gateway.stop(0))
        closed = await client.end()
        assert (closed.code, closed.reason.partition(";")[0]) == (1012, "service restart")
        await stopping


# Sharing.


@FORMATS
async def test_a_message_is_made_once_for_all_who_watch_the_topic(
    gateway: Gateway, publisher: Node, format: Subprotocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    join = Updates.join

    def counted(self: Updates, pieces: bytes, count: int, last: Any) -> bytes:
        made.append(count)
        return join(self, pieces, count, last)

    monkeypatch.setattr(Updates, "join", counted)
    publisher.count(200, text="x" * 1000)
    async with talking(gateway, format) as one, talking(gateway, format) as two:
        for client in (one, two):
            await client.ask("subscribe", node=publisher.name)
            await client.hear_until("live")
        publisher.count(7)
        assert await one.updates(7) == await two.updates(7)
    assert sum(made) == 207


@FORMATS
async def test_who_asks_for_compression_gets_the_same_compressed(
    valkey: RedisServer, publisher: Node, format: Subprotocol
) -> None:
    publisher.count(200, text="x" * 1000)
    offer = [ClientPerMessageDeflateFactory()]
    async with (
        serving(valkey, compress=True) as gateway,
        talking(gateway, format, extensions=offer) as compressed,
        talking(gateway, format) as plain,
    ):
        assert compressed.connection.protocol.extensions
        for client in (compressed, plain):
            await client.ask("subscribe", node=publisher.name)
        assert await compressed.updates(200) == await plain.updates(200)
        assert [(await client.hear())["op"] for client in (compressed, plain)] == ["live", "live"]
        publisher.count(3, text="y" * 1000)
        assert await compressed.updates(3) == await plain.updates(3)


# What clients do wrong.

BAD: list[tuple[str | bytes, str]] = [
    ("", "invalid_message"),
    ("hello", "invalid_message"),
    ("[1]", "invalid_message"),
    ("{}", "invalid_message"),
    ('{"op": 7}', "invalid_message"),
    ('{"op": "nothing"}', "unknown_op"),
    ('{"op": "subscribe"}', "invalid_message"),
    ('{"op": "subscribe", "node": 5}', "invalid_message"),
    ('{"op": "subscribe", "node": "n", "jobs": "j"}', "invalid_message"),
    ('{"op": "subscribe", "node": "n", "after": 1, "history": 1}', "invalid_message"),
    ('{"op": "subscribe", "node": "n", "history": "some"}', "invalid_message"),
    ('{"op": "subscribe", "node": "n", "history": -1}', "invalid_message"),
    ('{"op": "subscribe", "node": "n", "history": true}', "invalid_message"),
    ('{"op": "subscribe", "node": ""}', "invalid_name"),
    ('{"op": "subscribe", "node": "*", "job": "j"}', "invalid_message"),
    ('{"op": "subscribe", "node": "*", "after": 1}', "invalid_message"),
    ('{"op": "subscribe", "node": "*", "history": 1}', "invalid_message"),
    ('{"op": "unsubscribe"}', "invalid_message"),
    ('{"op": "subscribe", "job": "all"}', "invalid_name"),
    ('{"op": "subscribe", "job": "j", "after": 1}', "invalid_cursor"),
    ('{"op": "subscribe", "job": "j", "after": {"n": "x"}}', "invalid_cursor"),
    ('{"op": "subscribe", "job": "j", "after": {"": 1}}', "invalid_name"),
    ('{"op": "subscribe", "job": "j", "after": {"n": 1}, "history": 1}', "invalid_message"),
    ('{"op": "subscribe", "node": "n", "job": "j", "after": {"n": 1}}', "invalid_cursor"),
    ('{"op": "subscribe", "node": "n\\u0000"}', "invalid_name"),
    ('{"op": "subscribe", "node": "n", "job": "all"}', "invalid_name"),
    ('{"op": "subscribe", "node": "n", "after": "x"}', "invalid_cursor"),
    ('{"op": "subscribe", "node": "n", "after": 1e15}', "invalid_message"),
    ('{"op": "unsubscribe", "node": "n"}', "not_subscribed"),
    ('{"op": "ping", "id": [1]}', "invalid_message"),
    ('{"op": "ping", "id": "' + "x" * 65 + '"}', "invalid_message"),
    ("[" * 60_000, "invalid_message"),
    (b'{"op": "ping"}', "invalid_message"),
]


async def test_a_bad_message_gets_an_error_and_harms_nobody(
    gateway: Gateway, publisher: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with talking(gateway) as bad, talking(gateway) as good:
        for client in (bad, good):
            await client.ask("subscribe", node=publisher.name)
            await client.hear()
        for message, code in BAD:
            await bad.connection.send(message)
            error = await bad.hear()
            assert (error["op"], error["code"]) == ("error", code), message[:80]
            assert (await bad.ask("subscribe", node=publisher.name))["code"] == "already_subscribed"
        publisher.count(1)
        assert await bad.indexes(1) == await good.indexes(1) == [0]
        assert (await bad.ask("ping", id=3)) == {"op": "pong", "id": 3}
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_msgpack_that_is_none_gets_an_error(gateway: Gateway) -> None:
    async with talking(gateway, MSGPACK) as client:
        for message in (b"", b"\xc1", b"\x80", b"\x81\xa1\xff\x01", b"\x91" * 60_000, b"\x81\xc0\x01", "{}"):
            await client.connection.send(message)
            assert (await client.hear())["code"] == "invalid_message"
        assert (await client.ask("ping"))["op"] == "pong"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(Opcode.TEXT, b"\xff")], 1007),
        ([Frame(Opcode.TEXT, b"x" * (64 * KIB + 1))], 1009),
        ([Frame(Opcode.TEXT, b"x" * 40 * KIB, fin=False), Frame(Opcode.CONT, b"x" * 40 * KIB)], 1009),
        ([Frame(Opcode.CONT, b"x")], 1002),
    ],
)
async def test_what_makes_no_sense_of_the_connection_closes_it_and_harms_nobody(
    gateway: Gateway, publisher: Node, frames: list[Frame], code: int
) -> None:
    async with talking(gateway) as bad, talking(gateway) as good:
        for client in (bad, good):
            await client.ask("subscribe", node=publisher.name)
            await client.hear()
        bad.connection.transport.write(b"".join(frame.serialize(mask=True) for frame in frames))
        assert (await bad.end()).code == code
        publisher.count(1)
        assert await good.indexes(1) == [0]
    await eventually("nobody follows", lambda: gateway.hub.statistics().live == 0)


async def test_a_message_in_fragments_within_the_limit_is_taken(gateway: Gateway) -> None:
    async with talking(gateway) as client:
        await client.connection.send(["{", '"op":', '"ping"}'])
        assert await client.hear() == {"op": "pong"}


async def test_a_client_may_have_so_many_topics(valkey: RedisServer, publisher: Node) -> None:
    async with serving(valkey, max_topics=2) as gateway, talking(gateway) as client:
        for job in ("a", "b"):
            assert (await client.ask("subscribe", node=publisher.name, job=job))["op"] == "subscribed"
            await client.hear()
        error = await client.ask("subscribe", node=publisher.name, job="c", id=5)
        assert (error["code"], error["job"], error["id"]) == ("too_many_topics", "c", 5)
        await client.ask("unsubscribe", node=publisher.name, job="a")
        assert (await client.ask("subscribe", node=publisher.name, job="c"))["op"] == "subscribed"
        await client.hear()
        assert gateway.hub.statistics().feeds <= 3


async def test_who_says_too_much_is_told_and_in_the_end_closed(valkey: RedisServer) -> None:
    async with serving(valkey, max_topics=10, max_messages_s=0.01) as gateway, talking(gateway) as client:
        assert [(await client.ask("ping"))["op"] for _ in range(10)] == ["pong"] * 10
        for n in range(10):
            refused = await client.ask("ping", id=n)
            assert (refused["code"], refused["re"], refused["id"]) == ("rate_limited", "ping", n)
        await client.say("ping")
        assert (await client.end()).code == 1008


@contextlib.asynccontextmanager
async def _asking_and_taking_nothing(gateway: Gateway) -> AsyncIterator[Talker]:
    """A client that has asked 200,000 times, has not read an answer, and has very little room for any."""
    with socket.socket() as narrow:
        narrow.setblocking(False)
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", gateway.port))
        async with talking(gateway, max_queue=1, sock=narrow) as client:
            await _stop_reading(client)
            message = Frame(Opcode.TEXT, b'{"op":"ping","id":"' + b"x" * 60 + b'"}').serialize(mask=True)
            client.connection.transport.write(message * 200_000)
            yield client
            client.connection.transport.abort()


async def test_a_client_that_asks_and_takes_no_answers_is_not_read_on(valkey: RedisServer) -> None:
    async with serving(valkey, max_messages_s=1e9) as gateway, _asking_and_taking_nothing(gateway) as client:
        [connection] = gateway._connections
        conversation = connection.session
        assert isinstance(conversation, Conversation)
        await eventually("it takes nothing", lambda: connection.paused)
        for _ in range(50):
            await asyncio.sleep(0.02)
            assert connection.transport.get_write_buffer_size() < 256 * KIB
            assert len(conversation._waiting) <= WAITING_REQUESTS
        assert client.connection.transport.get_write_buffer_size() > 0, "the gateway took it all"


async def test_a_client_that_asks_and_takes_no_answers_is_closed_in_the_end(valkey: RedisServer) -> None:
    hub = HubSettings(stall_s=0.2)
    async with serving(valkey, hub=hub, max_messages_s=1e9) as gateway, _asking_and_taking_nothing(gateway):
        [connection] = gateway._connections
        await eventually("it is closed", lambda: connection.protocol.close_sent is not None)
        assert connection.protocol.close_sent.code == 4003


async def test_where_redis_does_not_answer_that_is_said_and_what_was_asked_behind_it_is_answered(
    node: str,
) -> None:
    with RedisServer("valkey") as store:
        async with serving(store, hub=HubSettings(open_timeout_s=0.3)) as gateway, talking(gateway) as client:
            store.kill()
            for job in ("a", "b", "c"):
                await client.say("subscribe", node=node, job=job, id=job)
            await client.say("ping", id="p")
            errors = [await client.hear() for _ in range(3)]
            assert [(error["code"], error["temporary"], error["id"]) for error in errors] == [
                ("unavailable", True, job) for job in "abc"
            ]
            assert await client.hear() == {"op": "pong", "id": "p"}
            store.start()
            async with asyncio.timeout(DEADLINE_S):
                while (await client.ask("subscribe", node=node, job="a"))["op"] == "error":
                    await asyncio.sleep(0.05)


async def test_a_client_that_leaves_while_it_is_subscribing_leaves_nothing_behind(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.count(10)
    frames = [
        Frame(Opcode.TEXT, json.dumps({"op": "subscribe", "node": publisher.name, "job": f"{n}"}).encode())
        for n in range(100)
    ]
    request = early("/ws", *frames).replace(
        b"Upgrade: websocket", b"Sec-WebSocket-Protocol: streamer.v1.json\r\nUpgrade: websocket"
    )
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request)
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"subscribed")
        writer.transport.abort()
    await eventually("they are gone", lambda: not gateway._connections)
    await eventually("nobody follows", lambda: not any(slot.feed.watchers for slot in gateway.hub._slots.values()))


async def test_many_topics_on_a_connection_hold_no_more_for_a_slow_client_than_one(
    gateway: Gateway, publisher: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, held = [f"job-{n}" for n in range(60)], []
    write = Follower._write

    def look_and_write(follower: Follower, chunk: Chunk) -> None:
        write(follower, chunk)
        held.append(follower.unsent_bytes)

    for job in jobs:
        publisher.publish(*({"job": job, "text": "x" * 10 * KIB} for _ in range(30)))
    monkeypatch.setattr(Follower, "_write", look_and_write)
    async with talking(gateway, max_queue=1) as client:
        for job in jobs:
            await client.say("subscribe", node=publisher.name, job=job)
        found: list[str] = []
        while found.count("live") < len(jobs):
            found.append((await client.hear())["op"])
    assert len(held) > 2 * len(jobs)
    assert max(held) < 400 * KIB
