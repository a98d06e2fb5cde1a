"""Clients that send rubbish, too much, or too little, by the hundred: each is told so, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from websockets.frames import Frame, Opcode

from tests.commands import updates
from tests.faults.conftest import StartNode
from tests.faults.nodes import check_log, has_seen
from tests.faults.watchers import DEADLINE_S, watching
from tests.gateway.clients import early
from tests.gateways import GatewayProcess
from tests.servers import RedisServer

EACH = 12
"""So many clients do each bad thing."""

NEW_LINE = b"\r\n"
TEXT, CONTINUED = Opcode.TEXT, Opcode.CONT


def request(target: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return NEW_LINE.join([method + b" " + target + b" HTTP/1.1", b"Host: gateway", *headers, b"", b""])


def status(number: int) -> bytes:
    """How an answer of this status begins."""
    return b"HTTP/1.1 %d " % number


BAD_REQUESTS = [
    (b"hello\r\n\r\n", 400),
    (b"\0" * 100_000, 414),
    (Random(1).randbytes(100_000).replace(b"\n", b""), 414),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (request("/nodes/nöde".encode()), 400),
    (request(b"/nodes/%ff%fe"), 400),
    (request(b"/nodes/" + b"x" * 300), 400),
    (request(b"/nodes/node?after=nonsense"), 400),
    (request(b"/nodes/node?history=-5"), 400),
    (request(b"/nowhere"), 404),
    (request(b"/nodes/node/jobs/job/more"), 404),
    (request(b"/../../etc/passwd"), 404),
    (request(b"/nodes/node", method=b"DELETE"), 405),
    (request(b"/nodes/node"), 426),
    (request(b"/nodes/" + b"x" * 9000), 414),
    (request(b"/", b"A: " + b"x" * 60_000), 431),
    (request(b"/", *[b"A: b"] * 5000), 431),
    (request(b"/nodes/node", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13"), 400),
]

BAD_FRAMES = [
    (Frame(TEXT, b"hello").serialize(mask=False), 1002),
    (b"\xff" * 100, 1002),
    (b"\xf1\x80\0\0\0\0", 1002),
    (b"\x83\x80\0\0\0\0", 1002),
    (b"\x09\x80\0\0\0\0", 1002),
    (Frame(CONTINUED, b"of nothing").serialize(mask=True), 1002),
    (Frame(Opcode.CLOSE, b"\x03").serialize(mask=True), 1002),
    (Frame(Opcode.CLOSE, (999).to_bytes(2, "big")).serialize(mask=True), 1002),
    (Frame(TEXT, b"hello").serialize(mask=True), 1003),
    (Frame(TEXT, b"in ", fin=False).serialize(mask=True) + Frame(CONTINUED, b"two").serialize(mask=True), 1003),
    (Frame(Opcode.BINARY, bytes(1000)).serialize(mask=True), 1003),
    (Frame(TEXT, b"\xff\xfe\xfd").serialize(mask=True), 1007),
    (Frame(TEXT, b"x" * 5000).serialize(mask=True), 1009),
    (b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask", 1009),
    (
        Frame(TEXT, b"x", fin=False).serialize(mask=True)
        + Frame(CONTINUED, b"x" * 100, fin=False).serialize(mask=True) * 100,
        1009,
    ),
]

UNFINISHED = [b"", b"G", b"GET /nodes/node HTTP/1.1\r\nHost: gate", b"\x16\x03\x01", b"\0" * 1000]


async def told(port: int, data: bytes, wanted: bytes) -> None:
    """Send bytes; fail unless what is wanted comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(data)
            while wanted not in got:
                piece = await reader.read(1 << 16)
                assert piece, f"{data[:60]!r} got {got[-300:]!r} instead of {wanted!r}"
                got += piece
    finally:
        writer.transport.abort()


@asynccontextmanager
async def unfinished(port: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections whose handshakes are never finished."""
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(EACH * len(UNFINISHED))]
    for n, (_, writer) in enumerate(pairs):
        writer.write(UNFINISHED[n % len(UNFINISHED)])
    try:
        yield [reader for reader, _ in pairs]
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def test_hundreds_of_bad_clients_are_told_what_is_wrong_and_those_who_watch_miss_nothing(
    valkey: RedisServer, start_node: StartNode, node: str
) -> None:
    publishing = start_node(valkey.url)
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(valkey.url))
        watchers = [await stack.enter_async_context(watching(gateway, node, job)) for job in (None, "job") * 3]
        waiting = await stack.enter_async_context(unfinished(gateway.port))
        await watchers[0].until_index(20)
        target = f"/nodes/{node}?history=none"
        bad = [(data, status(code)) for data, code in BAD_REQUESTS]
        bad += [(early(target) + data, code.to_bytes(2, "big")) for data, code in BAD_FRAMES]
        async with asyncio.TaskGroup() as group:
            for data, wanted in bad * EACH:
                group.create_task(told(gateway.port, data, wanted))
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(reader.read() for reader in waiting))
        assert gateway._ready()
        await asyncio.to_thread(publishing.end)
        log = updates(valkey.url, node)
        check_log(log, publishing)
        for watcher in watchers:
            await has_seen(watcher, log)
