"""What a publisher tells of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace

import pytest

from streamer import Statistics
from tests.commands import DEADLINE_S, NO_REDIS
from tests.proxies import Proxy
from tests.servers import RedisServer, wait_until
from tests.streamers import Make

NOTHING = Statistics(
    pending=0,
    pending_bytes=0,
    spilled=0,
    adopted=0,
    oldest_pending_s=0.0,
    accepted=0,
    acknowledged=0,
    retries=0,
    resent=0,
    lost=0,
    epoch=0,
    fenced=False,
)


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[Proxy]:
    with Proxy(valkey.port) as proxy:
        yield proxy


def test_before_the_first_update_there_is_nothing(streaming: Make) -> None:
    assert streaming(NO_REDIS).statistics() == NOTHING


def test_it_is_a_record_of_one_moment(streaming: Make) -> None:
    with pytest.raises(FrozenInstanceError):
        streaming(NO_REDIS).statistics().pending = 1  # type: ignore[misc]


def test_what_was_acknowledged_is_counted(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    for n in range(7):
        streamer.update("running", {"n": n})
    streamer.flush()
    assert streamer.statistics() == replace(NOTHING, accepted=7, acknowledged=7, epoch=1)


def test_what_waits_grows_old_and_is_young_again_once_something_was_acknowledged(streaming: Make, proxy: Proxy) -> None:
    proxy.hold()
    streamer = streaming(proxy.url)
    streamer.update("running", {})
    assert proxy.asked.wait(DEADLINE_S)
    wait_until("it is old", lambda: streamer.statistics().oldest_pending_s > 0.3)
    assert (streamer.statistics().pending, streamer.statistics().pending_bytes > 10) == (1, True)
    proxy.release()
    streamer.flush()
    assert (streamer.statistics().oldest_pending_s, streamer.statistics().pending_bytes) == (0, 0)
    proxy.hold()
    streamer.update("running", {})
    wait_until("it is known to wait", lambda: streamer.statistics().oldest_pending_s > 0)
    assert streamer.statistics().oldest_pending_s < 0.3
    proxy.release()


def test_failed_tries_are_counted(streaming: Make) -> None:
    streamer = streaming(NO_REDIS)
    streamer.update("running", {})
    wait_until("it has tried twice", lambda: streamer.statistics().retries >= 2)
    assert streamer.statistics().acknowledged == 0
