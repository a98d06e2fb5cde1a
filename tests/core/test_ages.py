"""How long what waits has been waiting, as far as the looks tell."""

from __future__ import annotations

from streamer.core.ages import Ages


def test_what_came_to_an_empty_queue_is_as_old_as_the_look_that_follows() -> None:
    ages = Ages()
    assert ages.of(1, now=5) == 0
    ages.look(1, 1, now=10)
    assert ages.of(1, now=12) == 2


def test_what_came_after_a_look_is_no_older_than_that() -> None:
    ages = Ages()
    ages.look(1, 2, now=10)
    ages.look(1, 5, now=20)
    assert [ages.of(number, now=25) for number in (1, 2, 3, 5, 6)] == [15, 15, 15, 15, 5]


def test_the_age_falls_with_what_is_acknowledged() -> None:
    ages = Ages()
    ages.look(1, 2, now=10)
    ages.look(1, 5, now=20)
    ages.look(1, 9, now=30)
    ages.forget(6)
    assert ages.of(6, now=31) == 11
    ages.forget(10)
    assert ages.of(10, now=31) == 1


def test_once_nothing_waits_the_next_is_young() -> None:
    ages = Ages()
    ages.look(1, 2, now=10)
    ages.forget(None)
    ages.look(3, 3, now=500)
    assert ages.of(3, now=501) == 1


def test_what_waits_again_is_as_old_as_the_next_look() -> None:
    ages = Ages()
    ages.look(5, 6, now=10)
    ages.forget(6)
    ages.look(2, 6, now=20)
    assert ages.of(2, now=22) == 2


def test_looks_that_tell_nothing_new_take_no_memory() -> None:
    ages = Ages()
    for now in range(1000):
        ages.look(1, 3, now)
    assert len(ages._looks) == 2
