"""How fast somebody may go on: a bucket of tokens, and a second one of patience."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What is to be done with one more."""

    TAKE = "it is within the rate"
    REFUSE = "it is too fast"
    GIVE_UP = "it has been too fast for too long"


class Rate:
    """So many a second, and ``burst`` at once.

    Who goes on too fast gets into debt, for what is refused counts, too; with a debt as great as the burst it is too
    much. Times are in seconds, by any clock that does not go back.
    """

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._level, self._at = burst, now

    def take(self, now: float) -> Verdict:
        """Count one more."""
        self._level = min(self._burst, self._level + (now - self._at) * self._per_s) - 1
        self._at = now
        if self._level >= 0:
            return Verdict.TAKE
        return Verdict.REFUSE if self._level > -self._burst else Verdict.GIVE_UP
