"""Figures, their medians and their targets."""

from __future__ import annotations

import pytest

from tests.benchmarks import building
from tests.benchmarks.figures import Figure, Target, medians, ratio
from workers.local_parts import PartFailed


def test_a_figure_of_several_rounds_is_their_median() -> None:
    target = Target(most=2)
    rounds = [[Figure("a", "A", value, "µs", target), Figure("b", "B", None)] for value in (3.0, 1.0, None, 9.0)]
    assert medians(rounds) == [Figure("a", "A", 3.0, "µs", target), Figure("b", "B", None)]


def test_a_target_is_shown_beside_what_was_measured_and_whether_it_is_reached() -> None:
    line = Figure("a", "cost", 1.234, "µs", Target(most=1.15)).line()
    assert line.split() == ["cost", "1.23", "µs", "target:", "at", "most", "1.15", "µs", "MISSED"]
    assert Figure("a", "rate", 3000.0, "/s", Target(least=3000)).verdict == "reached"
    assert "too short to tell" in Figure("a", "cost", None, "µs", Target(most=1)).line()
    assert Figure("a", "cost", 2.0, "×", Target(most=2, words="twice")).as_json()["target"] == "twice"


def test_a_ratio_to_nothing_is_not_known() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(3.0, None) is None
    assert ratio(3.0, 0.0) is None


def test_without_a_compiler_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(building, "COMPILER", "no-such-compiler")
    with pytest.raises(PartFailed, match=r"there is no C compiler \(no-such-compiler\): on Debian, install gcc"):
        building.build(tmp_path)  # type: ignore[arg-type]
