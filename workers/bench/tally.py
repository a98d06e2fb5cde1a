"""What a client got whose stream is wrong: which updates are missing, came twice, altered, or out of order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from workers.bench.content import View

MOST_NAMED = 5
"""So many of a kind are named, the rest counted."""


class Tally:
    """Takes what a client gets from its first fault on; before that it had the first ``count`` updates, in order."""

    def __init__(self, view: View, count: int) -> None:
        self._view, self._first = view, count
        self._seen: set[int] = set()
        self._highest = count - 1
        self._messages = count
        self._twice: list[int] = []
        self._late: list[tuple[int, int]] = []
        self._altered: list[str] = []

    def add(self, position: int) -> None:
        """Take an update which is as it was published."""
        self._messages += 1
        if position < self._first or position in self._seen:
            self._twice.append(position)
            return
        self._seen.add(position)
        if position < self._highest:
            self._late.append((position, self._highest))
        self._highest = max(self._highest, position)

    def add_altered(self, position: int | None, fault: str) -> None:
        """Take a message that is no update as published; with the position of the one that it seems to be."""
        self._messages += 1
        self._altered.append(fault)
        if position is not None and position >= self._first:
            self._seen.add(position)
            self._highest = max(self._highest, position)

    @property
    def count(self) -> int:
        """How many different updates came."""
        return self._first + len(self._seen)

    @property
    def done(self) -> bool:
        """Whether it is not worth waiting for more: all or the last one came, or as many messages as were due."""
        owed = self._view.owed
        return self.count >= owed or self._highest == owed - 1 or self._messages >= owed

    def sentences(self) -> Iterator[str]:
        """Say what is wrong, a kind of fault each, in words that follow on "client 7"."""
        number = self._view.number
        missing = [position for position in range(self._first, self._view.owed) if position not in self._seen]
        if missing:
            yield f"never got {_named(map(number, missing), len(missing))}"
        if self._twice:
            yield f"got twice {_named(map(number, self._twice), len(self._twice))}"
        if self._late:
            pairs = (f"{number(late)} behind {number(other)}" for late, other in self._late)
            yield f"got out of order {_named(pairs, len(self._late))}"
        if self._altered:
            yield f"got altered {_named(self._altered, len(self._altered), word='')}"


def _named(items: Iterable[object], count: int, word: str = "update") -> str:
    shown = ", ".join(str(item) for item, _ in zip(items, range(MOST_NAMED), strict=False))
    plural = "s" if word and count > 1 else ""
    more = f" and {count - MOST_NAMED:,} more" if count > MOST_NAMED else ""
    return f"{word}{plural} {shown}{more}".lstrip()
