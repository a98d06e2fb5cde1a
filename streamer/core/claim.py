"""A claim on a node, as the process that holds it sees it: when to renew it, and when it must not be renewed."""

from __future__ import annotations


class Claim:
    """A holder's claim: its number, 0 before it is granted, and a lease, which Redis lets run out unless it is renewed.

    A claim whose lease ran out while Redis could not be reached may be renewed, if nobody came between: Redis tells.
    Not so one whose process stood still meanwhile, for it cannot know what was decided about it. Times are those of
    one clock, in seconds, that goes on while a process is stopped.
    """

    def __init__(self, holder: str, lease_s: float, now: float) -> None:
        self.holder, self.lease_s = holder, lease_s
        self.number = 0
        self.paused = False
        """Whether its process stood still for longer than the lease, since it was granted."""
        self._granted_at = self._stirred = self._due = now
        self._failed = False

    @property
    def interval_s(self) -> float:
        """How often it is renewed: so that one try may fail."""
        return self.lease_s / 3

    def stir(self, now: float) -> None:
        """Take note that the process is at work. To be called wherever that may have ended for long."""
        slept = now - self._stirred > self.lease_s
        # It could have been renewed in time, and was not, though Redis was there.
        missed = now - self._granted_at > self.lease_s and not self._failed
        if self.number and (slept or missed):
            self.paused = True
        self._stirred = now

    def fail(self) -> None:
        """Take note that Redis could not be reached."""
        self._failed = True

    def granted(self, number: int, asked_at: float) -> None:
        """It was claimed, or renewed, by a question asked at that time."""
        self.number, self._granted_at, self._due = number, asked_at, asked_at + self.interval_s
        self._failed = False

    def expired(self) -> None:
        """Redis says that it is over: it is to be renewed at once."""
        self._due = 0.0

    def due_in_s(self, now: float) -> float:
        """In how many seconds it is to be renewed, or claimed."""
        return max(0.0, self._due - now)
