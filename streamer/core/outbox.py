"""What a publisher has accepted and Redis has not yet acknowledged, and for a while what it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from streamer.core.entries import Batch, Entry
from streamer.core.kept import KeepBounds, Kept

KEEP_NOTHING = KeepBounds(0, 0, 0)


class GoneBack(NamedTuple):
    """What Redis has lost of the acknowledged entries: how many wait again, and how many are not here any more."""

    resent: int
    lost: int


class Outbox:
    """A queue of entries, numbered in the order of arrival, bounded by count and by bytes.

    The first has the number ``first``. Those that do not fit may be stored elsewhere: they are counted here
    (`spill`), and come back in their order (`refill`). It knows nothing of threads: whoever shares it holds a lock
    around every call. Times are those of one clock, in seconds.
    """

    def __init__(self, limit: int, limit_bytes: int, keep: KeepBounds = KEEP_NOTHING, first: int = 1) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._kept = Kept(keep)
        self.acknowledged = self._after = first - 1
        self.spilled = 0
        """How many of the newest entries are elsewhere alone."""

    def __len__(self) -> int:
        return len(self._entries) + self.spilled

    @property
    def accepted(self) -> int:
        """The sequence number of the newest entry ever put in."""
        return self.acknowledged + len(self._entries) + self.spilled

    @property
    def kept(self) -> int:
        """How many acknowledged entries can be appended again."""
        return len(self._kept)

    @property
    def here(self) -> int:
        """How many entries wait that are not elsewhere alone."""
        return len(self._entries)

    def fits(self, entry: Entry) -> bool:
        """Whether `put` would take it."""
        if not self._entries:
            return not self.spilled
        full = len(self._entries) >= self._limit or self._bytes + len(entry.tail) > self._limit_bytes
        return not (full or self.spilled)

    def put(self, entry: Entry) -> bool:
        """Take an entry in; False, and nothing changed, where the outbox is at a bound. One entry always fits."""
        # The same as `fits`, without a call: this is on the way of each update.
        size = len(entry.tail)
        if self._entries and (len(self._entries) >= self._limit or self._bytes + size > self._limit_bytes):
            return False
        if self.spilled:
            return False
        self._entries.append(entry)
        self._bytes += size
        return True

    def spill(self, count: int = 1) -> None:
        """Count in what was stored elsewhere; all that follows must be, too, until `refill` has brought it."""
        self.spilled += count

    @property
    def here_bytes(self) -> int:
        """How many bytes of updates those are."""
        return self._bytes

    @property
    def next_spilled(self) -> int:
        """The sequence number of the oldest entry that is elsewhere alone."""
        return self.acknowledged + len(self._entries) + 1

    def refill(self, entries: Iterable[Entry]) -> None:
        """Take in what was stored elsewhere, from `next_spilled` on without a hole, as much of it as fits."""
        spilled, self.spilled = self.spilled, 0
        for entry in entries:
            if not spilled or not self.put(entry):
                break
            spilled -= 1
        self.spilled = spilled

    def batch(self, most: int, most_bytes: int) -> Batch:
        """The oldest entries, at least one if any is here; they stay until acknowledged."""
        entries: list[Entry] = []
        size = 0
        for entry in islice(self._entries, most):
            size += len(entry.tail)
            if entries and size > most_bytes:
                break
            entries.append(entry)
        return Batch(self.acknowledged + 1, entries, self._after)

    def acknowledge(self, last: int, now: float = 0.0) -> None:
        """Let the entries up to a sequence number wait no more; keep them for a while."""
        count = min(last - self.acknowledged, len(self._entries))
        entries = [self._entries.popleft() for _ in range(count)]
        self._bytes -= sum(len(entry.tail) for entry in entries)
        self.acknowledged += len(entries)
        self._after = self.acknowledged
        self._kept.add(entries, now)

    def keep(self, entries: list[Entry], now: float) -> None:
        """Keep what was acknowledged before, up to the first."""
        self._kept.add(entries, now)

    def go_back(self, seen: int) -> GoneBack:
        """Have the acknowledged entries behind ``seen`` wait again, since Redis has none of them.

        What is no longer kept of them is lost: the next batch begins behind it.
        """
        missing = max(0, self.acknowledged - seen)
        entries = self._kept.take_back(missing)
        self._entries.extendleft(reversed(entries))
        self._bytes += sum(len(entry.tail) for entry in entries)
        self.acknowledged -= len(entries)
        self._after = seen
        return GoneBack(len(entries), missing - len(entries))

    def forget_writer(self) -> None:
        """Keep nothing, and expect nothing of Redis: it has forgotten the writer, whose entries it may still have."""
        self._kept.clear()
        self._after = 0
