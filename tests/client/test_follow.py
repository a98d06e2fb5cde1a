"""`connect` and `follow`: each update once and in order, through gateways that come, go and lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from streamer.client import connect
from streamer.gateway.server import Gateway
from tests.client.following import Hasty, indexes, take, url
from tests.gateway.clients import Node, publishing, serving
from tests.gateways import GatewayProcess
from tests.servers import RedisServer


@pytest.fixture
async def gateway(valkey: RedisServer) -> AsyncIterator[Gateway]:
    async with serving(valkey) as gateway:
        yield gateway


@pytest.fixture
def publisher(valkey: RedisServer, node: str) -> Iterator[Node]:
    with publishing(valkey, node) as publisher:
        yield publisher


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


async def test_several_topics_are_followed_on_one_connection(gateway: Gateway, publisher: Node) -> None:
    publisher.publish(*({"job": "ab"[n % 2]} for n in range(6)))
    async with connect(url(gateway)) as client:
        follows = [
            client.follow(publisher.name),
            client.follow(publisher.name, "a"),
            client.follow(publisher.name, "b"),
        ]
        assert await asyncio.gather(*(indexes(follow, 3) for follow in follows)) == [[0, 1, 2], [0, 2, 4], [1, 3, 5]]
        assert len(gateway._connections) == 1


async def test_it_goes_on_after_its_gateway_was_killed(valkey: RedisServer, publisher: Node) -> None:
    told: list[str] = []
    with GatewayProcess(valkey.url) as first, GatewayProcess(valkey.url) as second:
        gateways = {first.url: first, second.url: second}
        async with connect(list(gateways), rng=Hasty(), notify=told.append) as client:
            follows = [client.follow(publisher.name), client.follow(publisher.name, "j")]
            publisher.count(3, job="j")
            assert await asyncio.gather(*(indexes(each, 3) for each in follows)) == [[0, 1, 2]] * 2
            first.kill()
            publisher.count(3, job="j")
            assert await asyncio.gather(*(indexes(each, 3) for each in follows)) == [[3, 4, 5]] * 2
    assert [line.partition(";")[0] for line in told] == ["the connection broke", "connected"]
