"""The window against a plain list: what it holds, what it hands out, and what it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamer.core import window as window_module
from streamer.core.cursor import START, Cursor
from streamer.core.records import Update
from streamer.core.window import Chunk, Outcome, Window

LOG = "ab12"
BLOCK = 40
"""Blocks so small that a few records fill one."""


def update(index: int, previous: int | None = None, epoch: int = 1, size: int = 0) -> Update:
    before = index - 1 if previous is None else previous
    return Update(epoch, index, before, 0, "x" * size, {})


def frame(log_id: str, update: Update) -> bytes:
    """A frame that says which record it is, as long as the record's status wants it."""
    return f"<{log_id}.{update.epoch}.{update.index}{'-' * len(update.status)}>".encode()


@dataclass(frozen=True)
class Listed:
    """Records in another form: backwards, in a list that says how many they are and where it ends."""

    mark: str = ""

    def piece(self, frame: bytes) -> bytes:
        return frame[::-1]

    def join(self, pieces: bytes, count: int, last: Cursor) -> bytes:
        return b"[%d%b%b]" % (count, pieces, last.token.encode())


def lists(data: bytes) -> list[tuple[int, bytes, str]]:
    """What lists one behind another say: how many records, these as plain frames, and the last one's cursor."""
    found = re.findall(rb"\[(\d+)((?:>[^<>]*<)+)([^\]<>]+)\]", data)
    assert b"".join(b"[%b%b%b]" % parts for parts in found) == data
    return [
        (int(count), b"".join(one[::-1] for one in re.findall(rb">[^<>]*<", pieces)), last.decode())
        for count, pieces, last in found
    ]


def make(*indexes: int, of_job: bool = False, epoch: int = 1) -> Window:
    """A window that stands behind records of these indexes."""
    window = Window(of_job=of_job, frame=frame)
    window.restart(LOG, epoch, -1)
    previous = -1
    for index in indexes:
        window.extend([update(index, previous, epoch)])
        previous = index
    return window


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "BLOCK_BYTES", BLOCK)


def chunks(window: Window, index: int) -> Iterator[Chunk]:
    while (chunk := window.after(index)) is not None:
        yield chunk
        index = chunk.last


def frames(*indexes: int, epoch: int = 1) -> bytes:
    return b"".join(frame(LOG, update(index, epoch=epoch)) for index in indexes)


class WindowAgainstAList(RuleBasedStateMachine):
    """``held`` is what the window has, in order; ``start`` the index behind which it begins."""

    def __init__(self) -> None:
        super().__init__()
        self.normal_size = window_module.BLOCK_BYTES
        window_module.BLOCK_BYTES = BLOCK

    def teardown(self) -> None:
        window_module.BLOCK_BYTES = self.normal_size

    @initialize(of_job=st.booleans(), start=st.sampled_from([-1, 7]))
    def open(self, of_job: bool, start: int) -> None:
        self.of_job = of_job
        self.window = Window(of_job=of_job, frame=frame)
        self._restart(start)

    def _restart(self, start: int) -> None:
        self.epoch = 1
        self.window.restart(LOG, self.epoch, start)
        self.held: list[Update] = []
        self.start = self.head = start

    def _next(self, skipped: int, size: int) -> Update:
        index = self.head + 1 + (skipped if self.of_job else 0)
        return update(index, self.head if self.of_job else index - 1, self.epoch, size)

    @rule(sizes=st.lists(st.integers(0, 50), max_size=4), skipped=st.integers(0, 3))
    def extend(self, sizes: list[int], skipped: int) -> None:
        page = []
        for size in sizes:
            page.append(self._next(skipped, size))
            self.head = page[-1].index
        assert self.window.extend(page) == b"".join(frame(LOG, one) for one in page)
        self.held += page

    @rule(size=st.integers(0, 50), skipped=st.integers(0, 3))
    def offer_the_next(self, size: int, skipped: int) -> None:
        following = self._next(skipped, size)
        assert self.window.offer(LOG, following) == (Outcome.APPENDED, frame(LOG, following))
        self.held.append(following)
        self.head = following.index

    @rule(back=st.integers(0, 5))
    def offer_an_old_one(self, back: int) -> None:
        old = update(max(0, self.head - back), epoch=self.epoch)
        if old.index <= self.head:
            assert self.window.offer(LOG, old) == (Outcome.DUPLICATE, b"")

    @rule(ahead=st.integers(1, 5))
    def offer_one_too_far(self, ahead: int) -> None:
        index = self.head + 1 + ahead
        assert self.window.offer(LOG, update(index, index - 1, self.epoch)) == (Outcome.GAP, b"")

    @rule(back=st.integers(0, 12))
    def move_back(self, back: int) -> None:
        following = update(self.head + 1, self.head, self.epoch)
        self.epoch += 1
        self.start = self.head = max(-1, self.head - back)
        self.window.move(self.epoch, self.head)
        self.held = []
        if following.index > self.head:
            assert self.window.check(LOG, following) is Outcome.DUPLICATE, "it is of an epoch that was left"

    @rule()
    def confirm_a_newer_epoch(self) -> None:
        self.epoch += 1
        self.window.confirm(self.epoch)

    @rule(start=st.integers(-1, 20))
    def restart(self, start: int) -> None:
        self._restart(start)

    @rule()
    def forget_oldest(self) -> None:
        self._forgotten()
        held = bool(self.held)
        assert self.window.forget_oldest() is held
        assert (self._forgotten() > 0) is held
        assert self.window.forgot or not held

    def _forgotten(self) -> int:
        """Follow the window in what it has forgotten; return how many records that were."""
        forgotten = [one for one in self.held if one.index <= self.window.start]
        if forgotten:
            del self.held[: len(forgotten)]
            self.start = forgotten[-1].index
        return len(forgotten)

    @invariant()
    def it_is_as_the_list_is(self) -> None:
        self._forgotten()
        self._holds_what_the_list_holds()
        self._hands_out_from_every_index_all_that_follows_in_order()
        self._knows_where_the_last_so_many_begin()

    def _holds_what_the_list_holds(self) -> None:
        window = self.window
        assert (window.start, window.cursor.index, window.cursor.log_id) == (self.start, self.head, LOG)
        assert window.size_bytes == sum(block.size_bytes for block in window._blocks)
        assert sum(block._plain.size for block in window._blocks) == sum(len(frame(LOG, one)) for one in self.held)

    def _hands_out_from_every_index_all_that_follows_in_order(self) -> None:
        for index in range(self.start, self.head + 2):
            following = [one for one in self.held if one.index > index]
            data = b""
            for chunk in chunks(self.window, index):
                data += chunk.data
                expected = b"".join(frame(LOG, one) for one in following if one.index <= chunk.last)
                assert data == expected, "a chunk ends with its last record"
            assert data == b"".join(frame(LOG, one) for one in following)
            listed = lists(self.window.all_after(index, Listed()))
            assert b"".join(frames for _, frames, _ in listed) == data
            assert sum(count for count, _, _ in listed) == len(following)
            if listed:
                assert listed[-1][2] == following[-1].cursor(LOG).token, "a list ends with its last record's cursor"

    def _knows_where_the_last_so_many_begin(self) -> None:
        for count in range(len(self.held) + 2):
            before = self.window.before_last(count)
            if count > len(self.held):
                assert before == (-1 if self.start == -1 else None)
            else:
                assert len([one for one in self.held if before is not None and one.index > before]) == count

    @precondition(lambda self: self.held)
    @rule()
    def read_the_start_twice(self) -> None:
        first, second = self.window.after(self.start), self.window.after(self.start)
        assert first is not None
        assert second is not None
        assert first.data is second.data or len(self.window._blocks) == 1, "those who join share the bytes"


TestWindowAgainstAList = WindowAgainstAList.TestCase
TestWindowAgainstAList.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize(
    ("index", "epoch", "outcome"),
    [
        (5, 2, Outcome.APPENDED),
        (4, 2, Outcome.DUPLICATE),
        (0, 2, Outcome.DUPLICATE),
        (6, 2, Outcome.GAP),
        (3, 3, Outcome.RESET),
        (5, 3, Outcome.RESET),
        (9, 3, Outcome.RESET),
        # What a master that is none any more may still publish.
        (4, 1, Outcome.DUPLICATE),
        (5, 1, Outcome.DUPLICATE),
        (9, 1, Outcome.DUPLICATE),
    ],
)
def test_of_a_node_that_stands_at_4_in_epoch_2(index: int, epoch: int, outcome: Outcome) -> None:
    check_and_offer(make(*range(5), epoch=2), update(index, epoch=epoch), outcome)


@pytest.mark.parametrize(
    ("index", "previous", "epoch", "outcome"),
    [
        (5, 4, 2, Outcome.APPENDED),
        (9, 4, 2, Outcome.APPENDED),
        (9, -1, 2, Outcome.APPENDED),  # the job's list has expired meanwhile
        (9, 8, 2, Outcome.GAP),
        (9, 5, 2, Outcome.GAP),
        (4, 2, 2, Outcome.DUPLICATE),
        (3, 2, 2, Outcome.DUPLICATE),
        (9, 4, 3, Outcome.RESET),
        (9, 4, 1, Outcome.DUPLICATE),
    ],
)
def test_of_a_job_that_stands_at_4_in_epoch_2(index: int, previous: int, epoch: int, outcome: Outcome) -> None:
    check_and_offer(make(0, 2, 4, of_job=True, epoch=2), update(index, previous, epoch), outcome)


def check_and_offer(window: Window, offered: Update, outcome: Outcome) -> None:
    before = window.cursor
    assert window.check(LOG, offered) is outcome
    assert window.cursor == before, "a check has no effect"
    taken = frame(LOG, offered) if outcome is Outcome.APPENDED else b""
    assert window.offer(LOG, offered) == (outcome, taken)
    assert window.cursor == (Cursor(LOG, 2, offered.index) if taken else before)


def test_a_record_of_another_log_is_a_reset_whatever_its_index() -> None:
    window = make(0, 1)
    for index in (0, 1, 2, 3):
        assert window.offer("other", update(index)) == (Outcome.RESET, b"")


@given(index=st.integers(0, 5), epoch=st.integers(1, 3))
def test_a_window_that_knows_no_log_takes_nothing_live(index: int, epoch: int) -> None:
    window = Window(of_job=False, frame=frame)
    assert window.cursor == START
    assert window.offer(LOG, update(index, epoch=epoch)) == (Outcome.RESET, b"")
    assert window.after(-1) is None


def test_a_frame_is_made_once_however_often_it_is_read() -> None:
    made: list[int] = []

    def count(log_id: str, update: Update) -> bytes:
        made.append(update.index)
        return frame(log_id, update)

    window = Window(of_job=False, frame=count)
    window.restart(LOG, 1, -1)
    window.extend([update(0), update(1)])
    window.offer(LOG, update(2))
    for _ in range(3):
        list(chunks(window, -1))
    assert made == [0, 1, 2]


@pytest.mark.parametrize("last", range(-1, 5))
def test_what_came_after_others_were_read_follows_them(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_module, "BLOCK_BYTES", 10_000)
    window = make(0, 1, 2)
    assert window.after(-1) == Chunk(frames(0, 1, 2), 2)
    window.extend([update(3), update(4)])
    assert window.after(last) == (Chunk(frames(*range(last + 1, 5)), 4) if last < 4 else None)
    assert lists(window.all_after(1, Listed())) == [(3, frames(2, 3, 4), f"{LOG}.1.4")]


def test_a_run_of_records_is_joined_once_for_all_whose_encodings_are_equal() -> None:
    window = make(*range(20))
    for index in (-1, window._blocks[0].last, 17):
        one, same, other = (window.after(index, Listed(mark)) for mark in ("a", "a", "b"))
        assert one is not None
        assert same is not None
        assert one.data is same.data
        assert one == other
    window.extend([update(20)])
    assert lists(window.all_after(17, Listed("a")))[-1][2] == f"{LOG}.1.20"


def test_what_was_forgotten_is_left_out_of_what_follows_an_index_before_it() -> None:
    window = make(*range(20))
    assert window.forget_oldest()
    assert window.start > 0
    data = b"".join(chunk.data for chunk in chunks(window, -1))
    assert data == frames(*range(window.start + 1, 20))


def test_a_window_may_be_made_to_forget_all_and_goes_on_from_its_head() -> None:
    window = make(0, 1, 2)
    while window.forget_oldest():
        pass
    assert (window.start, window.cursor.index, window.size_bytes) == (2, 2, 0)
    assert window.after(-1) is None
    assert window.offer(LOG, update(3))[0] is Outcome.APPENDED
    assert window.after(2) == Chunk(frames(3), 3)


def test_a_window_knows_whether_it_has_forgotten_anything_since_its_start() -> None:
    window = make(0, 1, 2)
    assert not window.forgot
    window.move(2, 1)
    assert window.forgot
    window.restart(LOG, 2, 1)
    assert not window.forgot


def test_moving_back_leaves_all_that_came_before_to_the_log() -> None:
    window = make(*range(12))
    window.move(2, 6)
    assert (window.cursor, window.start, window.size_bytes) == (Cursor(LOG, 2, 6), 6, 0)
    assert window.after(-1) is None
    assert window.before_last(1) is None
    window.extend([update(7, epoch=2)])
    assert window.after(6) == Chunk(frames(7, epoch=2), 7)
