"""What a watcher of a storm has is held to the log: whatever is wrong with it is found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from workers.bench.storm.course import Course, Seen


def chain(*updates: tuple[int, int, str]) -> list[Seen[str]]:
    """Updates of a topic, each given by epoch, index and name, as the log has them."""
    befores = [-1, *(index for _, index, _ in updates)]
    return [Seen(epoch, index, before, name) for (epoch, index, name), before in zip(updates, befores, strict=False)]


LOG = chain((1, 0, "a"), (1, 2, "b"), (1, 5, "c"), (1, 6, "d"))


def faults(came: Sequence[Seen[str]], log: Sequence[Seen[str]] = LOG, *, to_the_end: bool = True) -> list[str]:
    course: Course[str] = Course()
    for seen in came:
        course.take(seen)
    return course.against(log, to_the_end=to_the_end)


def test_the_log_itself_is_right() -> None:
    assert faults(LOG) == []
    assert faults([], []) == []


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_a_missing_update_is_named(lost: int) -> None:
    [*_, last] = faults([*LOG[:lost], *LOG[lost + 1 :]])
    assert last == f"never got {LOG[lost]}"


@pytest.mark.parametrize("again", [0, 2, 3])
def test_a_doubled_update_is_named(again: int) -> None:
    [fault] = faults([*LOG, LOG[again]])
    assert fault == f"got {LOG[again]} twice, or out of order, after {LOG[3]}"


def test_swapped_updates_are_found() -> None:
    found = faults([LOG[0], LOG[2], LOG[1], LOG[3]])
    assert found[0].startswith(f"got {LOG[2]}, which follows update 2, after {LOG[0]}: a hole")
    assert found[1].startswith(f"got {LOG[1]} twice, or out of order")


def test_another_update_in_the_place_of_one_is_found() -> None:
    other = Seen(1, 5, 2, "never published")
    assert faults([*LOG[:2], other, LOG[3]]) == [
        f"never got {LOG[2]}, {LOG[3]}",
        f"got what the log does not have: {other}",
    ] or faults([*LOG[:2], other, LOG[3]]) == [f"never got {LOG[2]}", f"got what the log does not have: {other}"]


def test_an_update_at_another_place_is_found() -> None:
    [fault] = faults([*LOG[:3], Seen(1, 7, 5, "d")])
    assert fault == f"got {Seen(1, 7, 5, 'd')} where the log has {LOG[3]}"


def test_a_tail_that_a_failover_lost_is_replaced_by_the_new_epochs() -> None:
    came = [*LOG, *chain((1, 2, "b"), (9, 4, "d"), (9, 5, "e"), (9, 7, "c"))[1:]]
    log = [*LOG[:2], *chain((1, 2, "b"), (9, 4, "d"), (9, 5, "e"), (9, 7, "c"))[1:]]
    assert faults(came, log) == []
    course: Course[str] = Course()
    for seen in came:
        course.take(seen)
    assert course.replaced == 2


def test_a_new_epoch_that_begins_too_far_ahead_leaves_a_hole() -> None:
    [hole, *_] = faults([*LOG[:3], Seen(9, 7, 6, "e")])
    assert "a hole" in hole


def test_what_is_replaced_without_being_lost_is_found() -> None:
    came = [*LOG, Seen(9, 5, 2, "c"), Seen(9, 6, 5, "d")]
    assert faults(came) == [f"got {came[4]}, {came[5]} where the log has {LOG[2]}, {LOG[3]}"]


def test_an_epoch_that_is_over_does_not_come_back() -> None:
    log = [*LOG[:2], Seen(9, 5, 2, "c")]
    [fault, *_] = faults([*log, LOG[3]], log)
    assert fault == f"got {LOG[3]} after {log[2]}, which is of a later epoch"


def test_who_left_early_may_lack_the_rest_and_may_have_a_tail_that_was_lost() -> None:
    log = [*LOG[:2], Seen(9, 4, 2, "d"), Seen(9, 5, 4, "c")]
    assert faults(LOG[:2], log, to_the_end=False) == []
    assert faults(LOG[:3], log, to_the_end=False) == []
    assert faults([LOG[0], LOG[2]], log, to_the_end=False) != []
    assert faults([*log, Seen(9, 7, 5, "x")], log, to_the_end=False) == []


def test_who_left_early_may_not_have_had_what_was_never_in_the_log() -> None:
    other = Seen(1, 5, 2, "never published")
    assert faults([*LOG[:2], other], to_the_end=False) != []
