"""How long updates were under way, counted by bounds as Prometheus counts them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class LatencyCounts(NamedTuple):
    """``up_to`` counts, for each of BOUNDS_S and infinity, the durations not greater; ``sum_s`` adds all up."""

    up_to: tuple[int, ...]
    sum_s: float


class Latencies:
    """Counts durations."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count a duration; one below 0, which two clocks may make of a short one, counts as 0."""
        duration_s = max(0.0, duration_s)
        self._counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self._sum_s += duration_s

    def counts(self) -> LatencyCounts:
        """What was counted so far."""
        total = 0
        return LatencyCounts(tuple(total := total + count for count in self._counts), self._sum_s)
