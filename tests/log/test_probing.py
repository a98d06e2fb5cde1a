"""Whether what is published still arrives is probed through the channel itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from streamer.log import client, probing
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber
from tests.clusters import Cluster
from tests.log.test_subscribing import LeastWaits, Recorder, until
from tests.log.writing import Writer, publish
from tests.proxies import Proxy
from tests.servers import RedisServer

DEADLINE_S = 20


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PROBE_S", 0.2)


class FakeSentinel:
    """Says what it is told of a master; an async context manager."""

    def __init__(self, master: RedisServer) -> None:
        self.master, self.epoch = master, 1
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> FakeSentinel:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def cut_off(self) -> None:
        """Answer nobody any more."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis+sentinel://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/log"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.writelines([b"+OK\r\n"] * data.count(b"SETINFO"))
                fields = ["ip", "127.0.0.1", "port", str(self.master.port), "config-epoch", str(self.epoch)]
                lines = [f"*{len(fields)}", *(line for field in fields for line in (f"${len(field)}", field)), ""]
                writer.writelines(["\r\n".join(lines).encode()] * data.count(b"MASTER"))
        writer.close()


@contextlib.asynccontextmanager
async def listening(url: str, keys: Keys | None = None) -> AsyncIterator[Subscriber]:
    async with contextlib.aclosing(Subscriber(url, LeastWaits(), keys=keys)) as subscriber:
        yield subscriber


async def probes(store: RedisServer | Cluster, prefix: str, count: int) -> None:
    """Return once so many channels for probes are listened to, of this prefix."""

    def listened_to() -> list[bytes]:
        if isinstance(store, Cluster):
            return [
                c for member in store.members for c in member.command("PUBSUB", "SHARDCHANNELS", f"{prefix}probe:*")
            ]
        with store.client() as client:
            return list(client.pubsub_channels(f"{prefix}probe:*"))

    await until(f"{count} channels are probed", lambda: len(listened_to()) == count)


async def test_a_subscription_that_delivers_is_left_alone(any_store: RedisServer | Cluster, node: str) -> None:
    keys = Keys(f"{node}:")
    async with listening(any_store.url, keys) as subscriber:
        recorders = {f"{node}:{n}": Recorder() for n in range(20)}
        for channel, recorder in recorders.items():
            await subscriber.subscribe(channel, recorder)
        await probes(any_store, keys.prefix, 3 if isinstance(any_store, Cluster) else 1)
        for _ in range(10):
            await asyncio.sleep(probing.PROBE_S)
            assert subscriber.connected
        with any_store.client() as client:
            for channel, recorder in recorders.items():
                publish(client, channel, b"x")
                await recorder.until(lambda recorder: recorder.messages)
                assert (recorder.messages, recorder.interruptions) == ([b"x"], 0)


async def test_a_server_that_answers_pings_and_delivers_nothing_is_left_for_the_one_with_its_name(
    valkey: RedisServer, own_valkey: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    with Proxy(valkey.port) as proxy:
        async with listening(proxy.url) as subscriber:
            await subscriber.subscribe(node, recorder)
            proxy.lead_to(own_valkey.port)
            await recorder.until(lambda recorder: recorder.interruptions)
            assert "delivers nothing any more" in caplog.text
            with own_valkey.client() as client:
                publish(client, node, b"x")
            await recorder.until(lambda recorder: recorder.messages == [b"x"])
            await until("it is connected", lambda: subscriber.connected)


async def test_a_master_that_sentinels_have_replaced_is_left_though_it_answers(
    valkey: RedisServer, own_valkey: RedisServer, node: str
) -> None:
    recorder = Recorder()
    async with FakeSentinel(valkey) as sentinel, listening(sentinel.url) as subscriber:
        await subscriber.subscribe(node, recorder)
        await until("it is connected", lambda: subscriber.connected)
        sentinel.master, sentinel.epoch = own_valkey, 2
        await recorder.until(lambda recorder: recorder.interruptions)
        with own_valkey.client() as client:
            publish(client, node, b"x")
        await recorder.until(lambda recorder: recorder.messages == [b"x"])
        assert recorder.interruptions == 1
        with valkey.client() as client:
            await until("the old one is left", lambda: publish(client, node, b"y") == 0)


async def test_a_reader_leaves_a_master_that_sentinels_have_replaced_though_it_answers(
    valkey: RedisServer, own_valkey: RedisServer, node: str
) -> None:
    with NodeLog(own_valkey.url, Keys(), node) as log:
        Writer(log).append("job")
    async with FakeSentinel(valkey) as sentinel:
        reader = Reader(sentinel.url, Keys())
        assert await reader.jobs(node) == []
        sentinel.master, sentinel.epoch = own_valkey, 2
        async with asyncio.timeout(DEADLINE_S):
            while not await reader.jobs(node):
                await asyncio.sleep(0.01)
        await reader.aclose()


async def test_a_reader_goes_on_at_the_master_that_it_knows_where_no_sentinel_answers(
    valkey: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FRESH_S", 0.0)
    async with FakeSentinel(valkey) as sentinel:
        reader = Reader(sentinel.url, Keys())
        await reader.ping()
        sentinel.cut_off()
        for _ in range(3):
            assert await reader.jobs(node) == []
        await reader.aclose()


async def test_without_the_right_to_probe_it_is_told_once_and_pings_do(
    real_store: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = real_store.url.replace("redis://", f"redis://{node}:any@")
    rights = ("resetchannels", f"&{node}:*"), ("allchannels", "-publish")
    with real_store.client() as client:
        for number, right in enumerate(rights):
            caplog.clear()
            client.execute_command("ACL", "SETUSER", node, "on", "nopass", "+@all", *right)
            async with listening(url) as subscriber:
                recorder = Recorder()
                await subscriber.subscribe(f"{node}:{number}", recorder)
                with caplog.at_level(logging.WARNING, "streamer.log.probing"):
                    await until("it is told", lambda: "needs the right to publish" in caplog.text)
                await asyncio.sleep(5 * probing.PROBE_S)
                assert caplog.text.count("needs the right to publish") == 1
                assert subscriber.connected
                publish(client, f"{node}:{number}", b"x")
                await recorder.until(lambda recorder: recorder.messages == [b"x"])
                assert recorder.interruptions == 0
        client.acl_deluser(node)
