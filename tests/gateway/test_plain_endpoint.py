"""The plain endpoint: whoever joins, whenever and however slow, has each update once and in order."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Frame, Opcode

from streamer.core.cursor import START, Cursor
from streamer.core.errors import LogUnavailable
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import Gateway
from tests.gateway.clients import (
    DEADLINE_S,
    PROMPT_S,
    End,
    Message,
    Node,
    connect,
    early,
    end,
    eventually,
    indexes,
    path,
    publishing,
    read_until,
    receive,
    serving,
)
from tests.servers import RedisServer

LAST = {"last": True}
KIB = 1024


def _joined(connection: ClientConnection) -> dict[str, str]:
    """What the handshake says of where the client joins."""
    assert connection.response is not None
    headers = connection.response.headers
    return {name: headers[f"Streamer-{name}"] for name in ("Log", "Head", "History")}


def _token(cursor: str, index: int) -> str:
    """The cursor of another update of the same log and epoch."""
    return f"{cursor.rpartition('.')[0]}.{index}"


# What is sent


async def test_history_comes_first_and_then_each_update_as_it_is_published(gateway: Gateway, publisher: Node) -> None:
    publisher.count(3)
    async with connect(gateway, path(publisher.name)) as client:
        assert await indexes(client, 3) == [0, 1, 2]
        publisher.count(2)
        publisher.count(1)
        assert await indexes(client, 3) == [3, 4, 5]


async def test_a_job_has_its_own_updates_chained_by_previous(gateway: Gateway, publisher: Node) -> None:
    jobs: list[dict[str, Any]] = [{"job": "a"}, {"job": "b"}, {}, {"job": "a"}]
    publisher.publish(*jobs)
    async with connect(gateway, path(publisher.name, "a")) as client:
        publisher.publish(*jobs)
        messages = await receive(client, 4)
    assert [(message["index"], message["previous"]) for message in messages] == [(0, -1), (3, 0), (4, 3), (7, 4)]
    assert all(message["state"]["job"] == "a" for message in messages)


async def test_a_message_has_exactly_the_fields_of_the_update(gateway: Gateway, publisher: Node) -> None:
    state = {
        "job": "jöb/1",
        "text": 'a "quote", \\, \n, \u2028, \x00, nul, 🚀',
        "": {"nested": [None, True, False, [], {}]},
        "floats": [0.1, -0.0, 1e300, 5e-324, 1.0],
        "integers": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1],
    }
    publisher.publish(state)
    async with connect(gateway, path(publisher.name, "jöb/1")) as client:
        raw = await asyncio.wait_for(client.recv(), DEADLINE_S)
        log_id = _joined(client)["Log"]
    assert isinstance(raw, str)
    message = json.loads(raw)
    assert message == {
        "status": "running",
        "state": state,
        "timestamp": 1000,
        "index": 0,
        "previous": -1,
        "cursor": f"{log_id}.1.0",
    }
    assert str(message["state"]["floats"]) == str(state["floats"])


async def test_a_node_that_does_not_exist_yet_is_watched_from_its_first_update_on(
    gateway: Gateway, publisher: Node
) -> None:
    async with connect(gateway, path(publisher.name)) as all_of_it, connect(gateway, path(publisher.name, "j")) as job:
        assert _joined(all_of_it) == {"Log": "", "Head": "-1", "History": "complete"}
        publisher.publish({}, {"job": "j"})
        assert await indexes(all_of_it, 2) == [0, 1]
        assert await indexes(job, 1) == [1]


async def test_two_gateways_send_the_same_bytes(gateway: Gateway, valkey: RedisServer, publisher: Node) -> None:
    publisher.publish({"job": "j", "x": 0.1, "text": "ü"}, {"deep": {"b": 1, "a": [2]}})
    async with (
        serving(valkey) as other,
        connect(gateway, path(publisher.name)) as one,
        connect(other, path(publisher.name)) as two,
    ):
        publisher.publish({"job": "j"}, {"n": 10**15})
        async with asyncio.timeout(DEADLINE_S):
            assert [await one.recv() for _ in range(4)] == [await two.recv() for _ in range(4)]


@pytest.mark.parametrize("name", ["a/b c", "nöde 🚀", "{n}:all", "%2F", "..", "\u2028"])
async def test_names_of_any_kind_are_watched_by_their_encoded_path(
    gateway: Gateway, valkey: RedisServer, name: str
) -> None:
    name += secrets.token_hex(4)
    with publishing(valkey, name) as node:
        node.publish({"job": name}, {"job": name + "2"})
        async with connect(gateway, path(name)) as all_of_it, connect(gateway, path(name, name)) as job:
            node.publish({"job": name})
            assert await indexes(all_of_it, 3) == [0, 1, 2]
            assert await indexes(job, 2) == [0, 2]


# How much comes first


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ({"history": "all"}, 0),
        ({"history": "none"}, 6),
        ({"history": 0}, 6),
        ({"history": 1}, 5),
        ({"history": 5}, 1),
        ({"history": 6}, 0),
        ({"history": 7}, 0),
        ({"history": 10**9}, 0),
        ({"after": -1}, 0),
        ({"after": 2}, 3),
        ({"after": 5}, 6),
    ],
)
async def test_history_and_a_bare_index_choose_what_comes_first(
    gateway: Gateway, publisher: Node, query: dict[str, object], first: int
) -> None:
    publisher.count(6)
    async with connect(gateway, path(publisher.name, **query)) as client:
        assert _joined(client)["Head"] == "5"
        assert _joined(client)["History"] == "complete"
        publisher.publish(LAST)
        assert await indexes(client, 7 - first) == list(range(first, 7))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"history": "none"}, [9]),
        ({"history": 1}, [7, 9]),
        ({"history": 2}, [4, 7, 9]),
        ({"history": 3}, [1, 4, 7, 9]),
        ({"history": 4}, [1, 4, 7, 9]),
        ({"after": 3}, [4, 7, 9]),
        ({"after": 4}, [7, 9]),
        ({"after": 8}, [9]),
    ],
)
async def test_on_a_job_only_its_own_updates_count(
    gateway: Gateway, publisher: Node, query: dict[str, object], expected: list[int]
) -> None:
    publisher.publish(*({"job": "abc"[n % 3]} for n in range(9)))
    async with connect(gateway, path(publisher.name, "b", **query)) as client:
        publisher.publish({"job": "b"})
        assert await indexes(client, len(expected)) == expected


async def test_a_cursor_resumes_behind_its_update(gateway: Gateway, publisher: Node) -> None:
    publisher.publish(*({"job": "ab"[n % 2]} for n in range(6)))
    async with connect(gateway, path(publisher.name)) as client:
        cursors = [message["cursor"] for message in await receive(client, 6)]
    for job, after, expected in ((None, 0, [1, 2, 3, 4, 5, 6]), (None, 5, [6]), ("a", 2, [4, 6]), ("a", 1, [2, 4, 6])):
        async with connect(gateway, path(publisher.name, job, after=cursors[after])) as client:
            if job is None and after == 0:
                publisher.publish({"job": "a"})
            assert await indexes(client, len(expected)) == expected


@pytest.mark.parametrize("job", [None, "j"])
@pytest.mark.parametrize(
    ("query", "first", "history"),
    [
        ({"history": "all"}, 15, "truncated"),
        ({"history": 4}, 21, "complete"),
        ({"history": 10}, 15, "complete"),
        ({"history": 11}, 15, "truncated"),
        ({"history": 10**9}, 15, "truncated"),
        ({"history": "none"}, 25, "complete"),
        ({"after": 14}, 15, "complete"),
        ({"after": 20}, 21, "complete"),
    ],
)
async def test_what_is_no_longer_kept_is_left_out_and_the_handshake_says_so(
    gateway: Gateway, forgetful: Node, job: str | None, query: dict[str, object], first: int, history: str
) -> None:
    forgetful.count(25, job="j")
    async with connect(gateway, path(forgetful.name, job, **query)) as client:
        forgetful.publish({"job": "j"})
        assert await indexes(client, 26 - first) == list(range(first, 26))
        assert _joined(client)["Head"] == "24"
        assert _joined(client)["History"] == history


async def test_a_feed_that_has_forgotten_reads_history_from_the_log(valkey: RedisServer, publisher: Node) -> None:
    async with serving(valkey, hub=HubSettings(memory_bytes=1)) as gateway:
        for _ in range(10):
            publisher.count(100, text="x" * 200)
        for query, first in (({}, 0), ({"history": 900}, 100), ({"history": 5000}, 0), ({"after": 5}, 6)):
            async with connect(gateway, path(publisher.name, **query)) as client:
                assert _joined(client)["History"] == "complete"
                assert await indexes(client, 1000 - first) == list(range(first, 1000))


@pytest.mark.parametrize("query", [{}, {"history": "none"}, {"history": 2}, {"after": 3}])
async def test_the_handshake_says_where_a_client_can_go_on_before_anything_has_come(
    gateway: Gateway, publisher: Node, query: dict[str, object]
) -> None:
    publisher.count(6)
    async with connect(gateway, path(publisher.name, **query)) as first:
        assert first.response is not None
        cursor = first.response.headers["Streamer-Cursor"]
        publisher.publish(LAST)
        expected = [message["index"] for message in (await _through_last(first))]
    async with connect(gateway, path(publisher.name, after=cursor)) as second:
        assert [message["index"] for message in await _through_last(second)] == expected


async def test_before_there_is_a_log_the_handshakes_cursor_is_the_start_of_whatever_will_be(
    gateway: Gateway, publisher: Node
) -> None:
    async with connect(gateway, path(publisher.name, history="none")) as client:
        assert client.response is not None
        assert client.response.headers["Streamer-Cursor"] == "-1"
    publisher.count(2)
    async with connect(gateway, path(publisher.name, after=-1)) as client:
        assert await indexes(client, 2) == [0, 1]


async def _through_last(client: ClientConnection) -> list[Message]:
    messages = await receive(client, 1)
    while messages[-1]["state"] != LAST:
        messages += await receive(client, 1)
    return messages


# Past what is kept, or of another log


@pytest.mark.parametrize("job", [None, "j"])
@pytest.mark.parametrize("bare", [True, False])
async def test_a_resume_past_what_is_kept_is_told_what_it_missed_and_where_to_go_on(
    gateway: Gateway, forgetful: Node, job: str | None, bare: bool
) -> None:
    forgetful.count(1, job="j")
    [first] = forgetful.read_all(None)
    after = 0 if bare else first.cursor(forgetful.read(None, START).log_id).token
    forgetful.count(29, job="j")
    async with connect(gateway, path(forgetful.name, job, after=after)) as client:
        closed = await end(client)
    assert (closed.code, closed.messages) == (4002, [])
    assert "updates 1 to 19 are no longer kept" in closed.reason
    async with connect(gateway, path(forgetful.name, job, after=closed.after)) as client:
        assert await indexes(client, 10) == list(range(20, 30))


@pytest.mark.parametrize("after", ["6", "9007199254740991", "3f9a1c2b7d4e.1.2"])
async def test_a_cursor_that_the_log_has_not_reached_or_of_another_log_is_a_reset(
    gateway: Gateway, publisher: Node, after: str
) -> None:
    publisher.count(6)
    async with connect(gateway, path(publisher.name, after=after)) as client:
        assert client.response is not None
        cursor = Cursor.parse(client.response.headers["Streamer-Cursor"])
        assert _joined(client) == {"Log": cursor.log_id, "Head": "5", "History": "truncated"}
        closed = await end(client)
    assert (closed.code, closed.messages) == (4001, [])
    assert cursor.log_id not in ("", "3f9a1c2b7d4e")
    assert closed.reason.startswith("reset: the log was started anew, or never had that cursor; come back without")


async def test_a_log_started_anew_closes_who_watches_and_refuses_old_cursors(gateway: Gateway, publisher: Node) -> None:
    publisher.publish({"job": "j"}, {})
    async with connect(gateway, path(publisher.name)) as live, connect(gateway, path(publisher.name, "j")) as job:
        old = (await receive(live, 2))[-1]["cursor"]
        await receive(job, 1)
        publisher.clear()
        for client in (live, job):
            closed = await end(client)
            assert (closed.code, closed.messages) == (4001, [])
    publisher.count(3)
    async with connect(gateway, path(publisher.name, after=old)) as client:
        assert (await end(client)).code == 4001
    async with connect(gateway, path(publisher.name)) as client:
        new = await receive(client, 3)
        assert [message["index"] for message in new] == [0, 1, 2]
        assert new[0]["cursor"] != _token(old, 0)


# What clients should not do


@asynccontextmanager
async def _bystander(gateway: Gateway, publisher: Node) -> AsyncIterator[None]:
    """Somebody who watches the same node, and notices nothing of what happens meanwhile."""
    publisher.count(1)
    async with connect(gateway, path(publisher.name, history=1)) as client:
        await receive(client, 1)
        yield
        publisher.publish(LAST)
        [message] = await receive(client, 1)
        assert message["state"] == LAST


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (["text"], CloseCode.UNSUPPORTED_DATA),
        ([b"binary"], CloseCode.UNSUPPORTED_DATA),
        ([""], CloseCode.UNSUPPORTED_DATA),
        ([["in ", "three ", "parts"]], CloseCode.UNSUPPORTED_DATA),
        (["many"] * 200, CloseCode.UNSUPPORTED_DATA),
        (["x" * 5000], CloseCode.MESSAGE_TOO_BIG),
        ([["x" * 3000, "x" * 3000]], CloseCode.MESSAGE_TOO_BIG),
    ],
)
async def test_a_client_that_sends_a_message_is_closed_with_a_reason(
    gateway: Gateway, publisher: Node, sent: list[str | bytes | list[str]], code: int
) -> None:
    async with _bystander(gateway, publisher), connect(gateway, path(publisher.name, history="none")) as client:
        for message in sent:
            await client.send(message)
        async with asyncio.timeout(PROMPT_S):
            closed = await end(client)
        assert closed.code == code
        assert closed.reason
        if code == CloseCode.UNSUPPORTED_DATA:
            assert closed.reason == "this endpoint only sends: it takes no messages from clients"


async def test_a_client_that_breaks_the_protocol_is_closed_with_a_reason(gateway: Gateway, publisher: Node) -> None:
    async with _bystander(gateway, publisher), connect(gateway, path(publisher.name, history="none")) as client:
        client.transport.write(b"\xff\xff\xff\xff")
        closed = await end(client)
        assert closed.code == CloseCode.PROTOCOL_ERROR
        assert closed.reason


async def test_a_client_that_disappears_is_forgotten(gateway: Gateway, publisher: Node) -> None:
    async with _bystander(gateway, publisher):
        clients = [await connect(gateway, path(publisher.name)) for _ in range(3)]
        for client in clients:
            await receive(client, 1)
        assert gateway.hub.statistics().live == 4
        clients[0].transport.abort()
        clients[1].transport.write_eof()
        await clients[2].close()
        await eventually("only the bystander is left", lambda: gateway.hub.statistics().live == 1)
        assert gateway.hub.statistics().behind == 0


async def test_a_ping_is_answered(gateway: Gateway, publisher: Node) -> None:
    async with connect(gateway, path(publisher.name)) as client:
        await asyncio.wait_for(await client.ping(b"are you there"), DEADLINE_S)


@pytest.mark.parametrize("pings", [0, 500, 5000])
async def test_what_is_sent_before_the_handshake_is_answered_is_taken_in_after_it(
    gateway: Gateway, publisher: Node, pings: int
) -> None:
    publisher.count(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    pinging = [Frame(Opcode.PING, b"x" * 125)] * pings
    writer.write(early(path(publisher.name), *pinging, Frame(Opcode.PING, b"early")))
    pong = Frame(Opcode.PONG, b"early").serialize(mask=False)
    await read_until(reader, b"HTTP/1.1 101", b'"index":0', pong)
    publisher.count(1)
    await read_until(reader, b'"index":1')
    writer.write(Frame(Opcode.TEXT, b"hello").serialize(mask=True))
    await read_until(reader, b"this endpoint only sends")
    writer.close()
    await writer.wait_closed()


async def test_a_message_sent_before_the_handshake_is_answered_gets_the_close(
    gateway: Gateway, publisher: Node
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(early(path(publisher.name), Frame(Opcode.TEXT, b"hello")))
    await read_until(reader, b"HTTP/1.1 101", (1003).to_bytes(2, "big") + b"this endpoint only sends")
    writer.close()
    await writer.wait_closed()


async def test_who_has_opened_a_websocket_when_the_log_cannot_be_read_is_told_to_try_again(
    gateway: Gateway, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise LogUnavailable("Redis at redis://secret-host is down")

    monkeypatch.setattr(gateway.hub, "join", fail)
    async with connect(gateway, path(node)) as client:
        assert await end(client) == End(1013, "the log cannot be read now; try again", [])


# Many, and slow ones


async def test_all_who_join_while_updates_come_in_bursts_have_each_once_and_in_order(
    gateway: Gateway, publisher: Node
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    jobs = ("a", "b", None)

    async def watch(job: str | None) -> list[Message]:
        async with connect(gateway, path(publisher.name, job)) as client:
            messages = await receive(client, 1)
            while messages[-1]["state"] != _last(job):
                messages += await receive(client, 1)
        return messages

    watching = []
    async with asyncio.timeout(2 * DEADLINE_S), asyncio.TaskGroup() as group:
        for _ in range(60):
            job = rng.choice(jobs)
            watching.append((job, group.create_task(watch(job))))
            burst = [{"job": job} if job else {} for job in rng.choices(jobs, k=rng.randint(1, 80))]
            await asyncio.to_thread(publisher.publish, *burst)
        publisher.publish(_last("a"), _last("b"), _last(None))
    log = publisher.read_all(None)
    for job, task in watching:
        expected = [update.index for update in log if job is None or update.state.get("job") == job]
        assert [message["index"] for message in task.result()] == expected
        if job is not None:
            assert all(later["previous"] == earlier["index"] for earlier, later in pairwise(task.result()))


def _last(job: str | None) -> dict[str, Any]:
    return {"job": job, **LAST} if job else LAST


@asynccontextmanager
async def _stalled(gateway: Gateway, target: str) -> AsyncIterator[ClientConnection]:
    """A client that has joined and then reads nothing."""
    async with connect(gateway, target, max_queue=1) as client:
        client.transport.pause_reading()
        try:
            yield client
        finally:
            client.transport.abort()


@pytest.mark.parametrize("memory_bytes", [64 << 20, 256 * KIB])
async def test_a_slow_client_holds_nobody_up_and_misses_nothing(
    valkey: RedisServer, publisher: Node, memory_bytes: int
) -> None:
    async with (
        serving(valkey, hub=HubSettings(memory_bytes=memory_bytes)) as gateway,
        _stalled(gateway, path(publisher.name)) as slow,
        connect(gateway, path(publisher.name)) as quick,
    ):
        total = 0
        while total < 100 or not gateway.hub.statistics().behind:
            assert total < 2000, "the slow client never fell behind"
            publisher.count(20, text="x" * 50_000)
            assert await indexes(quick, 20) == list(range(total, total + 20))
            total += 20
        publisher.publish(LAST)
        assert await indexes(quick, 1) == [total]
        slow.transport.resume_reading()
        assert await indexes(slow, total + 1) == list(range(total + 1))
        publisher.publish(LAST)
        assert await indexes(slow, 1) == [total + 1]
        await eventually("it is live again", lambda: gateway.hub.statistics().live == 2)


async def test_slow_clients_cost_no_memory_for_what_they_are_owed(valkey: RedisServer, publisher: Node) -> None:
    async with (
        serving(valkey, hub=HubSettings(memory_bytes=256 * KIB)) as gateway,
        AsyncExitStack() as stack,
        connect(gateway, path(publisher.name)) as quick,
    ):
        for _ in range(10):
            await stack.enter_async_context(_stalled(gateway, path(publisher.name)))
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for n in range(20):
            publisher.count(20, text="x" * 50_000)
            assert await indexes(quick, 20) == list(range(n * 20, n * 20 + 20))
        await eventually("all fell behind", lambda: gateway.hub.statistics().behind == 10)
        after, _ = tracemalloc.get_traced_memory()
        assert gateway.hub.statistics().feed_bytes < 2 << 20
        assert after - before < 40 << 20, "200 MB are owed"


async def test_a_client_slower_than_what_is_kept_is_told_what_it_missed(valkey: RedisServer, forgetful: Node) -> None:
    async with (
        serving(valkey, hub=HubSettings(memory_bytes=1)) as gateway,
        _stalled(gateway, path(forgetful.name)) as slow,
    ):
        async with asyncio.timeout(DEADLINE_S):
            while gateway.hub.statistics().behind == 0:
                forgetful.count(5, text="x" * 100_000)
                await asyncio.sleep(0.01)
        for _ in range(10):
            forgetful.count(5, text="x" * 100_000)
        slow.transport.resume_reading()
        closed = await end(slow)
        assert closed.code == 4002
        got = len(closed.messages)
        assert [message["index"] for message in closed.messages] == list(range(got))
        assert closed.reason.startswith(f"gap: updates {got} to ")
        async with connect(gateway, path(forgetful.name, after=closed.after)) as client:
            first = int(closed.after.rpartition(".")[2]) + 1
            assert await indexes(client, 1) == [first]


async def _fall_behind(gateway: Gateway, publisher: Node) -> None:
    """Publish until the one client, which reads nothing, is no longer live."""
    async with asyncio.timeout(DEADLINE_S):
        while gateway.hub.statistics().behind == 0:
            publisher.count(5, text="x" * 50_000)
            await asyncio.sleep(0.01)


async def test_a_client_that_takes_nothing_for_too_long_is_closed_and_goes_on_where_it_was(
    valkey: RedisServer, publisher: Node
) -> None:
    async with (
        serving(valkey, hub=HubSettings(stall_s=0.2)) as gateway,
        _stalled(gateway, path(publisher.name)) as slow,
    ):
        await _fall_behind(gateway, publisher)
        await eventually("its session ends", lambda: gateway.hub.statistics().behind == 0)
        slow.transport.resume_reading()
        closed = await end(slow)
        assert closed.code == 4003
        assert closed.reason.startswith("too slow: nothing was taken for 0.2 s; go on with after=")
        got = len(closed.messages)
        assert [message["index"] for message in closed.messages] == list(range(got))
        assert closed.after == closed.messages[-1]["cursor"]
        async with connect(gateway, path(publisher.name, after=closed.after)) as client:
            publisher.count(1)
            assert await indexes(client, 1) == [got]


async def test_a_client_that_does_not_even_take_the_close_is_cut_off(
    valkey: RedisServer, publisher: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.fanout.closing.CLOSE_S", 0.1)
    async with (
        serving(valkey, hub=HubSettings(stall_s=0.2)) as gateway,
        _stalled(gateway, path(publisher.name)) as slow,
    ):
        await _fall_behind(gateway, publisher)
        await eventually("it is gone", lambda: not gateway._connections)
        slow.transport.resume_reading()
        with pytest.raises(ConnectionClosed) as ended:
            await receive(slow, 1_000_000)
        assert ended.value.rcvd is None


@pytest.mark.parametrize(("query", "first"), [({}, 0), ({"after": 49}, 50), ({"history": 100}, 100)])
async def test_a_client_that_takes_a_long_history_is_not_slow(
    valkey: RedisServer, publisher: Node, query: dict[str, object], first: int
) -> None:
    publisher.count(200, text="x" * 50_000)
    async with (
        serving(valkey, hub=HubSettings(stall_s=0.5)) as gateway,
        connect(gateway, path(publisher.name, **query)) as client,
    ):
        assert await indexes(client, 200 - first) == list(range(first, 200))


async def test_a_client_that_is_behind_all_the_time_is_heard_to_answer_pings(
    valkey: RedisServer, publisher: Node
) -> None:
    publisher.count(300, text="x" * 20_000)
    async with serving(valkey, ping_s=1) as gateway:
        with socket.socket() as narrow:
            narrow.setblocking(False)
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
            await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", gateway.port))
            async with connect(gateway, path(publisher.name), sock=narrow, max_queue=1) as client:
                for connection in gateway._connections:
                    end_of_it = connection.transport.get_extra_info("socket")
                    end_of_it.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
                for n in range(300):
                    assert await indexes(client, 1) == [n]
                    await asyncio.sleep(0.01)


async def test_a_client_that_pings_and_reads_nothing_is_not_read_on(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 30)
    writer.write(early(path(publisher.name)))
    await reader.readuntil(b'"index":0')
    writer.transport.pause_reading()
    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    sending = asyncio.create_task(_send(writer, ping * 8000, 48))
    try:
        done, _ = await asyncio.wait([sending], timeout=1)
        assert not done, "the gateway took 48 MB"
        [connection] = gateway._connections
        assert connection.transport.get_write_buffer_size() < 2 << 20
        # And once it reads, it is served.
        writer.transport.resume_reading()
        sending.cancel()
        publisher.count(1)
        await asyncio.wait_for(reader.readuntil(b'"index":1'), DEADLINE_S)
    finally:
        sending.cancel()
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, data: bytes, times: int) -> None:
    for _ in range(times):
        writer.write(data)
        await writer.drain()
