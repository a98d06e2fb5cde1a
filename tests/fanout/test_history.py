"""History beyond a feed's window: who is owed it gets all of it, and it is read for all of them together."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from streamer.core import window as window_module
from streamer.core.cursor import Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.fanout import feed as feed_module
from tests.fanout.house import NODE, SETTINGS, House, client_of

HISTORY = 900
OPENED_RECORDS = 100
HERD = 50
PAGES = 2
"""The history is longer than a page and not than two."""


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feed opens with a part of the history."""
    monkeypatch.setattr(feed_module, "OPENED_RECORDS", OPENED_RECORDS)


@pytest.fixture
def long(house: House) -> House:
    """A house with a history, and one client, to whom a feed was opened."""
    house.append("j", HISTORY)
    house.join(history=0)
    house.settle()
    return house


def test_a_feed_of_a_long_history_is_opened_with_its_end(long: House) -> None:
    assert long.redis.reads == 2, "where to begin, and a page"
    longest = 500 * OPENED_RECORDS
    assert 0 < long.hub.statistics().feed_bytes < longest
    assert long.hub.statistics().appended == OPENED_RECORDS


@pytest.mark.parametrize("job", [None, "j"])
@pytest.mark.parametrize(
    ("history", "expected"),
    [(None, HISTORY), (HISTORY, HISTORY), (HISTORY + 1, HISTORY), (300, 300), (101, 101), (100, 100), (7, 7), (0, 0)],
)
def test_whoever_joins_gets_as_much_as_it_asks_for(
    long: House, job: str | None, history: int | None, expected: int
) -> None:
    _, connection, _ = long.join(Topic("n", job), history=history)
    long.settle(rounds=20)
    assert client_of(connection).updates == expected
    long.append("j", 1)
    long.settle()
    assert client_of(connection).updates == expected + 1


@pytest.mark.parametrize("after", [-1, 0, 500, HISTORY - OPENED_RECORDS - 2, HISTORY - OPENED_RECORDS - 1, HISTORY - 1])
def test_whoever_resumes_before_the_window_gets_all_behind_its_cursor(long: House, after: int) -> None:
    _, connection, _ = long.join(after=Cursor(long.log.log_id, 1, after))
    long.settle(rounds=20)
    assert client_of(connection).updates == HISTORY - 1 - after


@pytest.mark.parametrize("history", [None, 300])
def test_a_herd_that_is_owed_more_than_the_window_costs_what_one_client_costs(long: House, history: int | None) -> None:
    reads = long.redis.reads
    herd = [long.join(history=history) for _ in range(HERD)]
    long.settle(rounds=20)
    assert {client_of(connection).updates for _, connection, _ in herd} == {history or HISTORY}
    assert long.redis.reads - reads <= 1 + PAGES, "where it joins, and the pages"


def test_those_who_join_one_after_another_read_the_same_chunks(long: House) -> None:
    """Somebody is behind all the time, so what is read is not let go of."""
    _, stalled, _ = long.join()
    stalled.stall()
    long.settle()
    reads = long.redis.reads
    late = []
    for _ in range(HERD):
        late.append(long.join())
        long.settle(rounds=8)
    assert {client_of(connection).updates for _, connection, _ in late} == {HISTORY}
    assert long.redis.reads - reads <= HERD + PAGES, "where each joins, and the pages"


def test_what_was_read_for_those_behind_is_let_go_of_when_nobody_is(long: House) -> None:
    size = long.hub.statistics().feed_bytes
    long.join()
    long.settle(rounds=20)
    assert long.hub.statistics().feed_bytes > size
    long.pass_time(2)
    assert long.hub.statistics().feed_bytes == size


@pytest.mark.parametrize("memory_bytes", [0, 1, 30_000])
def test_a_herd_gets_everything_where_the_bound_forgets_it_at_once(
    house: House, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_module, "BLOCK_BYTES", 10_000)
    house.use(replace(SETTINGS, memory_bytes=memory_bytes))
    house.append("j", HISTORY)
    herd = [house.join(topic) for topic in (NODE, Topic("n", "j")) for _ in range(HERD)]
    for _ in range(60):
        house.settle(rounds=1)
        assert house.hub.statistics().feed_bytes <= memory_bytes
    assert {client_of(connection).updates for _, connection, _ in herd} == {HISTORY}
    assert house.hub.statistics().live == len(herd)
    chunks = HISTORY * 150 // 10_000 + 2
    assert house.redis.reads < 2 * 2 * chunks, "a read for each chunk, and not for each client"


def test_an_error_in_a_read_that_many_share_ends_each_of_them_and_each_can_go_on(long: House) -> None:
    herd = [long.join() for _ in range(HERD)]
    long.settle(rounds=2)
    long.redis.fail_all()
    long.settle()
    resumed = []
    for _, connection, _ in herd:
        client = client_of(connection)
        [(code, reason)] = client.ends
        assert code == 1013
        resumed.append((client.updates, long.join(after=Cursor.parse(reason.partition("after=")[2]))))
    long.settle(rounds=20)
    assert {before + client_of(connection).updates for before, (_, connection, _) in resumed} == {HISTORY}


def test_an_error_while_it_is_found_out_where_a_herd_joins_is_told_to_each_and_whoever_comes_next_joins(
    long: House,
) -> None:
    herd = [long.join() for _ in range(HERD)]
    long.settle(rounds=1)
    long.redis.fail_all()
    long.settle()
    for _, _, joining in herd:
        with pytest.raises(LogUnavailable, match="it is down"):
            joining.result()
    _, connection, _ = long.join()
    long.settle(rounds=20)
    assert client_of(connection).updates == HISTORY


def test_whoever_gives_up_while_it_is_found_out_where_it_joins_leaves_the_others_their_answer(long: House) -> None:
    herd = [long.join() for _ in range(HERD)]
    long.settle(rounds=1)
    for _, _, joining in herd[::2]:
        joining.cancel()
    long.settle(rounds=20)
    assert {client_of(connection).updates for _, connection, _ in herd[1::2]} == {HISTORY}
    assert {client_of(connection).updates for _, connection, _ in herd[::2]} == {0}


def test_whoever_leaves_in_the_middle_of_a_shared_read_leaves_the_others_theirs(long: House) -> None:
    herd = [long.join() for _ in range(HERD)]
    long.settle(rounds=2)
    [_] = long.redis.questions
    for session, connection, _ in herd[::2]:
        session.end()
        connection.break_off()
    long.settle(rounds=20)
    assert {client_of(connection).updates for _, connection, _ in herd[1::2]} == {HISTORY}
    assert all(client_of(connection).updates < HISTORY for _, connection, _ in herd[::2])
    statistics = long.hub.statistics()
    assert (statistics.live, statistics.behind) == (1 + HERD // 2, 0)


def test_a_log_that_is_started_anew_while_a_feed_is_opened_is_read_from_its_start(house: House) -> None:
    house.append("j", HISTORY)
    _, connection, _ = house.join()
    house.settle(rounds=2)  # the subscription is confirmed
    [where_to_begin] = house.redis.questions
    house.redis.look(where_to_begin, HISTORY)
    house.log.clear()
    house.append("j", 5)
    house.redis.arrive(where_to_begin)
    house.settle(rounds=20)
    assert (client_of(connection).updates, client_of(connection).ends) == (5, [])
    assert house.hub.statistics().live == 1


def test_what_was_read_of_a_tail_that_the_log_then_lost_is_given_to_nobody_any_more(long: House) -> None:
    _, stalled, _ = long.join()
    stalled.stall()
    long.join()
    long.settle(rounds=20)
    long.log.fail_over(50)
    long.append("j", 30)
    long.loop.call_soon(long.redis.reconnect)
    long.settle()
    _, connection, _ = long.join()
    long.settle(rounds=20)
    kept = HISTORY - 50
    assert client_of(connection).cursors == [*((1, n) for n in range(kept)), *((2, kept + n) for n in range(30))]


def test_what_arrives_together_with_the_news_that_the_log_lost_its_tail_costs_nobody_what_came_after_it(
    long: House,
) -> None:
    _, connection, _ = long.join()
    long.settle(rounds=3)
    while client_of(connection).updates < 500:
        long.settle(rounds=1)
    [of_the_client] = long.redis.questions
    long.redis.look(of_the_client, 1000)
    long.log.fail_over(50)
    long.append("j", 30)
    long.loop.call_soon(long.redis.reconnect)
    long.loop.turn(5)
    [_, of_the_feed] = long.redis.questions
    long.redis.look(of_the_feed, 1000)
    long.redis.arrive(of_the_client)
    long.redis.arrive(of_the_feed)
    long.settle(rounds=20)
    kept = HISTORY - 50
    assert client_of(connection).cursors == [*((1, n) for n in range(kept)), *((2, kept + n) for n in range(30))]


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_closing_the_hub_ends_whatever_is_read_and_those_who_wait_for_it(long: House, rounds: int) -> None:
    """Be it where they join or what they are owed."""
    for _ in range(HERD):
        long.join()
    long.loop.turn(5)
    long.settle(rounds)
    assert long.redis.questions
    long.loop.run_until_complete(long.hub.aclose())
    long.loop.turn(40)
    assert asyncio.all_tasks(long.loop) == set()
    assert long.hub.statistics().feeds == 0


@pytest.mark.parametrize("job", ["j", "never seen"])
def test_whoever_watches_a_job_that_has_nothing_more_misses_nothing_in_a_new_epoch(house: House, job: str) -> None:
    house.append("j", 2)
    house.append("k", 1)
    _, connection, _ = house.join(Topic(NODE.node, job))
    house.settle()
    came = client_of(connection).updates
    connection.stall()
    house.append(job, 1)
    house.settle()
    house.log.fail_over(1)
    house.append("k", 1)
    house.loop.call_soon(house.redis.reconnect)
    house.settle()
    connection.resume()
    house.settle()
    assert client_of(connection).ends == []
    house.append(job, 1)
    house.settle()
    assert client_of(connection).updates == came + 1
    assert client_of(connection).ends == []
