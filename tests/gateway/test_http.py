"""HTTP: the page, the API, errors in sentences, and on the internal port health and metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from streamer.core.cursor import START
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import Gateway
from streamer.log.fleet import Summary
from tests.gateway.clients import (
    DEADLINE_S,
    PROMPT_S,
    Answer,
    Node,
    ask,
    connect,
    end,
    eventually,
    exchange,
    indexes,
    parse,
    path,
    publishing,
    receive,
    refusal,
    serving,
)
from tests.servers import RedisServer

UNAVAILABLE = "the log cannot be read now; try again"

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)


async def ask_until(status: int, port: int, target: str) -> Answer:
    """Ask again and again, until the answer has the status."""
    async with asyncio.timeout(DEADLINE_S):
        while (answer := await ask(port, target)).status != status:
            await asyncio.sleep(0.01)
    return answer


# The page


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/?node=gpu-1", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/client.js", "text/javascript; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
async def test_the_page_and_its_files_are_served_and_may_load_nothing_from_elsewhere(
    gateway: Gateway, target: str, kind: str
) -> None:
    answer = await ask(gateway.port, target)
    assert answer.status == 200
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.body


async def test_the_page_is_served_without_redis(own_valkey: RedisServer) -> None:
    own_valkey.kill()
    async with serving(own_valkey) as gateway:
        assert (await ask(gateway.port, "/")).status == 200


# The API


async def test_nodes_lists_the_fleet_with_each_nodes_last_update(gateway: Gateway, publisher: Node) -> None:
    publisher.report(Summary(last_seen=1000, status="running", job="jöb", index=7))
    nodes = (await ask(gateway.port, "/api/nodes")).json["nodes"]
    assert [node for node in nodes if node["node"] == publisher.name] == [
        {"node": publisher.name, "last_seen": 1000, "status": "running", "job": "jöb", "index": 7}
    ]


async def test_a_node_is_shown_with_its_log_its_head_and_its_jobs(gateway: Gateway, publisher: Node) -> None:
    publisher.publish({"job": "a/b"}, {})
    publisher.publish({"job": "c"})
    shown = (await ask(gateway.port, f"/api/nodes/{publisher.name}")).json
    log_id = publisher.read(None, START).log_id
    job = {"last_seen": 1000, "status": "running"}
    assert shown.pop("jobs") in (
        [{"job": "c", "index": 2, **job}, {"job": "a/b", "index": 0, **job}],
        [{"job": "a/b", "index": 0, **job}, {"job": "c", "index": 2, **job}],  # both in one ms
    )
    assert shown == {"node": publisher.name, "log": log_id, "epoch": 1, "head": 2, "cursor": f"{log_id}.1.2"}


async def test_a_node_that_has_not_reported_yet_is_empty(gateway: Gateway, node: str) -> None:
    shown = (await ask(gateway.port, f"/api/nodes/{node}")).json
    assert shown == {"node": node, "log": None, "epoch": 0, "head": -1, "cursor": None, "jobs": []}
    updates = (await ask(gateway.port, f"/api/nodes/{node}/updates")).json
    assert updates == {"updates": [], "missing": None, "more": 0, "cursor": None}


async def _pages(gateway: Gateway, target: str) -> list[dict[str, Any]]:
    """Follow the cursor from page to page, until a page is empty."""
    pages = [(await ask(gateway.port, target)).json]
    while pages[-1]["updates"]:
        pages.append((await ask(gateway.port, f"{target}?after={pages[-1]['cursor']}")).json)
    return pages


async def test_updates_are_read_page_by_page_along_the_cursor(gateway: Gateway, publisher: Node) -> None:
    for _ in range(3):
        publisher.publish(*({"job": "ab"[n % 2]} for n in range(400)))
    for job, expected in ((None, list(range(1200))), ("b", list(range(1, 1200, 2)))):
        pages = await _pages(gateway, f"/api{path(publisher.name, job)}/updates")
        updates = [update for page in pages for update in page["updates"]]
        assert [update["index"] for update in updates] == expected
        assert len(pages) > 2
        assert [page["missing"] for page in pages] == [None] * len(pages)
        assert [page["more"] > 0 for page in pages] == [True] * (len(pages) - 2) + [False, False]
        assert pages[-1]["cursor"] == pages[-2]["cursor"] == updates[-1]["cursor"]


async def test_an_update_is_the_same_as_by_websocket_and_its_cursor_goes_on_there(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.publish({"job": "j", "text": "ü", "x": 0.1}, {})
    page = (await ask(gateway.port, f"/api/nodes/{publisher.name}/updates")).json
    async with connect(gateway, path(publisher.name)) as client:
        assert await receive(client, 2) == page["updates"]
    async with connect(gateway, path(publisher.name, after=page["cursor"])) as client:
        publisher.publish({})
        assert await indexes(client, 1) == [2]


async def test_a_page_tells_what_is_no_longer_kept(gateway: Gateway, forgetful: Node) -> None:
    forgetful.count(25)
    for target, missing, first in (("", [0, 14], 15), ("?after=3", [4, 14], 15), ("?after=20", None, 21)):
        page = (await ask(gateway.port, f"/api/nodes/{forgetful.name}/updates{target}")).json
        assert page["missing"] == missing
        assert [update["index"] for update in page["updates"]] == list(range(first, 25))


# Errors


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [
        ("/nothing", 404, "nothing is here; WebSockets are at /nodes/NODE"),
        ("/healthz", 404, "nothing is here"),
        ("/readyz", 404, "nothing is here"),
        ("/metrics", 404, "nothing is here"),
        ("/page/%2e%2e/server.py", 404, "nothing is here"),
        ("/api/nodes/%00", 400, "cannot hold control characters"),
        ("/api/nodes/%FF", 400, "must be UTF-8"),
        ("/api/nodes/n/jobs/all/updates", 400, "a job's name cannot be 'all'"),
        ("/api/nodes?x=1", 400, "unknown query parameter 'x'"),
        ("/api/nodes/n/updates?after=x", 400, "'x' is no cursor"),
        ("/nodes/n?history=" + "0" * 5000, 400, "`history` is all, none"),
        ("/nodes/n", 426, "this is a WebSocket endpoint"),
        ("/nodes/n/jobs/j?history=3", 426, "this is a WebSocket endpoint"),
        ("/nodes/n?history=some", 400, "`history` is all, none"),
    ],
)
async def test_an_error_is_a_sentence_in_json(gateway: Gateway, target: str, status: int, sentence: str) -> None:
    answer = await ask(gateway.port, target)
    assert answer.status == status
    assert sentence in answer.error
    assert answer.headers["connection"].endswith("close")
    if status == 426:
        assert answer.headers["upgrade"] == "websocket"


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [
        ("/nodes/n?after=x", 400, "'x' is no cursor"),
        ("/nodes/n?since=1", 400, "unknown query parameter 'since'"),
        ("/nodes/n/jobs/all", 400, "a job's name cannot be 'all'"),
        (f"/nodes/{'n' * 257}", 400, "256 bytes at the most"),
        ("/elsewhere", 404, "nothing is here"),
    ],
)
async def test_a_websocket_is_refused_with_a_sentence_in_json(
    gateway: Gateway, target: str, status: int, sentence: str
) -> None:
    refused = await refusal(gateway, target)
    assert refused[0] == status
    assert sentence in refused[1]


async def test_a_cursor_of_another_log_is_gone(gateway: Gateway, publisher: Node) -> None:
    publisher.count(3)
    answer = await ask(gateway.port, f"/api/nodes/{publisher.name}/updates?after=abcdef.1.1")
    assert answer.status == 410
    assert "started anew" in answer.error


async def test_an_upgrade_where_there_is_no_websocket_gets_what_is_there(gateway: Gateway, node: str) -> None:
    answer = await ask(gateway.port, f"/api/nodes/{node}", "GET", b"", *UPGRADE)
    assert (answer.status, answer.json["node"]) == (200, node)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (("Upgrade: websocket", "Connection: Upgrade"), 400),
        ((*UPGRADE[:3], "Sec-WebSocket-Version: 12"), 400),
        (("Upgrade: websocket",), 426),
    ],
)
async def test_an_upgrade_that_is_not_whole_is_refused(
    gateway: Gateway, node: str, headers: tuple[str, ...], status: int
) -> None:
    assert (await ask(gateway.port, path(node), "GET", b"", *headers)).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
@pytest.mark.parametrize("body", [b"", b"x=1"])
async def test_any_other_method_with_or_without_a_body_is_answered(gateway: Gateway, method: str, body: bytes) -> None:
    for target in ("/api/nodes", "/nodes/n"):
        answer = await ask(gateway.port, target, method, body)
        assert (answer.status, answer.headers["allow"]) == (405, "GET")
        assert answer.error == f"{method} is not served here, only GET is"


def _post(port: int, size: int) -> int:
    """Post so many bytes, as clients do that send all before they look at what comes back."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PROMPT_S)
    try:
        connection.request("POST", "/api/nodes", b"x" * size)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("size", [1 << 16, 1 << 20, 1 << 25])
async def test_a_body_of_any_size_is_dropped_and_the_request_answered(gateway: Gateway, size: int) -> None:
    assert await asyncio.to_thread(_post, gateway.port, size) == 405


@pytest.mark.parametrize(
    "headers",
    [
        ("Expect: 100-continue", "Content-Length: 4"),
        ("Transfer-Encoding: chunked",),
        ("content-length: 4",),
        ("CONTENT-LENGTH: 4", "Content-Length: 4"),
    ],
)
async def test_a_get_with_a_body_is_answered_in_whatever_way_it_is_announced(
    gateway: Gateway, node: str, headers: tuple[str, ...]
) -> None:
    head = "\r\n".join([f"GET /api/nodes/{node} HTTP/1.1", "Host: gateway", *headers, "", ""]).encode()
    answer = parse(await exchange(gateway.port, head + b"body"))
    assert (answer.status, answer.json["node"]) == (200, node)


async def test_a_request_may_come_byte_by_byte(gateway: Gateway, node: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    async with asyncio.timeout(DEADLINE_S):
        for byte in f"POST /api/nodes/{node} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 2\r\n\r\nab".encode():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert parse(await reader.read()).status == 405
    writer.close()


async def test_head_gets_the_head_alone(gateway: Gateway) -> None:
    head, _, body = (await exchange(gateway.port, b"HEAD /api/nodes HTTP/1.1\r\nHost: gateway\r\n\r\n")).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 405")
    assert body == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /nodes/" + "nöde".encode() + b" HTTP/1.1\r\nHost: gateway\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/9\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    ],
)
async def test_what_is_no_request_is_refused(gateway: Gateway, data: bytes, status: int) -> None:
    answer = parse(await exchange(gateway.port, data))
    assert answer.status == status
    assert answer.body


async def test_a_request_that_is_cut_off_is_refused_without_a_fault(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: ")
    writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        assert parse(await reader.read()).status == 400
        writer.close()
        await writer.wait_closed()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_rubbish_without_end_disturbs_nobody(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with connect(gateway, path(publisher.name)) as client:
        await receive(client, 1)
        for data in (b"\0" * 100_000, b"\r\n" * 50_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(data)
            publisher.count(1)
            await receive(client, 1)
            writer.transport.abort()
            del reader


# Without Redis


@asynccontextmanager
async def _without_redis(store: RedisServer, **hub: Any) -> AsyncIterator[Gateway]:
    """A gateway that waits half a second for its Redis, which has died."""
    async with serving(store, hub=HubSettings(open_timeout_s=0.5, **hub)) as gateway:
        await ask_until(200, gateway.settings.internal_port or 0, "/readyz")
        store.kill()
        yield gateway


@pytest.mark.parametrize("target", ["/api/nodes", "/api/nodes/n", "/api/nodes/n/updates"])
async def test_without_redis_the_api_says_so_and_works_again_as_soon_as_it_is_back(
    own_valkey: RedisServer, target: str
) -> None:
    async with _without_redis(own_valkey) as gateway:
        answer = await ask(gateway.port, target)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.error == UNAVAILABLE
        own_valkey.start()
        await ask_until(200, gateway.port, target)


async def test_without_redis_the_log_says_why_but_not_for_each_request(
    own_valkey: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with _without_redis(own_valkey) as gateway:
        for _ in range(3):
            assert (await ask(gateway.port, "/api/nodes")).status == 503
    [said] = [record.getMessage() for record in caplog.records if record.name == "streamer.gateway.server"]
    assert said.startswith(f"clients are refused: Redis at {own_valkey.url}")


@pytest.mark.parametrize("keep_s", [5, 0.05])
async def test_without_redis_a_websocket_is_refused_and_can_be_had_as_soon_as_it_is_back(
    own_valkey: RedisServer, node: str, keep_s: float
) -> None:
    async with _without_redis(own_valkey, keep_s=keep_s) as gateway:
        answer = await ask(gateway.port, path(node), "GET", b"", *UPGRADE)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.error == UNAVAILABLE
        own_valkey.start()
        await ask_until(200, gateway.settings.internal_port or 0, "/readyz")
        with publishing(own_valkey, node) as publisher:
            publisher.count(2)
            async with connect(gateway, path(node)) as client:
                publisher.count(1)
                assert await indexes(client, 3) == [0, 1, 2]


async def test_with_the_default_settings_a_websocket_is_refused_in_words_before_the_server_gives_the_handshake_up(
    own_valkey: RedisServer, node: str
) -> None:
    async with serving(own_valkey) as gateway:
        own_valkey.kill()
        answer = await ask(gateway.port, path(node), "GET", b"", *UPGRADE)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_who_watches_when_redis_dies_stays_and_goes_on_when_it_is_back(
    own_valkey: RedisServer, node: str
) -> None:
    with publishing(own_valkey, node) as publisher:
        publisher.count(2)
        async with serving(own_valkey) as gateway, connect(gateway, path(node)) as client:
            await receive(client, 2)
            own_valkey.kill()
            assert (await ask(gateway.port, "/api/nodes")).status == 503
            own_valkey.start()
            with publishing(own_valkey, node) as again:
                again.count(2)
            assert await indexes(client, 2) == [2, 3]


# The internal port


def _samples(answer: Answer) -> dict[str, float]:
    """What Prometheus reads from an answer."""
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.body.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


async def test_a_gateway_is_healthy_and_ready_and_nothing_else_is_on_the_internal_port(gateway: Gateway) -> None:
    port = gateway.settings.internal_port or 0
    assert (await ask(port, "/healthz")).json == {"status": "ok"}
    assert (await ask_until(200, port, "/readyz")).json == {"status": "ready"}
    for target in ("/", "/api/nodes", "/nodes/n"):
        answer = await ask(port, target)
        assert (answer.status, answer.error) == (404, "here are /healthz, /readyz and /metrics")
    assert (await ask(port, "/nodes/n", "GET", b"", *UPGRADE)).status == 404


async def test_without_redis_it_is_healthy_and_not_ready_until_redis_is_back(own_valkey: RedisServer) -> None:
    async with serving(own_valkey) as gateway:
        port = gateway.settings.internal_port or 0
        await ask_until(200, port, "/readyz")
        own_valkey.kill()
        assert (await ask_until(503, port, "/readyz")).error
        assert (await ask(port, "/healthz")).status == 200
        own_valkey.start()
        await ask_until(200, port, "/readyz")


async def test_it_is_not_ready_while_it_does_not_hear_pub_sub(own_valkey: RedisServer, node: str) -> None:
    with own_valkey.client() as redis:
        async with serving(own_valkey) as gateway, connect(gateway, path(node)):
            port = gateway.settings.internal_port or 0
            await ask_until(200, port, "/readyz")
            # Who is connected stays; the listening connection is lost, and there is no room for a new one.
            redis.config_set("maxclients", 1)
            _kill_pubsub(redis)
            answer = await ask_until(503, port, "/readyz")
            assert answer.error == "the gateway does not hear Redis's pub/sub"
            redis.config_set("maxclients", 1000)
            await ask_until(200, port, "/readyz")
            samples = _samples(await ask(port, "/metrics"))
            assert samples["streamer_deaf_periods_total"] == 1
            deaf_s = samples["streamer_deaf_seconds_total"]
            assert deaf_s > 0
            again = _samples(await ask(port, "/metrics"))
            assert (again["streamer_listening"], again["streamer_deaf_seconds_total"]) == (1, deaf_s)


def _kill_pubsub(redis: Redis) -> None:
    assert redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1  # type: ignore[no-untyped-call]


async def test_metrics_count_sessions_and_updates(gateway: Gateway, publisher: Node) -> None:
    port = gateway.settings.internal_port or 0
    publisher.publish({"job": "j"}, {})
    async with connect(gateway, path(publisher.name)) as one, connect(gateway, path(publisher.name, "j")) as two:
        await receive(one, 2)
        await receive(two, 1)
        await eventually("both are live", lambda: gateway.hub.statistics().live == 2)
        samples = _samples(await ask(port, "/metrics"))
        assert samples["streamer_live"] == 2
        assert samples["streamer_behind"] == 0
        assert samples["streamer_feeds"] == 2
        assert samples["streamer_listening"] == 1
        assert samples["streamer_appended_total"] == 3
        assert samples["streamer_feed_bytes"] > 0
        assert samples["streamer_unsent_bytes"] == 0
        publisher.publish({})
        await receive(one, 1)
        samples = _samples(await ask(port, "/metrics"))
        # Of the two updates that were there before, nobody waited; the timestamp of these is of 1970.
        assert samples["streamer_latency_seconds_count"] == 1
        assert samples["streamer_latency_seconds_sum"] > 1e9
        publisher.clear()
        assert (await end(one)).code == 4001
        assert (await end(two)).code == 4001
    await eventually("both are gone", lambda: gateway.hub.statistics().live == 0)
    samples = _samples(await ask(port, "/metrics"))
    assert (samples["streamer_live"], samples["streamer_resets_total"]) == (0, 2)


async def test_without_an_internal_port_there_are_no_metrics_anywhere(valkey: RedisServer) -> None:
    async with serving(valkey, internal_port=None) as gateway:
        assert json.loads((await ask(gateway.port, "/metrics")).body)["error"].startswith("nothing is here")
