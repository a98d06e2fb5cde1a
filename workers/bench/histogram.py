"""Many durations in little memory, exact to within two percent. Pure."""

from __future__ import annotations

import msgspec

_STEPS = 32
"""Buckets for each doubling."""


class Histogram(msgspec.Struct):
    """Counts of durations in ns, by bucket, and the greatest. It can be sent and merged."""

    counts: dict[int, int] = msgspec.field(default_factory=dict)
    greatest_ns: int = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Take a duration, so many times."""
        bucket = _bucket(duration_ns)
        self.counts[bucket] = self.counts.get(bucket, 0) + times
        if duration_ns > self.greatest_ns:
            self.greatest_ns = duration_ns

    def merge(self, other: Histogram) -> None:
        """Take what another one has."""
        for bucket, times in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + times
        self.greatest_ns = max(self.greatest_ns, other.greatest_ns)

    def quantile_ns(self, part: float) -> float | None:
        """The duration that this part of all do not exceed, as 0.99; None where there are none."""
        rank = part * sum(self.counts.values())
        for bucket, times in sorted(self.counts.items()):
            rank -= times
            if rank <= 0:
                return min(_middle_ns(bucket), self.greatest_ns)
        return None


def _bucket(duration_ns: int) -> int:
    shift = max(0, duration_ns.bit_length() - _STEPS.bit_length())
    return shift * _STEPS + (max(0, duration_ns) >> shift)


def _middle_ns(bucket: int) -> float:
    if bucket < 2 * _STEPS:
        return bucket
    shift, step = divmod(bucket, _STEPS)
    return (step + _STEPS + 0.5) * (1 << shift - 1)
