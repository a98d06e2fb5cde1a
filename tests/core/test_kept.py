"""What is kept of the acknowledged updates: the newest, within three bounds."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamer.core.entries import Entry
from streamer.core.kept import KeepBounds, Kept


class KeptAgainstAList(RuleBasedStateMachine):
    """All that is kept stands in a list, with the time when it came."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.model: list[tuple[float, Entry]] = []

    @initialize(records=st.integers(0, 6), bytes=st.integers(0, 60), seconds=st.integers(0, 10))
    def open(self, records: int, bytes: int, seconds: int) -> None:
        self.bounds = KeepBounds(records, bytes, seconds)
        self.kept = Kept(self.bounds)

    @rule(sizes=st.lists(st.integers(0, 20), max_size=4), later=st.integers(0, 6))
    def add(self, sizes: list[int], later: int) -> None:
        self.now += later
        entries = []
        for size in sizes:
            self.number += 1
            entries.append(Entry(str(self.number), b"x" * size))
        self.kept.add(entries, self.now)
        self.model += [(self.now, entry) for entry in entries]
        self.model = [(at, entry) for at, entry in self.model if at >= self.now - self.bounds.seconds]
        while len(self.model) > self.bounds.records or self.bytes > self.bounds.bytes:
            del self.model[0]

    @rule(count=st.integers(0, 8))
    def take_back(self, count: int) -> None:
        count = min(count, len(self.model))
        rest = len(self.model) - count
        assert self.kept.take_back(count) == [entry for _, entry in self.model[rest:]]
        del self.model[rest:]

    @rule()
    def clear(self) -> None:
        self.kept.clear()
        self.model.clear()

    @property
    def bytes(self) -> int:
        return sum(len(entry.tail) for _, entry in self.model)

    @invariant()
    def as_many(self) -> None:
        if self.number:
            assert len(self.kept) == len(self.model)


TestKeptAgainstAList = KeptAgainstAList.TestCase
TestKeptAgainstAList.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_time_counts_only_when_something_is_acknowledged() -> None:
    """Else an outage that is longer than the time would drop what the next master may lack."""
    kept = Kept(KeepBounds(10, 100, 60))
    kept.add([Entry(None, b"a")], now=0)
    assert len(kept) == 1
    kept.add([Entry(None, b"b")], now=1000)
    assert kept.take_back(9) == [Entry(None, b"b")]
