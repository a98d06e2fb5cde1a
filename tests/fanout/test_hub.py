"""The hub and its sessions: how feeds are shared, kept, bounded and let go of, and how a session ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamer.core.cursor import Cursor
from streamer.core.errors import InvalidSetting, LogUnavailable
from streamer.core.messages import TOO_SLOW
from streamer.core.names import Topic
from streamer.fanout.closing import CLOSE_S
from streamer.fanout.session import Session
from tests.fanout.house import SETTINGS, House, client_of


def test_a_herd_that_joins_at_once_costs_what_one_client_costs(house: House) -> None:
    house.append(None, 20)
    joined = [house.join() for _ in range(50)]
    house.settle()
    assert house.redis.reads == 2, "where to begin, and a page"
    assert len(house.redis.subscriptions) == 1
    assert {client_of(connection).updates for _, connection, _ in joined} == {20}
    assert house.hub.statistics().live == 50


def test_a_feed_outlives_its_last_watcher_for_those_who_come_back(house: House) -> None:
    _, connection, _ = house.join()
    house.settle()
    [subscription] = house.redis.subscriptions.values()
    connection.break_off()
    house.pass_time(2)
    house.join()
    house.settle()
    house.pass_time(10)
    assert list(house.redis.subscriptions.values()) == [subscription]


def test_a_topic_that_nobody_watches_any_more_is_unsubscribed(house: House) -> None:
    _, connection, _ = house.join()
    house.settle()
    connection.break_off()
    house.pass_time(5)
    assert not house.redis.subscriptions
    assert house.hub.statistics().feeds == 0


def test_whoever_joins_while_redis_does_not_answer_is_told_so_in_time(house: House) -> None:
    _, _, joining = house.join()
    house.pass_time(6)
    with pytest.raises(LogUnavailable, match="did not answer within 5 s"):
        joining.result()


def test_whoever_comes_when_redis_answers_again_joins(house: House) -> None:
    house.append(None, 1)
    house.join()
    house.pass_time(20)
    house.settle()
    _, connection, _ = house.join()
    house.settle()
    assert client_of(connection).updates == 1


def test_a_topic_that_was_refused_is_opened_anew_by_whoever_comes_next(house: House) -> None:
    house.append(None, 1)
    _, _, refused = house.join()
    house.loop.turn(5)
    [subscription] = house.redis.subscriptions.values()
    subscription.confirmation.set_exception(LogUnavailable("no right"))
    house.loop.turn(40)
    with pytest.raises(LogUnavailable, match="no right"):
        refused.result()
    _, connection, _ = house.join()
    house.settle()
    assert client_of(connection).updates == 1


def test_a_topic_that_cannot_be_read_does_not_keep_others_from_being_looked_after(house: House) -> None:
    house.append(None, 1)
    _, _, first = house.join(Topic("n", "damaged"))
    _, connection, _ = house.join()
    house.settle()
    house.append(None, 1)
    house.redis.subscriptions["streamer:{n}:all"].in_flight.clear()
    for _ in range(2):
        house.pass_time(6)
        [question] = house.redis.questions
        house.redis.questions.remove(question)
        question.arrival.set_result([None, house.log.look(Topic("n"))])
    house.settle()
    assert first.done()
    assert client_of(connection).updates == 2


def test_those_joined_least_recently_give_up_their_records_first_and_all_still_get_everything(house: House) -> None:
    house.use(replace(SETTINGS, memory_bytes=100_000))
    jobs = [f"job-{n}" for n in range(4)]
    for job in jobs:
        house.append(job, 400)
    early = []
    for job in jobs:
        early.append(house.join(Topic("n", job)))
        house.settle()
        house.loop.now += 0.1
        assert house.hub.statistics().feed_bytes <= 100_000
    owed = sum(len(client_of(connection).data) for _, connection, _ in early)
    assert owed > 120_000
    reads = house.redis.reads
    late = [house.join(Topic("n", job)) for job in reversed(jobs)]
    house.settle()
    assert [client_of(connection).updates for _, connection, _ in late] == [400] * 4
    assert house.redis.reads > reads, "those that had given up their records read them again"


def test_a_feed_that_is_just_being_opened_keeps_its_records_before_those_that_were_joined_earlier(
    house: House,
) -> None:
    house.use(replace(SETTINGS, memory_bytes=200_000))
    jobs = [f"job-{n}" for n in range(6)]
    for job in jobs:
        house.append(job, 400)
    for job in jobs:
        house.join(Topic("n", job))
        house.settle()
        house.loop.now += 0.1
    reads = house.redis.reads
    _, connection, _ = house.join(Topic("n", jobs[-1]))
    house.settle()
    assert client_of(connection).updates == 400
    assert house.redis.reads == reads, "its history is in memory"
    house.join(Topic("n", jobs[0]))
    house.settle()
    assert house.redis.reads > reads


def test_a_connection_that_takes_nothing_is_closed_told_where_to_go_on_and_cut_off(house: House) -> None:
    house.append(None, 1)
    session, connection, _ = house.join()
    house.settle()
    connection.stall()
    house.append(None, 3)
    house.settle()
    assert (session.index, house.hub.statistics().behind) == (0, 1)
    connection.answers_close = False
    house.pass_time(31)
    [(code, reason)] = client_of(connection).ends
    assert code == TOO_SLOW
    assert Cursor.parse(reason.partition("after=")[2]) == Cursor(house.log.log_id, 1, 0)
    assert not connection.aborted
    house.pass_time(int(CLOSE_S) + 1)
    assert connection.aborted


def test_a_session_that_has_ended_does_not_join(house: House) -> None:
    ended: list[Session] = []
    session, connection, joining = house.join()
    session.on_end = ended.append
    session.end()
    session.end()
    house.settle()
    joining.result()
    house.append(None, 1)
    house.settle()
    assert (client_of(connection).data, house.hub.statistics().live, ended) == (b"", 0, [session])


@pytest.mark.parametrize("name", ["keep_s", "check_s", "memory_bytes", "open_timeout_s", "stall_s"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name} must be"):
        replace(SETTINGS, **{name: value})


@pytest.mark.parametrize("name", ["check_s", "open_timeout_s", "stall_s"])
def test_what_would_never_wait_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name} must be more than 0"):
        replace(SETTINGS, **{name: 0})
