"""What is published: every update follows from a seed and its number, so that whoever receives it can tell. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

STATUS = "benchmarking"


class Content(msgspec.Struct, frozen=True):
    """The updates of one run, numbered from 0, on a log of their own: an update's number is its index.

    ``size`` is the bytes of each one's padding. They belong to ``jobs`` jobs in turn, or to none where that is 0.
    """

    seed: int
    updates: int
    size: int
    jobs: int = 0

    def job(self, number: int) -> str | None:
        """The job that an update belongs to."""
        return f"job-{number % self.jobs}" if self.jobs else None

    def previous(self, number: int) -> int:
        """The index of the update before it in the same job, as the log must give it out."""
        return number - self.jobs if self.jobs and number >= self.jobs else -1

    def state(self, number: int, timestamp: int, sent_ns: int) -> dict[str, Any]:
        """An update's state. ``sent_ns`` is the monotonic clock's time, which all processes of a machine share."""
        pad = self._pad(number)
        state = {"n": number, "sent_ns": sent_ns, "pad": pad, "digest": self._digest(number, timestamp, sent_ns, pad)}
        if self.jobs:
            state["job"] = self.job(number)
        return state

    def fault(self, number: int, status: str, state: dict[str, Any], timestamp: int, previous: int) -> str | None:
        """Say what of an update is not as it was published; None where all is."""
        sent_ns = state.get("sent_ns")
        if not isinstance(sent_ns, int):
            return "its state has no sent_ns"
        due = self.state(number, timestamp, sent_ns)
        if status != STATUS:
            return f"its status is {status!r:.60}, not {STATUS!r}"
        if previous != self.previous(number):
            return f"its previous is {previous}, not {self.previous(number)}"
        if state.keys() != due.keys():
            return f"its state has the fields {', '.join(state)!r:.60}, not {', '.join(due)!r}"
        for name, value in due.items():
            if state[name] != value:
                what = "its timestamp, or its state's sent_ns or digest" if name == "digest" else f"its state's {name}"
                return f"{what} is not what was published"
        return None

    def _pad(self, number: int) -> str:
        block = hashlib.blake2b(b"%d:%d" % (self.seed, number), digest_size=32).hexdigest()
        return (block * (self.size // len(block) + 1))[: self.size]

    def _digest(self, number: int, timestamp: int, sent_ns: int, pad: str) -> str:
        text = f"{self.seed}:{number}:{timestamp}:{sent_ns}:{pad}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class View(msgspec.Struct, frozen=True):
    """What a topic must carry of it, in order: all updates, or those of the job of that number."""

    content: Content
    job: int | None = None

    @property
    def owed(self) -> int:
        """How many updates whoever watches the topic must get."""
        if self.job is None:
            return self.content.updates
        return len(range(self.job, self.content.updates, self.content.jobs))

    def number(self, position: int) -> int:
        """The number of the update at a position, counted from 0."""
        return position if self.job is None else self.job + position * self.content.jobs

    def position(self, number: int) -> int | None:
        """Where the update of that number stands; None if nowhere."""
        if not 0 <= number < self.content.updates:
            return None
        if self.job is None:
            return number
        position, rest = divmod(number - self.job, self.content.jobs)
        return None if rest else position
