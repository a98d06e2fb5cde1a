"""What a hub counts: exactly what was caused, and nothing where nothing was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.core.cursor import Cursor
from streamer.core.names import Topic
from streamer.fanout import feed as feed_module
from tests.fanout.house import NODE, SETTINGS, House, built, client_of

JOB = Topic("n", "j")
LOOKS_S = 2 * int(SETTINGS.check_s)


def _let_it_look(house: House) -> None:
    """Have the hub look twice for lost deliveries, and read what it finds."""
    for _ in range(LOOKS_S):
        house.pass_time(1)
        house.settle()


def _deliver_first(house: House, count: int) -> None:
    for channel in house.redis.subscriptions:
        house.redis.deliver(channel, count)


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_the_first_update_of_a_watched_topic_is_no_repair(house: House, topic: Topic) -> None:
    house.join(topic)
    house.settle()
    for _ in range(3):
        house.append("j", 2)
        house.settle()
    _let_it_look(house)
    statistics = house.hub.statistics()
    assert (statistics.appended, statistics.repairs) == (6, 0)


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_a_loss_that_the_next_delivery_shows_is_one_repair(house: House, topic: Topic) -> None:
    house.append("j", 1)
    _, connection, _ = house.join(topic)
    house.settle()
    for repairs in (1, 2):
        house.append("j", 3)
        house.lose_deliveries()
        house.append("j", 2)
        house.settle()
        _let_it_look(house)
        assert house.hub.statistics().repairs == repairs
    assert client_of(connection).updates == 11


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_a_loss_that_a_look_finds_is_one_repair(house: House, topic: Topic) -> None:
    house.append("j", 1)
    _, connection, _ = house.join(topic)
    house.settle()
    for repairs in (1, 2):
        house.append("j", 3)
        house.lose_deliveries()
        for _ in range(3):
            _let_it_look(house)
        assert house.hub.statistics().repairs == repairs
    assert client_of(connection).updates == 7


@pytest.mark.parametrize("shown_by_a_delivery", [True, False])
def test_a_loss_over_a_reconnection_is_one_repair(house: House, shown_by_a_delivery: bool) -> None:
    house.append("j", 1)
    house.join()
    house.settle()
    house.append("j", 3)
    house.loop.call_soon(house.redis.reconnect)
    house.settle()
    assert house.hub.statistics().repairs == 0, "they may be under way"
    if shown_by_a_delivery:
        house.append("j", 1)
        house.settle()
        assert house.hub.statistics().repairs == 1
    for _ in range(2):
        _let_it_look(house)
    assert house.hub.statistics().repairs == 1


def test_a_loss_on_more_pages_than_one_is_one_repair(house: House) -> None:
    house.log.keep = 10_000
    house.append("j", 1)
    house.join()
    house.settle()
    house.append("j", 700)
    house.append("j", 700)
    house.lose_deliveries()
    house.append("j", 1)
    house.settle(10)
    assert house.hub.statistics().appended == 1402
    assert house.hub.statistics().repairs == 1


def test_a_reconnection_that_loses_nothing_is_no_repair(house: House) -> None:
    house.append("j", 1)
    house.join()
    house.settle()
    house.loop.call_soon(house.redis.reconnect)
    house.settle()
    _let_it_look(house)
    assert house.hub.statistics().repairs == 0


def test_what_is_read_before_it_is_delivered_is_no_repair(house: House) -> None:
    house.append("j", 1)
    house.join()
    house.settle()
    house.append("j", 1)
    house.append("j", 1)
    # Somebody who was ahead elsewhere has the feed read what is under way to it.
    house.join(after=Cursor(house.log.log_id, 1, 2))
    for _ in range(4):
        for question in list(house.redis.questions):
            house.redis.look(question, 1000)
            house.redis.arrive(question)
        house.loop.turn(40)
    assert house.hub.statistics().appended == 3
    house.append("j", 1)
    _deliver_first(house, 1)
    house.settle()
    _let_it_look(house)
    assert house.hub.statistics().duplicates == 2
    assert house.hub.statistics().repairs == 0


def test_what_is_read_again_since_too_much_came_meanwhile_is_no_repair(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "PENDING_BYTES", 10)
    house.append("j", 1)
    house.join()
    house.settle()
    house.loop.call_soon(house.redis.reconnect)
    house.loop.turn(40)
    house.append("j", 1)
    house.append("j", 1)
    house.settle()
    house.append("j", 1)
    house.settle()
    _let_it_look(house)
    assert house.hub.statistics().appended == 4
    assert house.hub.statistics().repairs == 0


def test_a_failover_that_pubsub_tells_of_is_one_epoch_and_no_repair(house: House) -> None:
    house.append("j", 3)
    house.join()
    house.settle()
    for lost in (0, 2):
        house.log.fail_over(lost)
        house.append("j", 4)
        house.settle()
    _let_it_look(house)
    statistics = house.hub.statistics()
    assert (statistics.epochs, statistics.rewinds, statistics.repairs) == (2, 1, 0)


def test_a_history_of_many_epochs_counts_none(house: House) -> None:
    house.log.keep = 10_000
    for _ in range(4):
        house.append("j", 600)
        house.log.fail_over(0)
    house.append("j", 1)
    house.join()
    house.settle(20)
    assert house.hub.statistics().appended == 2401
    assert house.hub.statistics().epochs == 0


def test_each_watcher_that_is_told_of_a_gap_counts(house: House) -> None:
    house.log.keep = 20
    house.use(replace(SETTINGS, stall_s=3000, memory_bytes=1))
    house.append("j", 3)
    old = Cursor(house.log.log_id, 1, 1)
    slow = [house.join()[1] for _ in range(2)]
    house.settle()
    for connection in slow:
        connection.stall()
    for _ in range(5):
        house.append("j", 20)
        house.settle()
    assert house.hub.statistics().gaps == 0
    for connection in slow:
        connection.resume()
    house.settle(10)
    assert house.hub.statistics().gaps == 2, "those who fell behind what is kept"
    late = [house.join(after=old)[1] for _ in range(3)]
    house.settle(10)
    assert [code for connection in (*slow, *late) for code, _ in client_of(connection).ends] == [4002] * 5
    assert house.hub.statistics().gaps == 5, "and those who come back too late"


def test_each_live_watcher_that_is_told_of_a_gap_counts(house: House) -> None:
    house.log.keep = 5
    house.append("j", 3)
    live = [house.join()[1] for _ in range(2)]
    house.settle()
    house.append("j", 20)
    house.lose_deliveries()
    house.append("j", 1)
    house.settle()
    assert [code for connection in live for code, _ in client_of(connection).ends] == [4002] * 2
    assert house.hub.statistics().gaps == 2


def test_each_watcher_that_is_told_of_a_reset_counts(house: House) -> None:
    house.append("j", 3)
    live = [house.join()[1] for _ in range(2)]
    house.settle()
    old = Cursor(house.log.log_id, 1, 1)
    house.log.clear()
    house.append("j", 1)
    house.settle(8)
    assert house.hub.statistics().resets == 2
    late = house.join(after=old)[1]
    house.settle(8)
    assert [code for connection in (*live, late) for code, _ in client_of(connection).ends] == [4001] * 3
    assert house.hub.statistics().resets == 3


def _answer_one(house: House) -> None:
    for question in house.redis.questions[:1]:
        house.redis.look(question, 2)
        house.redis.arrive(question)


def _come_ahead(house: House) -> None:
    """Have somebody come who got all elsewhere."""
    if house.log.log_id:
        house.join(after=Cursor(house.log.log_id, house.log.epoch, house.log.head))


def _interrupt(house: House) -> None:
    for subscription in house.redis.subscriptions.values():
        house.loop.call_soon(subscription.listener.interrupted)


DOINGS: dict[str, Callable[[House], object]] = {
    "append": lambda house: house.append("j", 2),
    "deliver": lambda house: house.loop.call_soon(_deliver_first, house, 1),
    "answer": _answer_one,
    "settle": House.settle,
    "come": House.join,
    "come ahead": _come_ahead,
    "interrupt": _interrupt,
    "move": lambda house: house.log.fail_over(0),
}


@given(st.lists(st.sampled_from(sorted(DOINGS)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_whatever_is_read_and_however_late_it_is_delivered_without_a_loss_there_is_no_repair(doings: list[str]) -> None:
    with built() as house:
        house.join()
        house.settle()
        for doing in doings:
            DOINGS[doing](house)
            house.loop.turn(3)
        for _ in range(3):
            house.settle()
        _let_it_look(house)
        statistics = house.hub.statistics()
        assert (statistics.appended, statistics.repairs) == (2 * doings.count("append"), 0)
