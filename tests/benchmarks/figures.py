"""What a benchmark measures, beside what it must reach. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from workers.bench.figures import number


@dataclass(frozen=True)
class Target:
    """A bound: at ``most``, or at ``least``, so much. ``words`` say it where a number alone does not."""

    most: float | None = None
    least: float | None = None
    words: str = ""

    def reached(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    def text(self, unit: str) -> str:
        """The bound for people."""
        if self.words:
            return self.words
        if self.most is not None:
            return f"at most {number(self.most, unit)}"
        return f"at least {number(self.least or 0.0, unit)}"


@dataclass(frozen=True)
class Figure:
    """A measured value, None where the run was too short to measure it. ``key`` names it for programs."""

    key: str
    label: str
    value: float | None
    unit: str = ""
    target: Target | None = None

    @property
    def verdict(self) -> str:
        """Whether the target is reached, in a word."""
        if self.target is None or self.value is None:
            return ""
        return "reached" if self.target.reached(self.value) else "MISSED"

    def line(self) -> str:
        """The figure as a line for people."""
        value = "too short to tell" if self.value is None else number(self.value, self.unit)
        target = f"target: {self.target.text(self.unit)}" if self.target else ""
        return f"  {self.label:62} {value:>18}   {target:34} {self.verdict}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """The figure for programs."""
        target = self.target and self.target.text(self.unit)
        return {"label": self.label, "value": self.value, "unit": self.unit, "target": target, "verdict": self.verdict}


def ratio(value: float | None, of: float | None) -> float | None:
    """How many times as much; None where either is not known or nothing."""
    return value / of if value and of else None


def medians(rounds: Sequence[Iterable[Figure]]) -> list[Figure]:
    """Each figure of several rounds with the median of its values."""
    by_key: dict[str, list[Figure]] = {}
    for figures in rounds:
        for figure in figures:
            by_key.setdefault(figure.key, []).append(figure)
    return [replace(same[0], value=_median(figure.value for figure in same)) for same in by_key.values()]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
