"""On a cluster, not to hear what was heard is a deaf period; to begin to listen to more is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from streamer.log.routing import slot_of
from streamer.log.subscribing import Subscriber
from tests.clusters import Cluster, Member
from tests.log.test_subscribing import Recorder, paused, until
from tests.servers import REAL_KINDS

DEADLINE_S = 20


@pytest.fixture(scope="module", params=REAL_KINDS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param, replicas=False) as cluster:
        yield cluster


@pytest.fixture
async def subscriber(cluster: Cluster) -> AsyncIterator[Subscriber]:
    """One that listens to a channel of the first master, and to nothing else."""
    subscriber = Subscriber(cluster.url)
    try:
        await subscriber.subscribe(_channel_of(cluster, cluster.members[0]), Recorder())
        await until("all is heard", lambda: subscriber.connected)
        yield subscriber
    finally:
        await subscriber.aclose()


def _channel_of(cluster: Cluster, member: Member) -> str:
    return next(name for name in map(str, range(1000)) if cluster.master_of(name) is member)


async def test_a_new_line_that_connects_is_no_deaf_period(cluster: Cluster, subscriber: Subscriber) -> None:
    channel = _channel_of(cluster, cluster.members[1])
    with paused(cluster.members[1]):
        subscribing = asyncio.create_task(subscriber.subscribe(channel, Recorder()))
        await until("it connects", lambda: not subscriber.connected)
        # As any other line may, and the look for who has which channel does.
        subscriber.changed()
    async with asyncio.timeout(DEADLINE_S):
        await subscribing
    await until("all is heard", lambda: subscriber.connected)
    assert (subscriber.deaf_periods, subscriber.deaf_s) == (0, 0)


async def test_a_line_that_is_lost_is_a_deaf_period(cluster: Cluster, subscriber: Subscriber) -> None:
    cluster.members[0].command("CLIENT", "KILL", "TYPE", "pubsub")
    await until("it is noticed", lambda: subscriber.deaf_periods)
    await until("all is heard", lambda: subscriber.connected)
    assert subscriber.deaf_periods == 1
    assert subscriber.deaf_s > 0


async def test_a_channel_that_moves_to_a_new_line_is_not_heard_until_that_is_connected(
    cluster: Cluster, subscriber: Subscriber
) -> None:
    channel = _channel_of(cluster, cluster.members[0])
    source, target = cluster.members[0], cluster.members[2]
    # Without an await until the target is paused, so that the subscriber does not follow before.
    cluster.move_slot(slot_of(channel), source, target)
    try:
        with paused(target):
            await until("it is noticed", lambda: subscriber.deaf_periods)
        await until("all is heard", lambda: subscriber.connected)
        assert subscriber.deaf_periods == 1
    finally:
        cluster.move_slot(slot_of(channel), target, source)
