"""`watch`: a program that follows a node or a job has each update once, whatever happens to its connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from random import Random
from typing import Any

import pytest
import uvloop
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from streamer.client.watching import WatchRefused, watch
from streamer.core.errors import InvalidCursor, InvalidName, InvalidSetting
from streamer.core.messages import PlainMessage
from streamer.gateway.server import Gateway
from tests.gateway.clients import DEADLINE_S, PROMPT_S, Node, eventually, publishing, serving
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, free_port

Watching = AsyncGenerator[PlainMessage, None]


class Hasty(Random):
    """Draws the shortest waits, and counts them."""

    drawn = 0

    def uniform(self, a: float, b: float) -> float:
        self.drawn += 1
        return a


@pytest.fixture
async def gateway(valkey: RedisServer) -> AsyncIterator[Gateway]:
    async with serving(valkey) as gateway:
        yield gateway


@pytest.fixture
def publisher(valkey: RedisServer, node: str) -> Iterator[Node]:
    with publishing(valkey, node) as publisher:
        yield publisher


def url(gateway: Gateway, scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{gateway.port}"


async def take(watching: Watching, count: int) -> list[int]:
    """The indexes of the next updates, so many."""
    async with asyncio.timeout(DEADLINE_S):
        return [(await anext(watching)).index for _ in range(count)]


# Through a real gateway


async def test_history_comes_first_and_then_live_updates_as_they_were_published(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.publish({"job": "j", "text": "ü"}, {})
    async with aclosing(watch(url(gateway), publisher.name)) as watching:
        first = await asyncio.wait_for(anext(watching), DEADLINE_S)
        assert (first.status, first.state, first.timestamp) == ("running", {"job": "j", "text": "ü"}, 1000)
        assert (first.index, first.previous) == (0, -1)
        assert await take(watching, 1) == [1]
        publisher.count(2)
        assert await take(watching, 2) == [2, 3]


@pytest.mark.parametrize(
    ("job", "options", "expected"),
    [
        (None, {"history": "none"}, [6]),
        (None, {"history": "2"}, [4, 5, 6]),
        (None, {"after": "3"}, [4, 5, 6]),
        ("b", {}, [1, 3, 5]),
        ("a", {"history": "1"}, [4, 6]),
        ("a", {"after": "1"}, [2, 4, 6]),
    ],
)
async def test_job_after_and_history_choose_what_comes(
    gateway: Gateway, publisher: Node, job: str | None, options: dict[str, Any], expected: list[int]
) -> None:
    publisher.publish(*({"job": "ab"[n % 2]} for n in range(6)))
    async with aclosing(watch(url(gateway), publisher.name, job, **options)) as watching:
        taking = asyncio.create_task(take(watching, len(expected)))
        await eventually("it has joined", lambda: gateway.hub.statistics().live == 1)
        publisher.publish({"job": "a"})
        assert await taking == expected


async def test_a_cursor_begins_behind_its_update(gateway: Gateway, publisher: Node) -> None:
    publisher.count(5)
    async with aclosing(watch(url(gateway), publisher.name)) as watching:
        cursor = [await asyncio.wait_for(anext(watching), DEADLINE_S) for _ in range(3)][-1].cursor
    async with aclosing(watch(url(gateway), publisher.name, after=cursor)) as watching:
        assert await take(watching, 2) == [3, 4]


@pytest.mark.parametrize("name", ["a/b c", "nöde 🚀", "%2F?#&=+", "..", "all"])
async def test_names_are_encoded(gateway: Gateway, valkey: RedisServer, node: str, name: str) -> None:
    with publishing(valkey, node + name) as publisher:
        publisher.publish({"job": "x" + name}, {})
        async with aclosing(watch(url(gateway), node + name, "x" + name)) as watching:
            assert await take(watching, 1) == [0]


@pytest.mark.parametrize("scheme", ["ws", "http", "WS"])
@pytest.mark.parametrize("end", ["", "/"])
async def test_the_gateways_url_may_be_of_either_scheme(
    gateway: Gateway, publisher: Node, scheme: str, end: str
) -> None:
    publisher.count(1)
    async with aclosing(watch(url(gateway, scheme) + end, publisher.name)) as watching:
        assert await take(watching, 1) == [0]


@pytest.mark.parametrize("job", [None, "j"])
async def test_it_goes_on_after_its_gateway_was_killed_and_another_listens_in_its_place(
    valkey: RedisServer, publisher: Node, job: str | None
) -> None:
    told: list[str] = []
    with GatewayProcess(valkey.url) as first:
        async with aclosing(watch(first.url, publisher.name, job, notify=told.append, rng=Hasty())) as watching:
            publisher.count(3, job="j")
            assert await take(watching, 3) == [0, 1, 2]
            first.kill()
            publisher.count(3, job="j")
            taking = asyncio.create_task(take(watching, 4))
            await eventually("it has tried in vain", lambda: any("cannot be reached" in line for line in told))
            async with serving(valkey, port=first.port) as second:
                await eventually("it is back", lambda: second.hub.statistics().live == 1)
                publisher.count(1, job="j")
                assert await taking == [3, 4, 5, 6]
    assert told[0].startswith("the connection broke; next try in 0.1 s")
    assert any(line.startswith(f"{first.url} cannot be reached: ") for line in told)


@pytest.mark.parametrize("history", ["none", "1", "all"])
async def test_what_is_published_between_two_connections_comes_though_nothing_had_come_before(
    valkey: RedisServer, publisher: Node, history: str
) -> None:
    """Who asked for no history joined at the head; it goes on from there and not from a later one."""
    publisher.count(0 if history != "none" else 3)
    port = free_port()
    async with aclosing(watch(f"ws://127.0.0.1:{port}", publisher.name, history=history, rng=Hasty())) as watching:
        taking = asyncio.create_task(take(watching, 2))
        async with serving(valkey, port=port) as first:
            await eventually("it has joined", lambda: first.hub.statistics().live == 1)
        publisher.count(2)
        async with serving(valkey, port=port) as second:
            await eventually("it is back", lambda: second.hub.statistics().live == 1)
            publisher.count(2)
            assert await taking == ([3, 4] if history == "none" else [0, 1])


async def test_a_log_started_anew_is_told_and_followed_from_its_start(gateway: Gateway, publisher: Node) -> None:
    told: list[str] = []
    publisher.count(3)
    async with aclosing(watch(url(gateway), publisher.name, history="1", notify=told.append)) as watching:
        assert await take(watching, 1) == [2]
        publisher.clear()
        publisher.count(2)
        assert await take(watching, 2) == [0, 1]
    assert len(told) == 1
    assert told[0].startswith("reset: the log was started anew")


async def test_updates_that_are_no_longer_kept_are_told_and_the_rest_follows(
    gateway: Gateway, valkey: RedisServer, node: str
) -> None:
    told: list[str] = []
    with publishing(valkey, node, keep=10) as publisher:
        publisher.count(25)
        async with aclosing(watch(url(gateway), node, after="3", notify=told.append)) as watching:
            assert await take(watching, 10) == list(range(15, 25))
    assert [line.partition(";")[0] for line in told] == ["gap: updates 4 to 14 are no longer kept"]


async def test_a_stopping_gateway_is_told_and_left(valkey: RedisServer, publisher: Node) -> None:
    told: list[str] = []
    publisher.count(2)
    async with serving(valkey) as first:
        port = first.port
        watching = watch(url(first), publisher.name, notify=told.append, rng=Hasty())
        assert await take(watching, 2) == [0, 1]
    async with aclosing(watching), serving(valkey, port=port):
        publisher.count(1)
        assert await take(watching, 1) == [2]
    assert told[0].startswith("service restart; next try in ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"after": "x"}, "'x' is no cursor"),
        ({"after": ""}, "'' is no cursor"),
        ({"history": "some"}, "`history` is all, none"),
        ({"history": "-1"}, "'-1' is none of these"),
    ],
)
async def test_what_the_gateway_refuses_for_good_is_raised_in_its_words(
    gateway: Gateway, node: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((WatchRefused, InvalidCursor), match=sentence):
        await asyncio.wait_for(anext(watch(url(gateway), node, **options)), DEADLINE_S)


async def test_without_redis_it_tries_again_until_there_is_one(own_valkey: RedisServer, node: str) -> None:
    told: list[str] = []
    with publishing(own_valkey, node) as publisher:
        publisher.count(1)
    async with serving(own_valkey) as gateway:
        own_valkey.kill()
        async with aclosing(watch(url(gateway), node, notify=told.append, rng=Hasty())) as watching:
            taking = asyncio.create_task(take(watching, 1))
            await eventually("the handshake waits", lambda: gateway.hub.statistics().feeds == 1)
            own_valkey.start()
            assert await taking == [0]


# How it ends


async def test_closing_it_closes_the_connection_at_once(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    watching = watch(url(gateway), publisher.name)
    assert await take(watching, 1) == [0]
    async with asyncio.timeout(PROMPT_S):
        await watching.aclose()
        await eventually("the gateway has forgotten it", lambda: gateway.hub.statistics().live == 0)
    with pytest.raises(StopAsyncIteration):
        await anext(watching)


async def test_closing_it_in_the_middle_of_a_long_history_closes_the_connection_at_once(
    gateway: Gateway, publisher: Node
) -> None:
    for _ in range(20):
        publisher.count(100, text="x" * 1000)
    watching = watch(url(gateway), publisher.name)
    assert await take(watching, 3) == [0, 1, 2]
    async with asyncio.timeout(PROMPT_S):
        await watching.aclose()
        await eventually("the gateway has forgotten it", lambda: gateway.hub.statistics().live == 0)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("count", [1, 50])
async def test_breaking_out_of_it_leaves_nothing_to_complain_about_at_the_loops_end(
    gateway: Gateway, publisher: Node, count: int, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    publisher.count(100, text="x" * 10_000)
    complaints: list[dict[str, Any]] = []

    async def follow() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        left = count
        async for _ in watch(url(gateway), publisher.name):
            left -= 1
            if not left:
                break

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(follow())

    await asyncio.wait_for(asyncio.to_thread(run), DEADLINE_S)
    assert complaints == []
    await eventually("the gateway has forgotten it", lambda: not gateway._connections)


async def test_cancelling_it_while_it_waits_for_updates_closes_the_connection(
    gateway: Gateway, publisher: Node
) -> None:
    async def follow() -> None:
        async for _ in watch(url(gateway), publisher.name):
            pass

    following = asyncio.create_task(follow())
    await eventually("it has joined", lambda: gateway.hub.statistics().live == 1)
    following.cancel()
    await asyncio.wait([following], timeout=PROMPT_S)
    assert following.cancelled()
    await eventually("the gateway has forgotten it", lambda: gateway.hub.statistics().live == 0)


async def test_cancelling_it_while_it_waits_for_its_next_try_ends_it(node: str) -> None:
    told: list[str] = []
    watching = watch(f"ws://127.0.0.1:{free_port()}", node, notify=told.append)
    taking = asyncio.create_task(take(watching, 1))
    await eventually("it could not connect", lambda: bool(told))
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(taking, PROMPT_S)


# What is no gateway, and gateways that behave in other ways


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        "127.0.0.1:8080",
        "ftp://host",
        "ws://",
        "ws:///path",
        "ws://host?x=1",
        "ws://host#x",
        "ws://host:port",
        "ws://host:99999",
        "ws://[::1",
        f"ws://{'a' * 64}.example",
        "ws://user@host",
    ],
)
async def test_what_is_no_url_of_a_gateway_is_an_invalid_setting(bad: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        await asyncio.wait_for(anext(watch(bad, "n")), DEADLINE_S)
    assert str(raised.value)


@pytest.mark.parametrize(("node", "job"), [("", None), ("a\n", None), ("x" * 257, None), ("n", "all"), ("n", "")])
async def test_what_is_no_name_is_said_before_anybody_is_asked(node: str, job: str | None) -> None:
    with pytest.raises(InvalidName):
        await anext(watch("ws://127.0.0.1:1", node, job))


Answering = Callable[[ServerConnection, Request], Response | None]


def _message(index: int) -> str:
    fields = {"status": "s", "state": {}, "timestamp": 1, "index": index, "previous": -1, "cursor": f"ab.1.{index}"}
    return json.dumps(fields)


class Script:
    """A server that treats each connection as the next line of a script says, and notes what was asked."""

    def __init__(self, *lines: Response | tuple[int, str] | str) -> None:
        self.lines = list(lines)
        self.asked: list[str] = []
        self._next = -1

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse the connection where that is its line."""
        self.asked.append(request.path)
        self._next = min(self._next + 1, len(self.lines) - 1)
        line = self.lines[self._next]
        return line if isinstance(line, Response) else None

    async def handle(self, connection: ServerConnection) -> None:
        """Send the line, if it is text, and wait; or close with a code and a reason."""
        line = self.lines[self._next]
        if isinstance(line, str):
            await connection.send(line)
            await connection.wait_closed()
        elif isinstance(line, tuple):
            await connection.close(*line)


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    async with serve(script.handle, "127.0.0.1", 0, process_request=script.answer) as server:
        yield _url_of(server)


def _url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def refusal(status: HTTPStatus, body: bytes = b"") -> Response:
    return Response(status.value, status.phrase, Headers({"Content-Length": str(len(body))}), body)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (refusal(HTTPStatus.INTERNAL_SERVER_ERROR), "HTTP status 500"),
        (refusal(HTTPStatus.BAD_GATEWAY, b"<html>"), "HTTP status 502"),
        (refusal(HTTPStatus.SERVICE_UNAVAILABLE, b'{"error": "wait a moment"}'), "wait a moment"),
        (refusal(HTTPStatus.TOO_MANY_REQUESTS), "HTTP status 429"),
        ((1000, ""), "closed with code 1000"),
        ((1001, "going away"), "going away"),
        ((1011, "internal error"), "internal error"),
        ((1012, "service restart"), "service restart"),
        ((1013, "try again later"), "try again later"),
        ((4003, "too slow"), "too slow"),
    ],
)
async def test_what_passes_is_tried_again_after_a_wait(line: Response | tuple[int, str], says: str) -> None:
    told: list[str] = []
    script = Script(line, line, _message(0))
    async with scripted(script) as gateway, aclosing(watch(gateway, "n", notify=told.append, rng=Hasty())) as watching:
        assert await take(watching, 1) == [0]
    assert script.asked == ["/nodes/n?history=all"] * 3
    assert told[-1] == "connected"
    lost = [sentence for sentence in told if sentence != "connected"]
    assert all(says in sentence for sentence in lost)
    assert [sentence.rpartition("; ")[2] for sentence in lost] == ["next try in 0.1 s", "next try in 0.2 s"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (refusal(HTTPStatus.BAD_REQUEST, b'{"error": "not so"}'), "^not so$"),
        (refusal(HTTPStatus.UNAUTHORIZED), "HTTP status 401"),
        (refusal(HTTPStatus.FORBIDDEN, b"\xff"), "HTTP status 403"),
        (refusal(HTTPStatus.NOT_FOUND, b'["error"]'), "HTTP status 404"),
        (refusal(HTTPStatus.OK, b'{"nodes": []}'), "HTTP status 200"),
        ((1003, "only sends"), "only sends"),
        ((1008, "not allowed"), "not allowed"),
    ],
)
async def test_what_would_end_the_same_way_again_is_refused(line: Response | tuple[int, str], says: str) -> None:
    script = Script(line)
    async with scripted(script) as gateway:
        with pytest.raises(WatchRefused, match=says):
            await asyncio.wait_for(anext(watch(gateway, "n")), DEADLINE_S)
    assert len(script.asked) == 1


async def test_it_asks_for_what_follows_the_last_update() -> None:
    script = Script(
        _message(7), (4002, "gap: updates 8 to 9 are no longer kept; go on with after=ab.1.9"), _message(10)
    )
    told: list[str] = []
    async with (
        serve(script.handle, "127.0.0.1", 0, process_request=script.answer) as server,
        aclosing(watch(_url_of(server), "n/1", "j 2", after="3", notify=told.append, rng=Hasty())) as watching,
    ):
        assert await take(watching, 1) == [7]
        for connection in server.connections:
            connection.transport.abort()
        assert await take(watching, 1) == [10]
    assert script.asked == [f"/nodes/n%2F1/jobs/j%202?after={after}" for after in ("3", "ab.1.7", "ab.1.9")]
    assert [sentence.partition(";")[0] for sentence in told] == [
        "the connection broke",
        "connected",
        "gap: updates 8 to 9 are no longer kept",
    ]


@pytest.mark.parametrize("prefix", ["/prefix", "/a/b/"])
async def test_a_gateway_may_stand_behind_a_prefix(prefix: str) -> None:
    script = Script(_message(0))
    async with scripted(script) as gateway, aclosing(watch(gateway + prefix, "n", "j")) as watching:
        assert await take(watching, 1) == [0]
    assert script.asked == [f"{prefix.rstrip('/')}/nodes/n/jobs/j?history=all"]


@pytest.mark.parametrize("line", [(4001, "reset: the log was started anew"), (4002, "gap: come back")])
async def test_a_gateway_that_ends_every_try_at_once_is_not_asked_again_without_a_wait(line: tuple[int, str]) -> None:
    """The first time it is news, and the next try may be at once; again and again it would be a busy loop."""
    rng, script = Hasty(), Script(line)
    async with scripted(script) as gateway:
        taking = asyncio.create_task(take(watch(gateway, "n", after="ab.1.1", rng=rng), 1))
        await eventually("it has tried four times", lambda: len(script.asked) >= 4)
        taking.cancel()
        await asyncio.wait([taking])
    assert rng.drawn > 0


async def test_https_is_asked_by_tls(node: str) -> None:
    said: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    told: list[str] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not said.done():
            said.set_result(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        taking = asyncio.create_task(take(watch(f"https://127.0.0.1:{port}", node, notify=told.append), 1))
        assert await asyncio.wait_for(said, DEADLINE_S) == b"\x16", "the first byte of a TLS handshake"
        await eventually("it tells that this failed", lambda: bool(told))
        taking.cancel()
        await asyncio.wait([taking])
    assert told[0].startswith(f"wss://127.0.0.1:{port} cannot be reached: ")


@pytest.mark.parametrize("text", ["hello", "{}", '{"status": 1}', "[]"])
async def test_what_is_no_update_is_refused_and_not_a_bare_decoding_error(text: str) -> None:
    async with scripted(Script(text)) as gateway:
        with pytest.raises(WatchRefused):
            await asyncio.wait_for(anext(watch(gateway, "n")), DEADLINE_S)


async def test_an_update_of_the_greatest_size_is_taken(gateway: Gateway, publisher: Node) -> None:
    publisher.publish({"text": "\x01" * 1_000_000})
    async with aclosing(watch(url(gateway), publisher.name)) as watching:
        assert await take(watching, 1) == [0]
