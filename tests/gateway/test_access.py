"""Who may make a request, and how who may not is told."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from streamer.core.errors import InvalidSetting
from streamer.core.messages import EXPIRED
from streamer.gateway.access import without_token
from streamer.gateway.expiries import Expiries
from streamer.gateway.server import Gateway
from streamer.gateway.settings import GatewaySettings
from streamer.gateway.tokens import TokenSettings
from streamer.log.fleet import Summary
from tests.commands import NO_REDIS
from tests.gateway.clients import Answer, Node, ask, connect, end, eventually, indexes, path, receive, serving
from tests.gateway.signing import Issuer
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("keys"))


@pytest.fixture
async def guarded(valkey: RedisServer, issuer: Issuer) -> AsyncIterator[Gateway]:
    """A gateway that asks for tokens."""
    async with serving(valkey, tokens=issuer.settings(leeway_s=0)) as gateway:
        yield gateway


async def ask_with(gateway: Gateway, target: str, token: str | None) -> Answer:
    return await ask(gateway.port, target, "GET", b"", *([f"Authorization: Bearer {token}"] if token else []))


async def refusal(gateway: Gateway, target: str, **options: Any) -> tuple[int, str, Any]:
    """The status with which a WebSocket is refused, the sentence, and the headers."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(gateway, target, **options)
    response = refused.value.response
    return response.status_code, json.loads(response.body)["error"], response.headers


def bearer(token: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}}


async def test_without_a_token_nothing_but_the_page_is_served(guarded: Gateway, publisher: Node) -> None:
    publisher.count(1)
    status, sentence, headers = await refusal(guarded, path(publisher.name))
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert sentence.startswith("a token is needed here: ")
    for target in ("/api/nodes", f"/api/nodes/{publisher.name}", f"/api/nodes/{publisher.name}/updates"):
        answer = await ask(guarded.port, target)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    for target in ("/", "/page/app.js"):
        assert (await ask(guarded.port, target)).status == 200
    assert guarded.settings.internal_port
    for target in ("/healthz", "/readyz", "/metrics"):
        assert (await ask(guarded.settings.internal_port, target)).status == 200


async def test_a_token_is_taken_from_the_header_and_from_the_subprotocols(
    guarded: Gateway, publisher: Node, issuer: Issuer
) -> None:
    publisher.count(3)
    target, token = path(publisher.name), issuer.token()
    async with connect(guarded, target, additional_headers={"authorization": f"bearer  {token} "}) as watching:
        assert await indexes(watching, 3) == [0, 1, 2]
        assert watching.subprotocol is None
    for offered in (["streamer.plain", f"bearer.{token}"], [f"bearer.{token}", "other", "streamer.plain"]):
        async with connect(guarded, target, subprotocols=offered) as watching:
            assert await indexes(watching, 3) == [0, 1, 2]
            assert watching.subprotocol == "streamer.plain"
            assert token not in str(watching.response)
    async with connect(guarded, target, subprotocols=[f"bearer.{token}"]) as watching:
        assert await indexes(watching, 3) == [0, 1, 2]


async def test_a_token_in_the_query_counts_only_where_that_is_set(
    valkey: RedisServer, guarded: Gateway, publisher: Node, issuer: Issuer
) -> None:
    publisher.count(3)
    token = issuer.token()
    status, sentence, _ = await refusal(guarded, path(publisher.name, token=token, history=1))
    assert status == 400
    assert "not taken from the query" in sentence
    async with (
        serving(valkey, tokens=issuer.settings(in_query=True)) as gateway,
        connect(gateway, path(publisher.name, history=1, token=token)) as watching,
    ):
        assert await indexes(watching, 1) == [2]
        [connection] = [each for each in gateway._connections if each.session]
        assert connection.request is not None
        assert token not in f"{connection.request} {connection.response}"


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        ("/nodes/n", "/nodes/n"),
        ("/nodes/n?token=x", "/nodes/n"),
        ("/nodes/n?after=3&token=x", "/nodes/n?after=3"),
        ("/nodes/n?%74oken=x&history=1&token", "/nodes/n?history=1"),
        ("/nodes/n?after=3&&x", "/nodes/n?after=3&&x"),
    ],
)
def test_a_target_is_known_without_its_token(target: str, rest: str) -> None:
    assert without_token(target) == rest


async def test_two_tokens_are_one_too_many(valkey: RedisServer, publisher: Node, issuer: Issuer) -> None:
    token, plain = issuer.token(), path(publisher.name)
    async with serving(valkey, tokens=issuer.settings(in_query=True)) as gateway:
        for target, options in (
            (plain, {**bearer(token), "subprotocols": [f"bearer.{token}"]}),
            (path(publisher.name, token=token), bearer(token)),
            (f"{plain}?token={token}&token={token}", {}),
            (plain, {"subprotocols": [f"bearer.{token}", f"bearer.{token}x"]}),
        ):
            status, sentence, _ = await refusal(gateway, target, **options)
            assert (status, token in sentence) == (400, False)
            assert "more than one token" in sentence


async def test_the_login_of_a_proxy_before_the_gateway_is_not_taken_for_a_token(
    guarded: Gateway, publisher: Node, issuer: Issuer
) -> None:
    publisher.count(1)
    options: dict[str, Any] = {"additional_headers": {"Authorization": "Basic dXNlcjpwYXNz"}}
    assert (await refusal(guarded, path(publisher.name), **options))[0] == 401
    async with connect(guarded, path(publisher.name), subprotocols=[f"bearer.{issuer.token()}"], **options) as watching:
        assert await indexes(watching, 1) == [0]


async def test_bad_tokens_are_refused_and_neither_shown_nor_logged(
    guarded: Gateway, publisher: Node, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    forged = issuer.token()[:-4] + "AAAA"
    expired = issuer.token(expires_s=-1)
    for token, says in ((forged, "not signed"), (expired, "has expired"), ("x.y.z", "no token"), ("x", "no token")):
        for options in (bearer(token), {"subprotocols": ["streamer.plain", f"bearer.{token}"]}):
            status, sentence, headers = await refusal(guarded, path(publisher.name), **options)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer error="invalid_token"')
            assert says in sentence
            assert len(token) < 6 or token not in f"{sentence}{headers}"
        answer = await ask_with(guarded, "/api/nodes", token)
        assert answer.status == 401
    malformed = await ask(
        guarded.port,
        path(publisher.name),
        "GET",
        b"",
        *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Sec-WebSocket-Protocol: bearer.{forged} oops"),
    )
    assert (malformed.status, forged in str(malformed)) == (400, False)
    huge = await ask_with(guarded, "/api/nodes", "x" * 7000)
    assert huge.status == 401
    too_huge = await ask_with(guarded, "/api/nodes", "x" * 20_000)
    assert 400 <= too_huge.status < 500
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert forged not in caplog.text


async def test_a_topic_that_the_token_does_not_allow_is_forbidden(
    guarded: Gateway, publisher: Node, issuer: Issuer
) -> None:
    node = publisher.name
    publisher.publish({"job": "train-1"}, {"job": "other"}, {})
    other_node, some_jobs = issuer.token(nodes=["none-*"]), issuer.token(nodes=[node], jobs=["train-*"])
    for token, targets, says in (
        (other_node, [path(node), path(node, "train-1")], f"node '{node}'"),
        (some_jobs, [path(node)], "watch a job"),
        (some_jobs, [path(node, "other")], "job 'other'"),
    ):
        for target in targets:
            status, sentence, headers = await refusal(guarded, target, **bearer(token))
            assert (status, headers["WWW-Authenticate"]) == (403, 'Bearer error="insufficient_scope"')
            assert says in sentence
            answer = await ask_with(guarded, f"/api{target}/updates", token)
            assert (answer.status, says in answer.error) == (403, True)
    assert (await ask_with(guarded, f"/api/nodes/{node}", other_node)).status == 403
    async with connect(guarded, path(node, "train-1"), **bearer(some_jobs)) as watching:
        assert await indexes(watching, 1) == [0]
    answer = await ask_with(guarded, f"/api/nodes/{node}/jobs/train-1/updates", some_jobs)
    assert [update["index"] for update in answer.json["updates"]] == [0]
    admin = issuer.token(nodes=[], admin=True)
    async with connect(guarded, path(node), **bearer(admin)) as watching:
        assert await indexes(watching, 3) == [0, 1, 2]


async def test_lists_show_what_the_token_allows(
    guarded: Gateway, publisher: Node, issuer: Issuer, valkey: RedisServer
) -> None:
    node = publisher.name
    publisher.publish({"job": "train-1"}, {"job": "secret"})
    with valkey.client() as client:
        client.hset("streamer:fleet", node, Summary(1000, "secretly", "secret", 1).pack())
    some = await ask_with(guarded, f"/api/nodes/{node}", issuer.token(nodes=[node], jobs=["train-*"]))
    assert [job["job"] for job in some.json["jobs"]] == ["train-1"]
    whole = await ask_with(guarded, f"/api/nodes/{node}", issuer.token(nodes=[node]))
    assert {job["job"] for job in whole.json["jobs"]} == {"train-1", "secret"}
    other = await ask_with(guarded, "/api/nodes", issuer.token(nodes=[f"{node}?"]))
    assert node not in {each["node"] for each in other.json["nodes"]}
    [seen] = (await ask_with(guarded, "/api/nodes", issuer.token(nodes=[node]))).json["nodes"]
    assert (seen["node"], seen["status"], seen["job"]) == (node, "secretly", "secret")
    # What the last update was, is that of a job which may not be seen.
    [seen] = (await ask_with(guarded, "/api/nodes", issuer.token(nodes=[node], jobs=["train-*"]))).json["nodes"]
    assert (seen["node"], seen["status"], seen["job"]) == (node, "", None)


async def test_where_no_keys_are_set_a_token_is_not_looked_at(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with connect(gateway, path(publisher.name), **bearer("whatever")) as watching:
        assert await indexes(watching, 1) == [0]
    async with connect(gateway, path(publisher.name), subprotocols=["streamer.plain", "bearer.x"]) as watching:
        assert watching.subprotocol == "streamer.plain"


# Expiry


async def test_a_connection_ends_with_its_token_and_a_new_one_goes_on_from_there(
    guarded: Gateway, publisher: Node, issuer: Issuer
) -> None:
    publisher.count(2)
    async with connect(guarded, path(publisher.name), **bearer(issuer.token(expires_s=2))) as watching:
        assert await indexes(watching, 2) == [0, 1]
        ended = await end(watching)
    assert (ended.code, ended.messages) == (EXPIRED, [])
    assert ended.reason.startswith("the token has expired; come back with a new one, and go on with after=")
    publisher.count(1)
    async with connect(guarded, path(publisher.name, after=ended.after), **bearer(issuer.token())) as watching:
        assert await indexes(watching, 1) == [2]


async def test_others_stay_when_a_token_expires_and_who_has_gone_is_forgotten(
    guarded: Gateway, publisher: Node, issuer: Issuer
) -> None:
    publisher.count(1)
    async with (
        connect(guarded, path(publisher.name), **bearer(issuer.token())) as staying,
        connect(guarded, path(publisher.name), **bearer(issuer.token(expires_s=1.5))) as expiring,
    ):
        assert (await end(expiring)).code == EXPIRED
        await receive(staying, 1)
        publisher.count(1)
        assert await indexes(staying, 1) == [1]
        await staying.close()
    await eventually("nobody is remembered", lambda: not any(guarded._expiries._items.values()))


class Wall:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_expiries_come_by_the_wall_clock_and_only_to_who_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.gateway.expiries.LOOK_S", 0.001)
    expired: list[str] = []
    wall = Wall()

    def expire(item: str) -> None:
        expired.append(item)
        if item == "failing":
            raise RuntimeError(item)

    expiries: Expiries[str] = Expiries(expire, wall)
    for item, at in (("failing", 1005.0), ("soon", 1005.2), ("late", 2000.0), ("never", None), ("gone", 1005.0)):
        expiries.add(item, at)
    expiries.discard("gone", 1005.0)
    expiries.discard("unknown", 77.0)
    wall.now = 1005.1
    await eventually("the first is told", lambda: expired == ["failing"])
    wall.now = 1900.0  # the clock was set
    await eventually("the next is told", lambda: expired == ["failing", "soon"])
    expiries.discard("failing", 1005.0)
    expiries.close()
    wall.now = 3000.0
    expiries.add("last", 2500.0)
    await eventually("the last is told", lambda: expired == ["failing", "soon", "last"])


# Who is let in without a token


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.com", "127.1", "localhost.example.com"])  # noqa: S104
def test_everybody_else_is_let_in_only_where_that_is_said(host: str, issuer: Issuer) -> None:
    with pytest.raises(InvalidSetting, match=r"everybody could see everything: .*--insecure"):
        GatewaySettings(NO_REDIS, host=host)
    GatewaySettings(NO_REDIS, host=host, insecure=True)
    GatewaySettings(NO_REDIS, host=host, tokens=issuer.settings())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "::ffff:127.0.0.1"])
def test_this_machine_alone_is_let_in(host: str) -> None:
    GatewaySettings(NO_REDIS, host=host)


async def test_a_file_with_keys_that_cannot_be_used_keeps_a_gateway_from_starting(
    valkey: RedisServer, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSetting, match="cannot be read"):
        async with serving(valkey, tokens=TokenSettings(secret_file=str(tmp_path / "none"))):
            pass


async def test_a_token_that_is_checked_again_when_a_client_comes_back_need_not_be_verified_again(
    guarded: Gateway, issuer: Issuer
) -> None:
    assert guarded.access.tokens is not None
    token = issuer.token()
    guarded.access.tokens.verify(token, time.time())
    guarded.access.tokens._verified = None  # type: ignore[assignment, method-assign]
    assert guarded.access.tokens.verify(token, time.time()).nodes == ("*",)
