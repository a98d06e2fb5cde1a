"""The recent records of a topic, as frames: what a feed holds and its watchers read.

The window is a run of the topic without a hole: everything after `start` up to `cursor`. Live records are *offered* at
its end and taken only where they continue the chain; pages read from the log are *extended* by, since the log is the
truth. Frames are kept in blocks, joined once, so that a thousand watchers who read history share the same bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple, Protocol

from streamer.core.cursor import START, Cursor
from streamer.core.records import Update

BLOCK_BYTES = 64 * 1024
"""A block is full from here on. It is also about what one write of history hands to a socket."""


class LogState(Protocol):
    """Says of which id and epoch the log was at a moment."""

    @property
    def log_id(self) -> str: ...
    @property
    def epoch(self) -> int: ...


class Outcome(Enum):
    """What became of a record offered to a window."""

    APPENDED = "it was the next one"
    DUPLICATE = "it was there already"
    GAP = "records before it are missing: read the log from the cursor"
    RESET = "it is of another log or a newer epoch: read the log from the cursor, which decides"


Encode = Callable[[bytes], bytes]
"""Turns a frame into one with the same message in another form. Called once a frame, however many ask for it."""


class Chunk(NamedTuple):
    """Frames joined for one write, and the index of the last of them."""

    data: bytes
    last: int


class _Joined:
    """Frames joined, once and then kept in place of the single ones. ``ends`` is where each ends."""

    __slots__ = ("_data", "_frames", "ends")

    def __init__(self) -> None:
        self.ends = array("q")
        self._data = b""
        self._frames: list[bytes] = []

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0

    def append(self, frame: bytes) -> None:
        self.ends.append(self.size + len(frame))
        self._frames.append(frame)

    def frame(self, position: int) -> bytes:
        return self._join()[self.ends[position - 1] if position else 0 : self.ends[position]]

    def behind(self, position: int) -> bytes:
        data = self._join()
        return data[self.ends[position - 1] :] if position else data

    def _join(self) -> bytes:
        if self._frames:
            self._data = b"".join((self._data, *self._frames))
            self._frames.clear()
        return self._data


class Block:
    """Consecutive frames, of up to about BLOCK_BYTES, and the same in other encodings once those were asked for."""

    __slots__ = ("_encoded", "_plain", "indexes")

    def __init__(self) -> None:
        self.indexes = array("q")
        self._plain = _Joined()
        self._encoded: dict[Encode, _Joined] = {}

    @property
    def last(self) -> int:
        """The index of the last frame."""
        return self.indexes[-1]

    @property
    def full(self) -> bool:
        """Whether the next frame is for another block."""
        return self._plain.size >= BLOCK_BYTES

    @property
    def size_bytes(self) -> int:
        """How much it holds, in all encodings."""
        return self._plain.size + sum(joined.size for joined in self._encoded.values())

    def append(self, index: int, frame: bytes) -> None:
        """Add a frame."""
        self.indexes.append(index)
        self._plain.append(frame)

    def after(self, index: int, encode: Encode | None) -> Chunk:
        """The frames behind an index. All who ask from the block's start on get the same bytes object."""
        position = bisect_right(self.indexes, index)
        return Chunk(self._in(encode).behind(position), self.last)

    def _in(self, encode: Encode | None) -> _Joined:
        if encode is None:
            return self._plain
        joined = self._encoded.setdefault(encode, _Joined())
        for position in range(len(joined.ends), len(self.indexes)):
            joined.append(encode(self._plain.frame(position)))
        return joined


def blocks_of(frames: Iterable[tuple[int, bytes]]) -> list[Block]:
    """Frames, each with its index, as blocks."""
    blocks: list[Block] = []
    for index, frame in frames:
        if not blocks or blocks[-1].full:
            blocks.append(Block())
        blocks[-1].append(index, frame)
    return blocks


class Window:
    """A run of a topic's records without a hole, in memory.

    Args:
        of_job: whether the topic is a job: then the chain is checked by ``previous``, else by ``index``.
        frame: makes the frame of an update, given the log's id; called once per record.

    ``cursor`` is the position of the last record, ``start`` the index behind which the first one stands. ``forgot``
    says whether the log may have records before that, which the window left to it or has dropped.
    """

    def __init__(self, *, of_job: bool, frame: Callable[[str, Update], bytes]) -> None:
        self._of_job = of_job
        self._frame = frame
        self._blocks: list[Block] = []
        self.cursor: Cursor = START
        self.start = -1
        self.forgot = False
        self.size_bytes = 0

    def knows(self, at: LogState) -> bool:
        """Whether what the log said when it was of that id and epoch still holds here."""
        return at.log_id == self.cursor.log_id and at.epoch >= self.cursor.epoch

    def check(self, log_id: str, update: Update) -> Outcome:
        """Say whether a live record is the next one. It has no effect."""
        mine = self.cursor
        if log_id != mine.log_id or update.epoch > mine.epoch:
            return Outcome.RESET
        if update.index <= mine.index or update.epoch < mine.epoch:
            return Outcome.DUPLICATE
        before = update.previous if self._of_job else update.index - 1
        return Outcome.GAP if before > mine.index else Outcome.APPENDED

    def offer(self, log_id: str, update: Update) -> tuple[Outcome, bytes]:
        """Take a live record if it is the next one; return the outcome and, if taken, the record's frame."""
        outcome = self.check(log_id, update)
        return outcome, self._append(update) if outcome is Outcome.APPENDED else b""

    def extend(self, updates: list[Update]) -> bytes:
        """Take records that the log says come next, and return their frames, joined."""
        return b"".join([self._append(update) for update in updates])

    def restart(self, log_id: str, epoch: int, index: int) -> None:
        """Forget everything and stand at a position of a log."""
        self._blocks.clear()
        self.cursor = Cursor(log_id, epoch, index)
        self.start = index
        self.forgot = False
        self.size_bytes = 0

    def begin(self, log_id: str) -> None:
        """Take note of the id of the log in which it stands."""
        self.cursor = Cursor(log_id, self.cursor.epoch, self.cursor.index)

    def move(self, epoch: int, index: int) -> None:
        """Stand at another index of the log, and leave to the log what comes before it."""
        self.restart(self.cursor.log_id, epoch, index)
        self.forgot = True

    def confirm(self, epoch: int) -> None:
        """Take note that nothing followed the last record when the log was in that epoch."""
        self.cursor = Cursor(self.cursor.log_id, epoch, self.cursor.index)

    def after(self, index: int, encode: Encode | None = None) -> Chunk | None:
        """The next frames behind an index, from the window's start at the earliest; None at the head.

        Whoever asks for what is before `start` must read it from the log.
        """
        if index >= self.cursor.index or not self._blocks:
            return None
        block = self._blocks[bisect_right(self._blocks, index, key=lambda block: block.last)]
        before = block.size_bytes
        chunk = block.after(index, encode)
        self.size_bytes += block.size_bytes - before
        return chunk

    def all_after(self, index: int, encode: Encode) -> bytes:
        """All frames behind an index, joined."""
        parts: list[bytes] = []
        while chunk := self.after(index, encode):
            parts.append(chunk.data)
            index = chunk.last
        return b"".join(parts)

    def before_last(self, count: int) -> int | None:
        """The index behind which the last ``count`` records stand, or None where the window has not so many."""
        if count <= 0:
            return self.cursor.index
        for block in reversed(self._blocks):
            if count < len(block.indexes):
                return block.indexes[-count - 1]
            count -= len(block.indexes)
            if not count:
                break
        if count:
            return self.start if self.start == -1 else None
        # The record before those stands at the end of the block before, or was the last one forgotten.
        position = self._blocks.index(block)
        return self._blocks[position - 1].last if position else self.start

    def forget_oldest(self) -> bool:
        """Drop the oldest block. Return whether there was any."""
        if not self._blocks:
            return False
        oldest = self._blocks.pop(0)
        self.start = oldest.last
        self.forgot = True
        self.size_bytes -= oldest.size_bytes
        return True

    def _append(self, update: Update) -> bytes:
        frame = self._frame(self.cursor.log_id, update)
        if not self._blocks or self._blocks[-1].full:
            self._blocks.append(Block())
        self._blocks[-1].append(update.index, frame)
        self.size_bytes += len(frame)
        self.cursor = Cursor(self.cursor.log_id, update.epoch, update.index)
        return frame
