"""The times in which something that should work did not."""

from __future__ import annotations


class Outages:
    """Counts outages and their length. What never worked yet is starting, which is no outage.

    Times are those of one clock, in seconds. For one thread.
    """

    def __init__(self) -> None:
        self.count = 0
        self._worked = False
        self._began: float | None = None
        self._ended_s = 0.0

    def look(self, working: bool, now: float) -> None:
        """Take note of whether it works at a time."""
        if working:
            if self._began is not None:
                self._ended_s += now - self._began
                self._began = None
            self._worked = True
        elif self._worked and self._began is None:
            self.count += 1
            self._began = now

    def seconds(self, now: float) -> float:
        """How long all of them took together, with the one that lasts."""
        return self._ended_s + (0.0 if self._began is None else now - self._began)
