"""What a watcher of a topic has, held to the promise: every update once and in order, come what may. Pure.

Theory of operation: within an epoch each update follows the one that the watcher had before, without a hole. A new
epoch may begin further back, where the master that it began on had lost the tail of the log: what the watcher had of
that tail is then replaced by what comes. What it has in the end must be the log's view of the topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

MOST_NAMED = 5
"""So many of a kind are named, the rest counted."""

Name = TypeVar("Name")


class Seen(msgspec.Struct, Generic[Name], frozen=True):
    """An update as it came: its place in the log, the index of the one before it in the topic, and which it is."""

    epoch: int
    index: int
    before: int
    name: Name

    def __str__(self) -> str:
        return f"update {self.index} of epoch {self.epoch} ({self.name})"


class Course(Generic[Name]):
    """What one watcher was given, in order. ``replaced`` counts the updates whose place a new epoch gave to others."""

    def __init__(self) -> None:
        self.view: list[Seen[Name]] = []
        self.faults: list[str] = []
        self.replaced = 0

    @property
    def last(self) -> Seen[Name] | None:
        """The update that came last."""
        return self.view[-1] if self.view else None

    def take(self, seen: Seen[Name]) -> None:
        """Take the next update that came."""
        last = self.last
        if last is not None and seen.epoch < last.epoch:
            self.faults.append(f"got {seen} after {last}, which is of a later epoch")
            return
        if last is not None and seen.epoch > last.epoch:
            self._step_back(seen)
            last = self.last
        have = -1 if last is None else last.index
        if seen.index <= have:
            self.faults.append(f"got {seen} twice, or out of order, after {last}")
            return
        if seen.before != have:
            self.faults.append(f"got {seen}, which follows update {seen.before}, after {last or 'nothing'}: a hole")
        self.view.append(seen)

    def against(self, log: Sequence[Seen[Name]], *, to_the_end: bool = True) -> list[str]:
        """Say what is wrong, in words that follow on "client 7", given what the log has of the topic.

        Whoever left before ``to_the_end`` may lack the rest, and may have had a tail that was lost since.
        """
        same = _common(self.view, log)
        extra, missing = self.view[same:], log[same:]
        if not to_the_end and (not extra or not missing or extra[-1].epoch < missing[0].epoch):
            return self.faults
        names = {seen.name for seen in self.view}
        wanted = {seen.name for seen in log}
        faults = list(self.faults)
        if lost := [seen for seen in missing if seen.name not in names]:
            faults.append(f"never got {listed(lost)}")
        if alien := [seen for seen in extra if seen.name not in wanted]:
            faults.append(f"got what the log does not have: {listed(alien)}")
        if (extra or missing) and not (lost or alien):
            faults.append(f"got {listed(extra)} where the log has {listed(missing)}")
        return faults

    def _step_back(self, seen: Seen[Name]) -> None:
        while self.view and self.view[-1].index > seen.before:
            self.view.pop()
            self.replaced += 1


def _common(view: Sequence[Seen[Name]], log: Sequence[Seen[Name]]) -> int:
    """How many updates are the same from the beginning on."""
    pairs = zip(view, log, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(view), len(log)))


def listed(items: Sequence[object]) -> str:
    """Name the first of them, and count the rest."""
    more = f" and {len(items) - MOST_NAMED:,} more" if len(items) > MOST_NAMED else ""
    return ", ".join(map(str, items[:MOST_NAMED])) + more if items else "nothing"
