"""Compression: offered where it is asked for, and made once for all who read it."""

from __future__ import annotations

import json

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from streamer.core.messages import deflated
from streamer.gateway.server import Gateway
from tests.gateway.clients import Node, connect, indexes, path, receive, serving
from tests.servers import RedisServer

MANY = 300
"""Of these updates, the feed has more than one block."""


def compressing(gateway: Gateway, target: str, **offer: int) -> websocket:
    """A client that offers compression, and takes messages of any size."""
    return websocket(
        f"ws://127.0.0.1:{gateway.port}{target}",
        compression=None,
        max_size=None,
        extensions=[ClientPerMessageDeflateFactory(**offer)],
    )


async def test_compression_is_not_offered_by_default(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(1)
    async with serving(valkey) as gateway, compressing(gateway, path(publisher.name)) as client:
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        assert await indexes(client, 1) == [0]


async def test_who_asks_for_it_gets_the_same_compressed_and_others_plain(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(MANY, text="x" * 400)
    async with (
        serving(valkey, compress=True) as gateway,
        compressing(gateway, path(publisher.name)) as one,
        connect(gateway, path(publisher.name)) as plain,
    ):
        assert one.response is not None
        negotiated = one.response.headers["Sec-WebSocket-Extensions"]
        assert negotiated == "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        expected = await receive(plain, MANY)
        assert await receive(one, MANY) == expected
        publisher.count(3, text="y" * 400)
        assert await receive(one, 3) == await receive(plain, 3)
        async with compressing(gateway, path(publisher.name, after=250)) as late:
            assert await indexes(late, MANY + 3 - 251) == list(range(251, MANY + 3))


async def test_each_frame_is_compressed_once_however_many_read_it(
    valkey: RedisServer, publisher: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(frame: bytes) -> bytes:
        made.append(json.loads(frame[frame.index(b"{") :])["index"])
        return deflated(frame)

    monkeypatch.setattr("streamer.core.messages.deflated", counted)
    publisher.count(MANY, text="x" * 400)
    async with serving(valkey, compress=True) as gateway:
        async with compressing(gateway, path(publisher.name)) as one, compressing(gateway, path(publisher.name)) as two:
            assert await indexes(one, MANY) == await indexes(two, MANY)
            publisher.count(2)
            assert await indexes(one, 2) == await indexes(two, 2) == [MANY, MANY + 1]
        async with compressing(gateway, path(publisher.name, after=100)) as late:
            assert await indexes(late, MANY + 1 - 100) == list(range(101, MANY + 2))
    assert made == list(range(MANY + 2))


async def test_a_client_with_a_window_too_small_for_it_gets_plain_frames(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(MANY, text="x" * 400)
    async with (
        serving(valkey, compress=True) as gateway,
        compressing(gateway, path(publisher.name), server_max_window_bits=9) as client,
    ):
        assert await indexes(client, MANY) == list(range(MANY))
