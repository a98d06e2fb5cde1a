"""What a publisher keeps of the updates that Redis has acknowledged, should a failover lose them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from streamer.core.entries import Entry


class KeepBounds(NamedTuple):
    """How many entries are kept at the most, of how many bytes, and for how many seconds."""

    records: int
    bytes: int
    seconds: float


class Kept:
    """The last acknowledged entries, within bounds. Whoever shares it holds a lock around every call."""

    def __init__(self, bounds: KeepBounds) -> None:
        self._bounds = bounds
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        # How many entries were ever dropped, and, by the time they came, the number of the last that came then.
        self._dropped = 0
        self._arrivals: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: list[Entry], now: float) -> None:
        """Keep what was acknowledged at the time ``now``, and of all that is kept only what the bounds allow."""
        self._entries.extend(entries)
        self._bytes += sum(len(entry.tail) for entry in entries)
        if entries:
            self._arrivals.append((now, self._newest))
        while self._arrivals and self._arrivals[0][0] < now - self._bounds.seconds:
            _, last = self._arrivals.popleft()
            self._drop(last - self._dropped)
        self._drop(len(self._entries) - self._bounds.records)
        while self._bytes > self._bounds.bytes:
            self._drop(1)

    def take_back(self, count: int) -> list[Entry]:
        """Remove the newest ``count`` entries, or all where there are fewer; return them, oldest first."""
        count = min(count, len(self._entries))
        entries = [self._entries.pop() for _ in range(count)]
        entries.reverse()
        self._bytes -= sum(len(entry.tail) for entry in entries)
        while self._arrivals and self._arrivals[-1][1] > self._newest:
            at, _ = self._arrivals.pop()
            if not self._arrivals or self._arrivals[-1][1] < self._newest:
                self._arrivals.append((at, self._newest))
        return entries

    def clear(self) -> None:
        """Keep nothing."""
        self._drop(len(self._entries))

    @property
    def _newest(self) -> int:
        return self._dropped + len(self._entries)

    def _drop(self, count: int) -> None:
        for _ in range(min(count, len(self._entries))):
            self._bytes -= len(self._entries.popleft().tail)
            self._dropped += 1
        while self._arrivals and self._arrivals[0][1] <= self._dropped:
            self._arrivals.popleft()
