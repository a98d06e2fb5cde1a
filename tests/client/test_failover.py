"""A failover that loses the log's tail, as programs meet it that follow through the client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from streamer.client import Live, Rewind, Rewound, Update, connect
from streamer.state_streamer import StateStreamer
from tests.client.following import Hasty, take
from tests.faults.test_sentinel import caught_up, published
from tests.gateways import GatewayProcess
from tests.sentinels import Sentinels, hold_back
from tests.streamers import Make


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture(scope="module")
def gateway(sentinels: Sentinels) -> Iterator[GatewayProcess]:
    with GatewayProcess(sentinels.url) as gateway:
        yield gateway


@pytest.fixture
def streamer(sentinels: Sentinels, streaming: Make) -> Iterator[StateStreamer]:
    yield streaming(redis_url=sentinels.url)
    sentinels.mend()


async def test_a_lost_tail_is_a_rewind_or_an_exception_and_then_what_the_log_has_instead(
    sentinels: Sentinels, gateway: GatewayProcess, streamer: StateStreamer, node: str
) -> None:
    async with connect(gateway.url, rng=Hasty()) as client, connect(gateway.url, rng=Hasty()) as other:
        asks, does_not = client.follow(node, "job", events=True), other.follow(node)
        await published(streamer, 0, 9)
        assert [type(event) for event in await take(asks, 11)] == [Update] * 10 + [Live]
        await take(does_not, 10)
        master, replica = sentinels.master, sentinels.replica
        await caught_up(master)
        hold_back(replica)
        await published(streamer, 10, 14)
        lost = await take(asks, 5)
        assert [update.index for update in await take(does_not, 5)] == [10, 11, 12, 13, 14]
        before = does_not.cursor
        await asyncio.to_thread(master.kill)
        await published(streamer, 15, 17)

        [rewind, *instead] = await take(asks, 9)
        assert isinstance(rewind, Rewind)
        assert rewind.index == 9
        assert [update.state["n"] for update in instead] == list(range(10, 18))
        assert {update.cursor for update in instead}.isdisjoint(update.cursor for update in lost)

        with pytest.raises(Rewound, match="a failover has lost the updates behind 9") as raised:
            await take(does_not, 1)
        assert (raised.value.index, does_not.cursor) == (9, before)
        assert [update.state["n"] for update in await take(does_not, 8)] == list(range(10, 18))

        with pytest.raises(Rewound):
            await take(other.follow(node, "job", after=lost[-1].cursor), 1)
