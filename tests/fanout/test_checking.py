"""Looking for lost deliveries: what was lost is found, and what was not costs no read of the log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamer.core.names import Topic
from streamer.fanout.hub import CHECKED_AT_ONCE
from streamer.log.reading import Head
from tests.fanout.house import NODE, SETTINGS, House, client_of

JOB = Topic("n", "j")
LOOK_S = int(SETTINGS.check_s)


def look(house: House) -> int:
    """Have it look once, with nothing delivered meanwhile; return how often it then read the log."""
    house.pass_time(LOOK_S)
    [question] = house.redis.questions
    house.redis.look(question, 0)
    house.redis.arrive(question)
    reads = house.redis.reads
    house.loop.turn(40)
    for question in list(house.redis.questions):
        house.redis.look(question, 1000)
        house.redis.arrive(question)
    house.loop.turn(40)
    return house.redis.reads - reads


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_a_lost_last_delivery_is_found_by_the_second_look(house: House, topic: Topic) -> None:
    _, connection, _ = house.join(topic)
    house.settle()
    house.append("j", 1)
    house.lose_deliveries()
    assert look(house) == 1, "a log that was not there before"
    house.append("j", 1)
    house.lose_deliveries()
    assert [look(house), look(house), look(house)] == [0, 1, 0]
    assert client_of(connection).updates == 2


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_a_feed_that_is_a_little_behind_the_log_all_the_time_is_not_read_again(house: House, topic: Topic) -> None:
    house.append("j", 1)
    _, connection, _ = house.join(topic)
    house.settle()
    reads = 0
    for _ in range(5):
        house.append("j", 3)
        reads += look(house)
        for channel in house.redis.subscriptions:
            house.redis.deliver(channel, 1)
    assert reads == 0
    assert client_of(connection).updates == 16


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_what_is_delivered_between_the_look_and_its_answer_is_not_taken_for_lost_with_a_tail(
    house: House, topic: Topic
) -> None:
    house.append("j", 3)
    house.join(topic)
    house.settle()
    for _ in range(3):
        house.pass_time(LOOK_S)
        [question] = house.redis.questions
        house.redis.look(question, 0)
        house.append("j", 3)
        for channel in house.redis.subscriptions:
            house.redis.deliver(channel, 1)
        house.redis.arrive(question)
        house.loop.turn(40)
        assert house.redis.questions == []


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_a_feed_at_rest_is_not_read_again(house: House, topic: Topic) -> None:
    house.append("j", 3)
    house.append("other", 3)
    house.join(topic)
    house.settle()
    assert [look(house) for _ in range(3)] == [0, 0, 0]


def test_a_log_started_anew_or_lost_unheard_is_found_by_the_first_look(house: House) -> None:
    house.append("j", 3)
    _, first, _ = house.join()
    house.settle()
    house.log.clear()
    assert look(house) > 0
    assert [code for code, _ in client_of(first).ends] == [4001]
    house.append("j", 1)
    house.lose_deliveries()
    _, second, _ = house.join()
    house.settle()
    house.log.flush()
    look(house)
    assert [code for code, _ in client_of(second).ends] == [4001]
    house.join()
    house.settle()
    look(house)
    assert [look(house) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("topic", [NODE, JOB])
def test_a_log_that_lost_its_tail_unheard_is_read_and_then_left_alone(house: House, topic: Topic) -> None:
    house.append("j", 3)
    house.append(None, 3)
    house.append("j", 3)
    _, connection, _ = house.join(topic)
    house.settle()
    house.log.fail_over(3)
    looks = [look(house) for _ in range(6)]
    assert looks[0] > 0
    assert looks[2:] == [0, 0, 0, 0]
    house.append("j", 1)
    house.settle()
    assert client_of(connection).updates == (10 if topic is NODE else 7)


def test_a_job_of_which_the_log_knows_nothing_any_more_is_left_alone(house: House) -> None:
    house.append("j", 3)
    house.join(JOB)
    house.settle()
    for _ in range(3):
        house.pass_time(LOOK_S)
        [question] = house.redis.questions
        house.redis.questions.remove(question)
        question.arrival.set_result([Head(house.log.log_id, 1, None)])
        house.loop.turn(40)
        assert house.redis.questions == []


def test_a_feed_that_was_let_go_of_meanwhile_is_not_read_any_more(house: House) -> None:
    house.append("j", 3)
    house.use(replace(SETTINGS, keep_s=0))
    _, connection, _ = house.join()
    house.settle()
    house.pass_time(LOOK_S - 1)
    connection.break_off()
    house.loop.now += 0.5
    house.pass_time(1)
    house.log.clear()
    questions = list(house.redis.questions)
    house.pass_time(2)
    assert house.hub.statistics().feeds == 0
    for question in questions:
        house.redis.look(question, 0)
        house.redis.arrive(question)
    house.loop.turn(40)
    assert house.redis.questions == []


def test_many_topics_are_looked_at_with_few_questions(house: House) -> None:
    house.append("j", 1)
    for n in range(CHECKED_AT_ONCE + 1):
        house.join(Topic("n", f"job-{n}"))
    house.settle()
    reads = house.redis.reads
    house.pass_time(LOOK_S)
    house.settle()
    assert house.redis.reads - reads == 2
