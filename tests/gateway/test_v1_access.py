"""Who may follow what on a v1 connection."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from streamer.core.messages import EXPIRED
from streamer.gateway.server import Gateway
from tests.gateway.clients import Node, serving
from tests.gateway.signing import Issuer
from tests.gateway.v1 import JSON, talking
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("keys"))


@pytest.fixture
async def guarded(valkey: RedisServer, issuer: Issuer) -> AsyncIterator[Gateway]:
    async with serving(valkey, tokens=issuer.settings(leeway_s=0)) as gateway:
        yield gateway


async def test_without_a_token_there_is_no_conversation(guarded: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with talking(guarded):
            pass
    assert refused.value.response.status_code == 401


async def test_each_topic_is_followed_only_where_the_token_allows_it(
    guarded: Gateway, publisher: Node, issuer: Issuer
) -> None:
    publisher.count(2, job="mine")
    token = issuer.token(nodes=[publisher.name], jobs=["mine"])
    async with talking(guarded, JSON, additional_headers={"Authorization": f"Bearer {token}"}) as talker:
        for topic in ({"job": "other"}, {}):
            refused = await talker.ask("subscribe", node=publisher.name, **topic)
            assert (refused["op"], refused["code"], refused["temporary"]) == ("error", "forbidden", False)
        assert (await talker.ask("subscribe", node="another", job="mine"))["code"] == "forbidden"
        assert (await talker.ask("subscribe", node=publisher.name, job="mine"))["op"] == "subscribed"
        assert await talker.indexes(2) == [0, 1]


async def test_a_conversation_ends_with_its_token(guarded: Gateway, issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) + 2)
    async with talking(guarded, JSON, additional_headers={"Authorization": f"Bearer {token}"}) as talker:
        assert (await talker.end()).code == EXPIRED


async def test_a_browser_brings_the_token_as_one_more_subprotocol(guarded: Gateway, issuer: Issuer) -> None:
    offered = [JSON, Subprotocol(f"bearer.{issuer.token()}")]
    async with connect(f"ws://127.0.0.1:{guarded.port}/ws", subprotocols=offered) as connection:
        assert connection.subprotocol == JSON
