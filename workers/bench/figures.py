"""What a run tells in the end: figures, verdicts, and what to think of when reading them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.bench.histogram import Histogram

BUSY = 0.9
"""From this share of a processor on, a process is what the others wait for."""

MOST_NAMED = 10


@dataclass(frozen=True)
class Figure:
    """A measured value; None where it was not measured. ``key`` names it for programs, with its unit."""

    key: str
    label: str
    value: float | None
    unit: str = ""

    @property
    def rounded(self) -> float | None:
        """The value for programs, without digits that mean nothing."""
        return None if self.value is None else round(self.value, 3)

    def text(self) -> str:
        """The value for people."""
        if self.value is None:
            return "not measured"
        return number(self.value, self.unit)


def number(value: float, unit: str) -> str:
    """A value with its unit, without digits that mean nothing."""
    digits = 0 if abs(value) >= 1000 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


@dataclass
class Result:
    """What a run has found: it has failed where there are faults."""

    bench: str
    settings: Mapping[str, float]
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    more_faults: int = 0

    def as_json(self) -> dict[str, Any]:
        """One object for programs."""
        return {
            "bench": self.bench,
            "verified": not self.faults,
            "settings": dict(self.settings),
            "figures": {figure.key: figure.rounded for figure in self.figures},
            "notes": self.notes,
            "faults": self.faults,
            "more_faults": self.more_faults,
        }

    def verdict(self) -> str:
        """Say what failed. Only where there are faults."""
        shown, hidden = self.faults[:MOST_NAMED], len(self.faults[MOST_NAMED:]) + self.more_faults
        more = f"\n  and {hidden:,} more" if hidden else ""
        return "not every update arrived once, in order and unaltered:\n  " + "\n  ".join(shown) + more


def durations(key: str, label: str, histogram: Histogram, unit: str = "ms") -> list[Figure]:
    """The median, the 99th percentile and the greatest of durations, in ms or µs."""
    scale = {"ms": 1e6, "µs": 1e3}[unit]
    suffix = {"ms": "ms", "µs": "us"}[unit]
    known = bool(histogram.counts)

    def figure(name: str, words: str, value_ns: float | None) -> Figure:
        value = None if value_ns is None else value_ns / scale
        return Figure(f"{key}_{name}_{suffix}", f"{label}, {words}", value, unit)

    return [
        figure("p50", "median", histogram.quantile_ns(0.5)),
        figure("p99", "99th percentile", histogram.quantile_ns(0.99)),
        figure("max", "greatest", histogram.greatest_ns if known else None),
    ]


def bottleneck(shares: Mapping[str, float | None], gateway: float | None, processors: int) -> list[str]:
    """Say what held the run back, from the share of a processor that each client process used, and the gateway."""
    known = {name: share for name, share in shares.items() if share is not None}
    busy = [name for name, share in known.items() if share >= BUSY]
    if busy:
        return [
            f"the clients, not the gateway, were the bottleneck: {', '.join(busy)} used "
            f"{max(known.values()):.0%} of a processor; give more --client-processes if there are processors for them"
        ]
    total = sum(known.values()) + (gateway or 0.0)
    if gateway is not None and total >= BUSY * processors:
        return [
            f"gateway and clients shared this machine's {processors} processors, which were all busy: "
            "the gateway alone would be faster; its CPU time per update is the figure to compare"
        ]
    return []


def shortfall(rate: float, reached: float) -> list[str]:
    """Say where the publisher was slower than asked for."""
    if rate and reached < 0.95 * rate:
        return [f"the publisher reached {reached:,.0f} updates/s of the {rate:,.0f} asked for"]
    return []
