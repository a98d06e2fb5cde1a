"""A node's log is held to what its processes wrote down: whatever is wrong with it is found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from streamer.core.records import Update
from workers.bench.storm.content import STATUS, Altered, Content, Name
from workers.bench.storm.ledger import Accepted, Ledger, count_accepted
from workers.bench.storm.verdict import NodeLogView, check_log, has_all

CONTENT = Content(seed=7, size=40, jobs=2)
ACCEPTED = {0: Accepted(5, maybe_more=True), 1: Accepted(3)}
NAMES = [Name(0, 0), Name(0, 1), Name(0, 2), Name(1, 0), Name(0, 3), Name(0, 4), Name(1, 1), Name(1, 2)]


def log_of(names: list[Name]) -> list[Update]:
    """A node's log with these updates, as Redis makes it."""
    previous: dict[object, int] = {}
    updates = []
    for index, name in enumerate(names):
        state = CONTENT.state("node", name, 1000 + index)
        job = state.get("job")
        updates.append(Update(1, index, -1 if job is None else previous.get(job, -1), 1000 + index, STATUS, state))
        previous[job] = index
    return updates


def faults(updates: list[Update], accepted: dict[int, Accepted] = ACCEPTED) -> list[str]:
    view = NodeLogView("node", updates, CONTENT)
    return [*view.faults, *check_log(view.everything, accepted)]


def test_all_that_was_accepted_once_and_in_order_is_right() -> None:
    assert faults(log_of(NAMES)) == []


def test_a_killed_process_may_have_had_one_update_accepted_more_and_no_other_may() -> None:
    assert faults(log_of([*NAMES, Name(0, 5)])) == []
    assert faults(log_of([*NAMES, Name(0, 5), Name(0, 6)])) == ["has what was never accepted: 6 of process 0"]
    assert faults(log_of([*NAMES, Name(1, 3)])) == ["has what was never accepted: 3 of process 1"]
    assert faults(log_of([*NAMES, Name(2, 0)])) == ["has what was never accepted: 0 of process 2"]


@pytest.mark.parametrize("lost", range(len(NAMES)))
def test_a_missing_update_is_named(lost: int) -> None:
    left = [*NAMES[:lost], *NAMES[lost + 1 :]]
    assert faults(log_of(left)) == [f"lacks {NAMES[lost].number} of process {NAMES[lost].process}"]
    assert not has_all(NodeLogView("node", log_of(left), CONTENT).everything, ACCEPTED)
    assert has_all(NodeLogView("node", log_of(NAMES), CONTENT).everything, ACCEPTED)


def test_a_process_of_which_there_is_nothing_is_named() -> None:
    assert faults([], {3: Accepted(1)}) == ["lacks 0 of process 3"]


def test_a_doubled_update_is_named() -> None:
    assert faults(log_of([*NAMES, Name(1, 2)])) == ["has twice 2 of process 1"]
    assert "has twice 5 of process 0" in faults(log_of([*NAMES, Name(0, 5), Name(0, 5)]))


def test_swapped_updates_are_named() -> None:
    swapped = [NAMES[0], NAMES[2], NAMES[1], *NAMES[3:]]
    assert faults(log_of(swapped)) == ["has out of order 1 of process 0"]


def test_processes_may_have_their_updates_between_those_of_others() -> None:
    assert faults(log_of(sorted(NAMES, reverse=True, key=lambda name: name.process))) == []


def test_an_altered_update_is_named() -> None:
    for alter in (
        lambda update: msgspec.structs.replace(update, timestamp=update.timestamp + 1),
        lambda update: msgspec.structs.replace(update, status="else"),
        lambda update: msgspec.structs.replace(update, state={**update.state, "pad": "else"}),
        lambda update: msgspec.structs.replace(update, state={**update.state, "job": "else"}),
    ):
        updates = log_of(NAMES)
        updates[4] = alter(updates[4])
        [altered, *_] = faults(updates)
        assert altered.startswith("has update 4 altered: ")


def test_holes_and_broken_chains_in_the_log_are_named() -> None:
    updates = log_of(NAMES)
    updates[3] = msgspec.structs.replace(updates[3], previous=1)
    assert faults(updates) == ["has update 3, whose previous is 1, not 0"]
    assert "has index 1 behind -1" in faults(log_of(NAMES)[1:])


def test_an_update_of_another_node_or_storm_is_altered() -> None:
    state = CONTENT.state("node", Name(0, 1), 1)
    assert CONTENT.name("node", STATUS, state, 1) == Name(0, 1)
    for node, content in (("other", CONTENT), ("node", Content(8, 40, 2))):
        with pytest.raises(Altered):
            content.name(node, STATUS, state, 1)
    with pytest.raises(Altered):
        CONTENT.name("node", STATUS, {}, 1)


def test_a_ledger_tells_what_was_written_and_not_what_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert count_accepted(path) == 0
    ledger = Ledger(path)
    for number in range(11):
        ledger.note(number)
    assert count_accepted(path) == 11
    path.write_bytes(path.read_bytes() + b"1")
    assert count_accepted(path) == 11
    path.write_bytes(b"0\n2\n")
    with pytest.raises(ValueError, match="line 2"):
        count_accepted(path)
