"""How the client connects, and what it makes of gateways that refuse, close, lie or say nothing."""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from streamer.client import GatewayRefused, GatewayUnreachable, Unauthorized, connect, hearing
from streamer.core.errors import InvalidSetting
from tests.certificates import Certificates
from tests.client.following import Hasty, indexes, take
from tests.client.scripted import Line, Script, refusal, scripted, subscribed, updates
from tests.gateway.clients import DEADLINE_S, PROMPT_S, eventually
from tests.servers import free_port

JSON: dict[str, Any] = {"format": "json"}
TOKEN = "a.b-c"


async def first_of(url: str, **options: Any) -> list[int]:
    """The first index that comes of a node."""
    async with asyncio.timeout(DEADLINE_S), connect(url, **JSON, **options) as client:
        return await indexes(client.follow("n"), 1)


# Where


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
        [],
        ["ws://host", "nonsense"],
    ],
)
def test_what_is_no_url_of_a_gateway_is_an_invalid_setting(bad: str | list[str]) -> None:
    with pytest.raises(InvalidSetting, match=r"\w"):
        connect(bad)


async def test_a_user_without_a_password_in_a_url_is_an_invalid_setting() -> None:
    with pytest.raises(InvalidSetting):
        await first_of("ws://user@host")


@pytest.mark.parametrize("scheme", ["ws", "http", "WS"])
@pytest.mark.parametrize("prefix", ["", "/", "/prefix", "/a/b/"])
async def test_a_gateways_url_may_be_of_either_scheme_and_have_a_prefix(scheme: str, prefix: str) -> None:
    script = Script([subscribed(), updates(0)])
    async with scripted(script) as gateway:
        assert await first_of(gateway.replace("ws", scheme, 1) + prefix) == [0]
    assert [request.path for request in script.requests] == [f"{prefix.rstrip('/')}/ws"]


async def test_each_try_takes_the_next_gateway() -> None:
    one, two = Script((1012, "restart")), Script((1012, "restart"), [subscribed(), updates(0)])
    async with scripted(one) as first, scripted(two) as second:
        assert await first_of([first, second], rng=Hasty()) == [0]  # type: ignore[arg-type]
    assert (len(one.requests), len(two.requests)) == (2, 2)


async def test_a_client_of_several_begins_with_any_of_them() -> None:
    one, two = Script([subscribed(), updates(0)]), Script([subscribed(), updates(0)])
    async with scripted(one) as first, scripted(two) as second:
        for _ in range(40):
            await first_of([first, second])  # type: ignore[arg-type]
    assert one.requests
    assert two.requests


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.path("server.crt"), certificates.path("server.key"))
    return context


@pytest.mark.parametrize("scheme", ["wss", "https"])
async def test_a_gateway_behind_tls_is_trusted_by_its_authority(
    certificates: Certificates, tls: ssl.SSLContext, scheme: str
) -> None:
    script = Script([subscribed(), updates(0)])
    async with scripted(script, tls=tls) as gateway:
        url = gateway.replace("wss", scheme)
        assert await first_of(url, ca_file=certificates.path("ca.crt")) == [0]
        own = ssl.create_default_context(cafile=certificates.path("ca.crt"))
        assert await first_of(url, tls=own) == [0]
        with pytest.raises(GatewayRefused, match="cannot be trusted"):
            await first_of(url, ca_file=certificates.path("stranger.crt"))
        with pytest.raises(GatewayRefused, match="cannot be trusted"):
            await first_of(url)


def test_certificates_that_cannot_be_read_are_an_invalid_setting(tmp_path: Path) -> None:
    (tmp_path / "no").write_text("no certificate")
    for name in ("no", "none"):
        with pytest.raises(InvalidSetting, match=name):
            connect("wss://host", ca_file=str(tmp_path / name))


# Refusals and closes


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
async def test_what_passes_is_tried_again_after_waits_that_grow(line: Line, says: str) -> None:
    told: list[str] = []
    script = Script(line, line, [subscribed(), updates(0)])
    async with scripted(script) as gateway:
        assert await first_of(gateway, notify=told.append, rng=Hasty()) == [0]
    assert told[-1] == "connected"
    lost = [sentence for sentence in told if sentence != "connected"]
    assert all(says in sentence for sentence in lost)
    assert [sentence.rpartition("; ")[2] for sentence in lost] == ["next try in 0.1 s", "next try in 0.2 s"]


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        (refusal(HTTPStatus.BAD_REQUEST, b'{"error": "not so"}'), GatewayRefused, "^not so$"),
        (refusal(HTTPStatus.UNAUTHORIZED, b'{"error": "no token"}'), Unauthorized, "^no token$"),
        (refusal(HTTPStatus.FORBIDDEN, b"\xff"), Unauthorized, "HTTP status 403"),
        (refusal(HTTPStatus.NOT_FOUND, b'["error"]'), GatewayRefused, "no gateway that speaks v1 at ws://"),
        (refusal(HTTPStatus.OK, b'{"nodes": []}'), GatewayRefused, "HTTP status 200"),
        ((1002, "what"), GatewayRefused, "what"),
        ((1008, "too many messages"), GatewayRefused, "too many messages"),
        ((1009, ""), GatewayRefused, "1009"),
        (["hello"], GatewayRefused, "is no v1"),
        (['{"op": 1}'], GatewayRefused, "is no v1"),
        (['{"op": "updates"}'], GatewayRefused, "is no v1"),
        ([{"op": "error", "code": "invalid_message", "message": "what?", "temporary": False}], GatewayRefused, "what?"),
    ],
)
async def test_what_would_end_the_same_way_again_is_raised(line: Line, error: type[Exception], says: str) -> None:
    script = Script(line)
    async with scripted(script) as gateway:
        with pytest.raises(error, match=says) as raised:
            await first_of(gateway)
    assert type(raised.value) is error
    assert len(script.requests) == 1


async def test_a_server_without_v1_is_refused() -> None:
    async with scripted(Script([updates(0)]), v1=False) as gateway:
        with pytest.raises(GatewayRefused, match=r"does not speak streamer\.v1\.json"):
            await first_of(gateway)


async def test_what_is_refused_once_it_has_worked_ends_all_follows_behind_what_has_come() -> None:
    script = Script([subscribed(), updates(0)], refusal(HTTPStatus.UNAUTHORIZED))
    async with scripted(script) as gateway, connect(gateway, **JSON, rng=Hasty()) as client:
        follow, other = client.follow("n"), client.follow("m")
        async with follow, other:
            await eventually("an update has come", lambda: follow._inbox and follow._inbox._messages)
            script.connections[0].transport.abort()
            await eventually("it is refused", lambda: len(script.requests) == 2)
            with pytest.raises(Unauthorized):
                await take(other, 1)
            assert await indexes(follow, 1) == [0]
            for _ in range(2):
                with pytest.raises(Unauthorized):
                    await take(follow, 1)
            with pytest.raises(Unauthorized):
                await take(client.follow("x"), 1)


async def test_what_a_proxy_says_while_there_is_no_gateway_behind_it_passes() -> None:
    script = Script([subscribed(), updates(0)], refusal(HTTPStatus.NOT_FOUND), [subscribed(), updates(1)])
    async with scripted(script) as gateway, connect(gateway, **JSON, rng=Hasty()) as client:
        follow = client.follow("n")
        assert await indexes(follow, 1) == [0]
        script.connections[0].transport.abort()
        assert await indexes(follow, 1) == [1]
    assert [said.get("after") for said in script.said] == [None, "ab.1.0"]


async def test_the_first_connection_may_have_a_time_limit() -> None:
    with pytest.raises(GatewayUnreachable, match=r"not connected within 0\.3 s: .*cannot be reached") as raised:
        await first_of(f"ws://127.0.0.1:{free_port()}", timeout=0.3)
    assert isinstance(raised.value, TimeoutError)
    assert raised.value.temporary


# What is said on a connection


async def test_it_asks_for_what_follows_all_that_it_heard() -> None:
    script = Script([subscribed(), updates(7), {"op": "gap", "node": "n", "from": 8, "to": 9, "cursor": "ab.1.9"}])
    async with scripted(script) as gateway, connect(gateway, **JSON, rng=Hasty()) as client:
        follow = client.follow("n", after=3)
        assert await indexes(follow, 1) == [7]
        await eventually("the gap has come", lambda: follow._inbox and follow._inbox._messages)
        script.connections[0].transport.abort()
        await eventually("it is back", lambda: len(script.said) == 2)
        assert follow.cursor == "ab.1.7"
    assert [said["after"] for said in script.said] == ["3", "ab.1.9"]


async def test_a_connection_lost_before_a_rewind_is_told_does_not_hide_it() -> None:
    """`subscribed` has a cursor already that is behind it."""
    script = Script([subscribed(cursor="ab.2.5")])
    async with (
        scripted(script) as gateway,
        connect(gateway, **JSON, rng=Hasty()) as client,
        client.follow("n", after="ab.1.9") as follow,
    ):
        await eventually("it has heard that it joined", lambda: client._dialogue._followed)
        script.connections[0].transport.abort()
        await eventually("it is back", lambda: len(script.said) == 2)
        assert follow.cursor == "ab.1.9"
        assert [said["after"] for said in script.said] == ["ab.1.9", "ab.1.9"]


async def test_what_it_does_not_know_it_ignores() -> None:
    script = Script([{"op": "weather", "node": 3}, subscribed(mood="good"), updates(0, mood="bad")])
    async with scripted(script) as gateway:
        assert await first_of(gateway) == [0]


async def test_a_subscription_that_the_gateway_ends_is_asked_for_again_and_no_other() -> None:
    ended = {"op": "error", "code": "unavailable", "message": "no Redis", "temporary": True, "node": "n"}
    script, told = Script([subscribed(), updates(0), ended]), list[str]()
    async with scripted(script) as gateway, connect(gateway, **JSON, rng=Hasty(), notify=told.append) as client:
        follow = client.follow("n")
        assert await indexes(follow, 1) == [0]
        await eventually("it asks again", lambda: len(script.said) == 2)
    assert script.said[1] == {"op": "subscribe", "id": 2, "node": "n", "after": "ab.1.0"}
    assert told == ["n: no Redis; next try in 0.1 s"]


@pytest.mark.parametrize("wrong", ["already_subscribed", "unsubscribing was refused for now"])
async def test_where_the_gateway_has_another_idea_of_what_is_followed_a_new_connection_mends_it(wrong: str) -> None:
    about = {"op": "error", "code": wrong, "message": "no", "node": "n"}
    error: dict[str, Any] = {**about, "re": "subscribe", "id": None, "temporary": False}
    if wrong != "already_subscribed":
        error = {**about, "re": "unsubscribe", "temporary": True}
    script = Script([error], [subscribed(), updates(0)])
    async with scripted(script) as gateway:
        assert await first_of(gateway, rng=Hasty()) == [0]
    assert len(script.connections) == 2


async def test_a_gateway_that_gives_no_sign_of_life_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "SILENT_S", 0.1)
    script, told = Script([subscribed(), updates(0)]), list[str]()
    async with scripted(script) as gateway, connect(gateway, **JSON, rng=Hasty(), notify=told.append) as client:
        follow = client.follow("n")
        assert await indexes(follow, 1) == [0]
        script.connections[0].transport.pause_reading()  # type: ignore[attr-defined]
        await eventually("it is back", lambda: len(script.said) == 2)
        assert await indexes(follow, 1) == [0]
        for connection in script.connections:
            connection.transport.abort()
    assert "no sign of life" in told[0]


async def test_a_quiet_gateway_that_answers_pings_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pings, ping = 0, ClientConnection.ping

    async def count(connection: ClientConnection) -> Any:
        nonlocal pings
        pings += 1
        return await ping(connection)

    monkeypatch.setattr(hearing, "SILENT_S", 0.05)
    monkeypatch.setattr(ClientConnection, "ping", count)
    script, told = Script([subscribed(), updates(0)]), list[str]()
    async with scripted(script) as gateway, connect(gateway, **JSON, notify=told.append) as client:
        follow = client.follow("n")
        assert await indexes(follow, 1) == [0]
        await eventually("it has asked three times", lambda: pings == 3)
        assert len(script.connections) == 1
        assert told == []


# Tokens


async def test_a_token_is_sent() -> None:
    script = Script([subscribed(), updates(0)])
    async with scripted(script) as gateway:
        await first_of(gateway, token=TOKEN)
        await first_of(gateway)
    assert [request.headers.get("Authorization") for request in script.requests] == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_who_gives_tokens_is_asked_at_each_connection(asynchronous: bool) -> None:
    given = 0

    def give() -> Any:
        nonlocal given
        given += 1
        if given == 2:
            raise OSError("who gives tokens is away")
        return give_later(f"token-{given}") if asynchronous else f"token-{given}"

    async def give_later(token: str) -> str:
        await asyncio.sleep(0)
        return token

    script = Script((4004, "the token has expired"), [subscribed(), updates(0)])
    async with scripted(script) as gateway:
        assert await first_of(gateway, token=give, rng=Hasty()) == [0]
    assert [request.headers["Authorization"] for request in script.requests] == ["Bearer token-1", "Bearer token-3"]


async def test_a_token_that_has_expired_and_cannot_be_renewed_ends_it() -> None:
    async with scripted(Script((4004, "the token has expired"))) as gateway:
        with pytest.raises(Unauthorized, match="the token has expired"):
            await first_of(gateway, token=TOKEN)


async def test_what_asking_for_a_token_raises_is_raised() -> None:
    with pytest.raises(KeyError):
        await first_of("ws://127.0.0.1:1", token=lambda: {}["token"])


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "tökn", lambda: None])
async def test_what_cannot_be_a_token_is_an_invalid_setting(token: Any) -> None:
    with pytest.raises(InvalidSetting, match="token"):
        await asyncio.wait_for(first_of("ws://127.0.0.1:1", token=token), PROMPT_S)


def test_authorities_for_a_gateway_without_tls_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="does not use TLS"):
        connect("ws://127.0.0.1:1", tls=ssl.create_default_context())
