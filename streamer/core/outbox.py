"""What a publisher has accepted and Redis has not yet acknowledged."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple


class Entry(NamedTuple):
    """An update on its way: the job it belongs to, and its packed tail (see records)."""

    job: str | None
    tail: bytes


class Batch(NamedTuple):
    """Entries to append together; the first has the sequence number ``first``, the others follow without a hole."""

    first: int
    entries: list[Entry]

    @property
    def last(self) -> int:
        """The sequence number of the last entry."""
        return self.first + len(self.entries) - 1


class Outbox:
    """A queue of entries, numbered from 1 in the order of arrival, bounded by count and by bytes.

    It knows nothing of threads: whoever shares it holds a lock around every call.
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self.acknowledged = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def accepted(self) -> int:
        """The sequence number of the newest entry ever put in."""
        return self.acknowledged + len(self._entries)

    def put(self, entry: Entry) -> bool:
        """Take an entry in; False, and nothing changed, where the outbox is at a bound. One entry always fits."""
        size = len(entry.tail)
        if self._entries and (len(self._entries) >= self._limit or self._bytes + size > self._limit_bytes):
            return False
        self._entries.append(entry)
        self._bytes += size
        return True

    def batch(self, most: int, most_bytes: int) -> Batch:
        """The oldest entries, at least one if there is any; they stay until acknowledged."""
        entries: list[Entry] = []
        size = 0
        for entry in islice(self._entries, most):
            size += len(entry.tail)
            if entries and size > most_bytes:
                break
            entries.append(entry)
        return Batch(self.acknowledged + 1, entries)

    def acknowledge(self, last: int) -> None:
        """Drop the entries up to a sequence number."""
        while self.acknowledged < last and self._entries:
            self._bytes -= len(self._entries.popleft().tail)
            self.acknowledged += 1
