"""History beyond what a gateway has in memory: all get it, it is read for all together, and memory stays bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from streamer.core.cursor import Cursor
from streamer.core.names import Topic
from streamer.fanout import feed as feed_module
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import SEND_BUFFER_BYTES, Gateway
from streamer.log.scripts import PAGE_RECORDS, Page
from tests.gateway.clients import Node, connect, indexes, path, serving
from tests.servers import RedisServer

KIB = 1024
TOPICS = 50
HISTORY = 3000
WINDOW = 600
HERD = 30


@dataclass
class Peak:
    """The most bytes that feeds have held at any time, as far as the event loop could see, and how often it looked."""

    feed_bytes: int = 0
    looks: int = 0


@asynccontextmanager
async def _watching_memory(gateway: Gateway) -> AsyncIterator[Peak]:
    """Look in each turn of the event loop how much the feeds hold."""
    peak = Peak()

    async def look() -> None:
        while True:
            peak.feed_bytes = max(peak.feed_bytes, gateway.hub.statistics().feed_bytes)
            peak.looks += 1
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    try:
        yield peak
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


@pytest.mark.parametrize("memory_bytes", [1500 * KIB, 128 * KIB, 1])
async def test_many_topics_together_keep_within_the_bound_and_everybody_gets_everything(
    valkey: RedisServer, publisher: Node, memory_bytes: int
) -> None:
    """All that the topics have is about five times the greatest of these bounds."""
    jobs = [f"job-{n}" for n in range(TOPICS)]
    owed = 200
    for job in jobs:
        publisher.count(owed, job=job, text="x" * 600)
    async with (
        serving(valkey, hub=HubSettings(memory_bytes=memory_bytes)) as gateway,
        _watching_memory(gateway) as peak,
        AsyncExitStack() as stack,
    ):
        early = {job: await stack.enter_async_context(connect(gateway, path(publisher.name, job))) for job in jobs}
        for n, job in enumerate(jobs):
            assert await indexes(early[job], owed) == list(range(n * owed, (n + 1) * owed))
        publisher.publish(*({"job": job, "text": "x" * 600} for job in jobs))
        late = {job: await stack.enter_async_context(connect(gateway, path(publisher.name, job))) for job in jobs}
        for n, job in enumerate(jobs):
            live = TOPICS * owed + n
            assert await indexes(early[job], 1) == [live]
            assert await indexes(late[job], owed + 1) == [*range(n * owed, (n + 1) * owed), live]
        assert gateway.hub.statistics().feeds == TOPICS
        assert peak.looks > 100
        assert peak.feed_bytes <= memory_bytes
        assert memory_bytes < 100 * KIB or peak.feed_bytes > memory_bytes // 2, "the bound is there to be used"


async def test_a_topic_joined_last_is_in_memory_and_those_joined_before_are_read_again(
    valkey: RedisServer, publisher: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [f"job-{n}" for n in range(10)]
    for job in jobs:
        publisher.count(300, job=job, text="x" * 600)
    async with serving(valkey, hub=HubSettings(memory_bytes=800 * KIB)) as gateway:
        for job in jobs:
            async with connect(gateway, path(publisher.name, job)) as client:
                await indexes(client, 300)
        reads = _count_reads(gateway, monkeypatch)
        async with connect(gateway, path(publisher.name, jobs[-1])) as client:
            await indexes(client, 300)
        assert reads == []
        async with connect(gateway, path(publisher.name, jobs[0])) as client:
            await indexes(client, 300)
        assert reads != []


def _count_reads(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each read of the log asks for, from now on."""
    reads: list[int] = []
    read = gateway.hub.reader.read

    async def counting(topic: Topic, cursor: Cursor, limit: int = PAGE_RECORDS) -> Page:
        reads.append(limit)
        return await read(topic, cursor, limit)

    monkeypatch.setattr(gateway.hub.reader, "read", counting)
    return reads


@pytest.mark.parametrize("job", [None, "j"])
async def test_a_herd_that_is_owed_more_than_a_feed_opens_with_reads_the_log_about_once(
    valkey: RedisServer, publisher: Node, job: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "OPENED_RECORDS", WINDOW)
    for _ in range(HISTORY // 500):
        publisher.count(500, job="j")
    async with serving(valkey) as gateway, AsyncExitStack() as stack:
        reads = _count_reads(gateway, monkeypatch)
        async with connect(gateway, path(publisher.name, job, history=1)) as first:
            assert await indexes(first, 1) == [HISTORY - 1]
            assert len(reads) == 2, "the window's pages"
            reads.clear()
            # Somebody who is behind all the time, so that what was read for the first is there for the last.
            slow = await stack.enter_async_context(connect(gateway, path(publisher.name, job), max_queue=1))
            slow.transport.pause_reading()
            herd = [connect(gateway, path(publisher.name, job)) for _ in range(HERD)]
            clients = await asyncio.gather(*(stack.enter_async_context(each) for each in herd))
            for got in await asyncio.gather(*(indexes(client, HISTORY) for client in clients)):
                assert got == list(range(HISTORY))
            publisher.count(1, job="j")
            for client in (first, *clients):
                assert await indexes(client, 1) == [HISTORY]
            pages = [limit for limit in reads if limit > 1]
            # A client that is quicker than the others may read a page before them, in another place.
            assert len(pages) <= 4 * HISTORY // PAGE_RECORDS
            assert sum(pages) < HERD * HISTORY / 5
            slow.transport.resume_reading()
            assert await indexes(slow, HISTORY + 1) == list(range(HISTORY + 1))


async def test_what_the_kernel_holds_for_a_client_is_bounded(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with connect(gateway, path(publisher.name)) as client:
        await indexes(client, 1)
        [connection] = gateway._connections
        end_of_it = connection.transport.get_extra_info("socket")
        # Linux says, and grants, twice of what it was asked for.
        assert end_of_it.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


async def test_a_client_that_reads_nothing_falls_behind_after_little_was_sent(
    gateway: Gateway, publisher: Node
) -> None:
    with socket.socket() as narrow:
        narrow.setblocking(False)
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", gateway.port))
        async with (
            connect(gateway, path(publisher.name), sock=narrow, max_queue=1) as slow,
            connect(gateway, path(publisher.name)) as quick,
        ):
            slow.transport.pause_reading()
            sent = 0
            while not gateway.hub.statistics().behind:
                assert sent < 4 * SEND_BUFFER_BYTES, "the kernel and the buffers took it all"
                publisher.count(1, text="x" * 10_000)
                await indexes(quick, 1)
                sent += 10_000
            slow.transport.abort()
