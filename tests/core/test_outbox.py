"""What waits for Redis: a queue with numbers and two bounds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamer.core.entries import Batch, Entry
from streamer.core.kept import KeepBounds
from streamer.core.outbox import GoneBack, Outbox

sizes = st.integers(0, 40)


def entries(count: int, size: int = 1) -> list[Entry]:
    return [Entry(None, bytes([n]) * size) for n in range(count)]


def filled(count: int, size: int = 1, limit: int = 1000, limit_bytes: int = 1000) -> Outbox:
    outbox = Outbox(limit, limit_bytes)
    for entry in entries(count, size):
        assert outbox.put(entry)
    return outbox


class OutboxAgainstAList(RuleBasedStateMachine):
    """All entries that were ever taken in stand in a list, at their sequence number less one."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Entry] = []
        self.acknowledged = 0

    @initialize(limit=st.integers(1, 6), limit_bytes=st.integers(1, 100))
    def open(self, limit: int, limit_bytes: int) -> None:
        self.limit, self.limit_bytes = limit, limit_bytes
        self.outbox = Outbox(limit, limit_bytes)

    @property
    def waiting(self) -> list[Entry]:
        return self.taken[self.acknowledged :]

    @rule(size=sizes, job=st.sampled_from([None, "job"]))
    def put(self, size: int, job: str | None) -> None:
        entry = Entry(job, b"x" * size)
        bytes_then = sum(len(waiting.tail) for waiting in self.waiting) + size
        fits = len(self.waiting) < self.limit and bytes_then <= self.limit_bytes
        assert self.outbox.put(entry) is (fits or not self.waiting)
        if fits or not self.waiting:
            self.taken.append(entry)

    @rule(most=st.integers(1, 8), most_bytes=st.integers(1, 100))
    def look_at_a_batch(self, most: int, most_bytes: int) -> None:
        batch = self.outbox.batch(most, most_bytes)
        assert batch.first == self.acknowledged + 1
        assert batch.entries == self.waiting[: len(batch.entries)]
        assert batch.last == self.acknowledged + len(batch.entries)
        assert bool(batch.entries) == bool(self.waiting)
        assert len(batch.entries) <= most
        size = sum(len(entry.tail) for entry in batch.entries)
        assert size <= most_bytes or len(batch.entries) == 1
        if len(batch.entries) < min(most, len(self.waiting)):
            assert size + len(self.waiting[len(batch.entries)].tail) > most_bytes, "another would have fitted"

    @rule(last=st.integers(0, 50))
    def acknowledge(self, last: int) -> None:
        self.outbox.acknowledge(last)
        self.acknowledged = max(self.acknowledged, min(last, len(self.taken)))

    @invariant()
    def numbers_are_right(self) -> None:
        if self.taken:
            assert len(self.outbox) == len(self.waiting)
            assert self.outbox.acknowledged == self.acknowledged
            assert self.outbox.accepted == len(self.taken)


TestOutboxAgainstAList = OutboxAgainstAList.TestCase
TestOutboxAgainstAList.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_batch_stays_until_it_is_acknowledged() -> None:
    outbox = filled(3)
    assert outbox.batch(2, 100) == outbox.batch(2, 100) == Batch(1, entries(3)[:2], after=0)
    outbox.acknowledge(2)
    assert outbox.batch(2, 100) == Batch(3, entries(3)[2:], after=2)


def test_an_outbox_that_is_full_refuses_and_takes_again_once_some_are_acknowledged() -> None:
    outbox = filled(3, limit=3)
    assert not outbox.put(Entry(None, b""))
    assert (len(outbox), outbox.accepted) == (3, 3)
    outbox.acknowledge(1)
    assert outbox.put(Entry(None, b""))


def test_one_entry_fits_however_great_it_is() -> None:
    outbox = Outbox(1, 10)
    assert outbox.put(Entry(None, b"x" * 100))
    assert len(outbox.batch(10, 10).entries) == 1
    assert not outbox.put(Entry(None, b""))


def test_acknowledging_what_was_acknowledged_before_changes_nothing() -> None:
    outbox = filled(3)
    outbox.acknowledge(2)
    outbox.acknowledge(1)
    assert (outbox.acknowledged, len(outbox)) == (2, 1)


@given(last=st.integers(4, 100))
def test_acknowledging_more_than_there_is_leaves_an_empty_outbox_whose_numbers_go_on(last: int) -> None:
    outbox = filled(3)
    outbox.acknowledge(last)
    assert (len(outbox), outbox.acknowledged) == (0, 3)
    assert outbox.put(Entry(None, b"next"))
    assert outbox.batch(1, 100) == Batch(4, [Entry(None, b"next")], after=3)


def test_what_redis_has_lost_waits_again_before_what_is_new() -> None:
    outbox = Outbox(100, 1000, KeepBounds(100, 1000, 60))
    for entry in entries(5):
        outbox.put(entry)
    outbox.acknowledge(4)
    assert outbox.go_back(1) == GoneBack(resent=3, lost=0)
    assert outbox.batch(10, 100) == Batch(2, entries(5)[1:], after=1)
    assert (len(outbox), outbox.accepted, outbox.kept) == (4, 5, 1)


def test_what_is_no_longer_kept_is_counted_and_the_next_batch_begins_behind_it() -> None:
    outbox = Outbox(100, 1000, KeepBounds(2, 1000, 60))
    for entry in entries(6):
        outbox.put(entry)
    outbox.acknowledge(5)
    assert outbox.go_back(1) == GoneBack(resent=2, lost=2)
    assert outbox.batch(10, 100) == Batch(4, entries(6)[3:], after=1)
    outbox.acknowledge(6)
    assert outbox.batch(10, 100) == Batch(7, [], after=6)


def test_what_is_sent_again_may_exceed_the_bounds_and_nothing_else_fits_meanwhile() -> None:
    outbox = Outbox(2, 1000, KeepBounds(100, 1000, 60))
    for entry in entries(4):
        outbox.put(entry)
        outbox.acknowledge(outbox.accepted)
    assert outbox.go_back(0) == GoneBack(resent=4, lost=0)
    assert not outbox.put(Entry(None, b""))
    outbox.acknowledge(3)
    assert outbox.put(Entry(None, b""))


def test_entries_that_are_elsewhere_come_back_in_their_order() -> None:
    outbox = filled(2, limit=2)
    late = [Entry(None, b"late"), Entry(None, b"later"), Entry("job", b"last")]
    assert not outbox.fits(late[0])
    outbox.spill(len(late))
    outbox.acknowledge(1)
    assert not outbox.fits(late[0]), "it would overtake those that are elsewhere"
    assert (len(outbox), outbox.here, outbox.accepted, outbox.next_spilled) == (4, 1, 5, 3)
    outbox.refill(late)
    assert (len(outbox), outbox.here, outbox.spilled, outbox.next_spilled) == (4, 2, 2, 4)
    outbox.acknowledge(3)
    outbox.refill(late[1:])
    assert outbox.batch(9, 100) == Batch(4, late[1:], after=3)
    assert outbox.fits(Entry(None, b"")) is False
    outbox.acknowledge(5)
    assert outbox.put(Entry(None, b"next"))
    assert outbox.accepted == 6


def test_an_outbox_goes_on_with_the_numbers_of_another() -> None:
    outbox = Outbox(10, 100, first=8)
    assert (outbox.accepted, outbox.acknowledged) == (7, 7)
    outbox.put(Entry(None, b"x"))
    assert outbox.batch(1, 100) == Batch(8, [Entry(None, b"x")], after=7)


def test_a_writer_that_redis_has_forgotten_goes_on_and_sends_nothing_again() -> None:
    outbox = Outbox(10, 100, KeepBounds(10, 100, 60))
    for entry in entries(3):
        outbox.put(entry)
    outbox.acknowledge(2)
    outbox.forget_writer()
    assert outbox.batch(9, 100) == Batch(3, entries(3)[2:], after=0)
    assert outbox.kept == 0
