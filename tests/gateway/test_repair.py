"""Whatever pub/sub loses and however Redis fails, who watches has each update once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgpack
import pytest
from redis import Redis

from streamer.core.entries import Batch, Entry
from streamer.core.names import Topic
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import Gateway
from streamer.log.keys import Keys
from streamer.log.scripts import Retention
from tests.gateway.clients import (
    DEADLINE_S,
    Node,
    connect,
    end,
    eventually,
    indexes,
    path,
    publishing,
    receive,
    serving,
)
from tests.servers import RedisServer

NEVER_S = 3600.0


@pytest.fixture
def redis(own_valkey: RedisServer) -> Iterator[Redis]:
    with own_valkey.client() as redis:
        yield redis


@pytest.fixture
def own_publisher(own_valkey: RedisServer, node: str) -> Iterator[Node]:
    """A node on a Valkey of the test's own."""
    with publishing(own_valkey, node) as publisher:
        yield publisher


@pytest.fixture
async def own_gateway(own_valkey: RedisServer) -> AsyncIterator[Gateway]:
    """A gateway on a Valkey of the test's own. It never looks for lost deliveries on its own."""
    async with serving(own_valkey, hub=HubSettings(check_s=NEVER_S)) as gateway:
        yield gateway


@pytest.fixture
async def checking(own_valkey: RedisServer) -> AsyncIterator[Gateway]:
    """A gateway that looks often for lost deliveries."""
    async with serving(own_valkey, hub=HubSettings(check_s=0.05)) as gateway:
        yield gateway


def _kill_pubsub(redis: Redis) -> None:
    redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]


async def test_nothing_is_missed_though_the_listening_connection_is_killed_again_and_again(
    own_gateway: Gateway, own_publisher: Node, redis: Redis
) -> None:
    async with (
        connect(own_gateway, path(own_publisher.name)) as all_of_it,
        connect(own_gateway, path(own_publisher.name, "j")) as job,
    ):
        for _ in range(5):
            own_publisher.publish(*({"job": "j"} for _ in range(10)))
            _kill_pubsub(redis)
            own_publisher.publish({"job": "j"}, {"job": "j"})
            await asyncio.sleep(0)
        for client in (all_of_it, job):
            assert await indexes(client, 60) == list(range(60))
        own_publisher.publish({"job": "j"})
        for client in (all_of_it, job):
            assert await indexes(client, 1) == [60]


async def test_a_lost_delivery_is_noticed_by_the_next_one(own_gateway: Gateway, own_publisher: Node) -> None:
    own_publisher.publish({"job": "j"})
    async with (
        connect(own_gateway, path(own_publisher.name)) as all_of_it,
        connect(own_gateway, path(own_publisher.name, "j")) as job,
    ):
        await receive(all_of_it, 1)
        await receive(job, 1)
        own_publisher.append_silently({"job": "j"}, {})
        own_publisher.publish({"job": "j"})
        assert await indexes(all_of_it, 3) == [1, 2, 3]
        assert await indexes(job, 2) == [1, 3]
        assert own_gateway.hub.statistics().repairs == 2, "once on each topic"


async def test_the_loss_of_a_last_delivery_is_found_by_looking(checking: Gateway, own_publisher: Node) -> None:
    async with (
        connect(checking, path(own_publisher.name)) as all_of_it,
        connect(checking, path(own_publisher.name, "j")) as job,
    ):
        for n in range(3):
            own_publisher.append_silently({"job": "j"})
            assert await indexes(all_of_it, 1) == [n]
            assert await indexes(job, 1) == [n]
            await eventually("each topic counts it", lambda n=n: checking.hub.statistics().repairs == 2 * (n + 1))


async def test_what_is_published_twice_or_is_rubbish_is_delivered_once_and_not_at_all(
    own_gateway: Gateway, own_publisher: Node, redis: Redis
) -> None:
    channel = Keys().records(Topic(own_publisher.name))
    own_publisher.count(3)
    async with connect(own_gateway, path(own_publisher.name)) as client:
        await receive(client, 3)
        log_id = own_publisher.read(None, own_publisher.read_all(None)[0].cursor("")).log_id
        record = redis.lindex(channel, 1)
        assert isinstance(record, bytes)
        for message in (bytes([160 + len(log_id)]) + log_id.encode() + record, b"", b"rubbish", b"\xc1" * 99):
            redis.publish(channel, message)
        own_publisher.count(1)
        assert await indexes(client, 1) == [3]


async def test_redis_restarted_with_its_data_loses_nothing(
    own_valkey: RedisServer, own_gateway: Gateway, own_publisher: Node, node: str
) -> None:
    own_publisher.count(3)
    async with connect(own_gateway, path(node)) as client, connect(own_gateway, path(node, "j")) as job:
        before = await receive(client, 3)
        own_valkey.kill()
        own_valkey.start()
        with publishing(own_valkey, node) as again:
            again.count(3, job="j")
            after = await receive(client, 3)
            assert [message["index"] for message in after] == [3, 4, 5]
            assert await indexes(job, 3) == [3, 4, 5]
            async with connect(own_gateway, path(node, after=before[-1]["cursor"])) as resumed:
                assert await receive(resumed, 3) == after
            again.count(1, job="j")
            assert await indexes(client, 1) == [6]


async def test_redis_emptied_closes_who_watches_and_has_them_come_back_to_a_new_log(
    checking: Gateway, own_publisher: Node, redis: Redis
) -> None:
    own_publisher.count(3, job="j")
    async with (
        connect(checking, path(own_publisher.name)) as all_of_it,
        connect(checking, path(own_publisher.name, "j")) as job,
    ):
        old = (await receive(all_of_it, 3))[-1]["cursor"]
        await receive(job, 3)
        redis.flushall()
        assert [(await end(client)).code for client in (all_of_it, job)] == [4001, 4001]
    async with connect(checking, path(own_publisher.name, after=old)) as client:
        assert (await end(client)).code == 4001
    async with connect(checking, path(own_publisher.name)) as client:
        own_publisher.count(2)
        assert await indexes(client, 2) == [0, 1]


async def test_redis_emptied_is_noticed_by_the_next_update(
    own_gateway: Gateway, own_publisher: Node, redis: Redis
) -> None:
    own_publisher.count(3)
    async with connect(own_gateway, path(own_publisher.name)) as client:
        await receive(client, 3)
        redis.flushall()
        own_publisher.count(1)
        closed = await end(client)
        assert (closed.code, closed.messages) == (4001, [])
    async with connect(own_gateway, path(own_publisher.name)) as client:
        assert await indexes(client, 1) == [0]


async def test_topics_that_nobody_watches_are_unsubscribed_and_can_be_watched_again(
    own_valkey: RedisServer, own_publisher: Node, redis: Redis
) -> None:
    name = own_publisher.name
    channels = [Keys().records(Topic(name)), Keys().records(Topic(name, "j"))]

    def subscribed() -> list[int]:
        return [count for _, count in redis.pubsub_numsub(*channels)]

    async with serving(own_valkey, hub=HubSettings(keep_s=0.05)) as gateway:
        for n in range(2):
            async with (
                connect(gateway, path(name, history="none")) as one,
                connect(gateway, path(name, history="none")) as two,
                connect(gateway, path(name, "j", history="none")),
            ):
                own_publisher.count(1, job="j")
                assert await indexes(one, 1) == await indexes(two, 1) == [n]
                assert subscribed() == [1, 1]
                await one.close()
                assert subscribed() == [1, 1]
            await eventually("nobody listens", lambda: subscribed() == [0, 0])
            assert gateway.hub.statistics().feeds == 0


async def test_who_comes_back_soon_finds_the_feed_as_it_was(
    own_gateway: Gateway, own_publisher: Node, redis: Redis
) -> None:
    channel = Keys().records(Topic(own_publisher.name))
    own_publisher.count(3)
    async with connect(own_gateway, path(own_publisher.name)) as client:
        cursor = (await receive(client, 3))[-1]["cursor"]
    await eventually("it has left", lambda: own_gateway.hub.statistics().live == 0)
    assert redis.pubsub_numsub(channel)[0][1] == 1
    own_publisher.count(2)
    async with asyncio.timeout(DEADLINE_S):
        while own_gateway.hub.statistics().appended < 5:  # taken in though nobody watches
            await asyncio.sleep(0.01)
    async with connect(own_gateway, path(own_publisher.name, after=cursor)) as client:
        assert await indexes(client, 2) == [3, 4]
    assert own_gateway.hub.statistics().repairs == 0


async def test_a_record_that_json_cannot_hold_is_told_as_such_and_what_follows_it_comes(
    own_gateway: Gateway, own_valkey: RedisServer, own_publisher: Node, redis: Redis
) -> None:
    """Another program has written it, by the same script."""
    async with (
        connect(own_gateway, path(own_publisher.name)) as all_of_it,
        connect(own_gateway, path(own_publisher.name, "j")) as job,
    ):
        own_publisher.publish({"job": "j"})
        for number, value in enumerate((msgpack.ExtType(42, b"x"), {1: {(2, 3): 4}}, {b"k": 1}), start=1):
            tail = msgpack.packb([1000, "foreign", {"job": "j", "x": value}])[1:]
            foreign = Batch(1, [Entry("j", tail), Entry("j", b"\xc1")])
            own_publisher.append(f"foreign-{number}", foreign, Retention())
            own_publisher.publish({"job": "j"})
        for client in (all_of_it, job):
            messages = await receive(client, 10)
            assert [message["index"] for message in messages] == list(range(10))
            assert [message["previous"] for message in messages] == list(range(-1, 9))
            assert [message["status"] for message in messages] == [
                "running",
                *["unreadable", "unreadable", "running"] * 3,
            ]
            assert messages[1]["timestamp"] == 1000
    # Those who come later read it from the log, some of it behind what is no record at all.
    redis.lset(Keys().records(Topic(own_publisher.name)), 5, b"junk")
    redis.lset(Keys().records(Topic(own_publisher.name, "j")), 5, b"junk")
    async with (
        serving(own_valkey) as other,
        connect(other, path(own_publisher.name)) as all_of_it,
        connect(other, path(own_publisher.name, "j")) as job,
    ):
        for client in (all_of_it, job):
            assert await indexes(client, 10) == list(range(10))
        own_publisher.publish({"job": "j"})
        for client in (all_of_it, job):
            assert await indexes(client, 1) == [10]
