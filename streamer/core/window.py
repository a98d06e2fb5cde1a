"""The recent records of a topic, as frames: what a feed holds and its watchers read.

The window is a run of the topic without a hole: everything after `start` up to `cursor`. Live records are *offered* at
its end and taken only where they continue the chain; pages read from the log are *extended* by, since the log is the
truth. Frames are kept in blocks, joined once, so that a thousand watchers who read history share the same bytes; so is
what an encoding makes of them for those who are written something else than plain frames.
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


class Encoding(Protocol):
    """A form in which records are written that is not plain frames. Those that are equal share what is made."""

    def __hash__(self) -> int: ...

    def piece(self, frame: bytes) -> bytes:
        """What a record is in this form, made from its plain frame. Called once a record, however many ask for it."""

    def join(self, pieces: bytes, count: int, last: Cursor) -> bytes:
        """The bytes to write of so many records, whose pieces stand one behind another. ``last`` is the last's."""


class Chunk(NamedTuple):
    """Records joined for one write, and the index of the last of them."""

    data: bytes
    last: int


class _Joined:
    """Pieces joined, once and then kept in place of the single ones. ``ends`` is where each ends."""

    __slots__ = ("_data", "_pieces", "ends")

    def __init__(self) -> None:
        self.ends = array("q")
        self._data = b""
        self._pieces: list[bytes] = []

    @property
    def size(self) -> int:
        return self.ends[-1] if self.ends else 0

    def append(self, piece: bytes) -> None:
        self.ends.append(self.size + len(piece))
        self._pieces.append(piece)

    def piece(self, position: int) -> bytes:
        joined = len(self.ends) - len(self._pieces)
        if position >= joined:
            return self._pieces[position - joined]
        return self._data[self.ends[position - 1] if position else 0 : self.ends[position]]

    def behind(self, position: int) -> bytes:
        joined = len(self.ends) - len(self._pieces)
        if 0 < joined <= position:
            # What is new on a live topic, for which the rest of the block need not be copied each time.
            return b"".join(self._pieces[position - joined :])
        data = self._join()
        return data[self.ends[position - 1] :] if position else data

    def _join(self) -> bytes:
        if self._pieces:
            self._data = b"".join((self._data, *self._pieces))
            self._pieces.clear()
        return self._data


class _Encoded:
    """A block's records in an encoding, and the last run of them that somebody asked for, as it is written."""

    __slots__ = ("_asked", "_encoding", "_run", "pieces")

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self.pieces = _Joined()
        self._asked = (-1, -1)
        self._run = b""

    @property
    def size(self) -> int:
        return self.pieces.size + len(self._run)

    def take(self, plain: _Joined) -> None:
        for position in range(len(self.pieces.ends), len(plain.ends)):
            self.pieces.append(self._encoding.piece(plain.piece(position)))

    def behind(self, position: int, last: Cursor) -> bytes:
        count = len(self.pieces.ends) - position
        if self._asked == (position, count):
            return self._run
        pieces = self.pieces.behind(position)
        run = self._encoding.join(pieces, count, last)
        if run is not pieces:
            self._asked, self._run = (position, count), run
        return run


class Block:
    """Consecutive frames, of up to about BLOCK_BYTES, and the same in encodings that were asked for.

    ``cursor`` is the position of the last record.
    """

    __slots__ = ("_encoded", "_plain", "cursor", "indexes")

    def __init__(self) -> None:
        self.indexes = array("q")
        self.cursor = START
        self._plain = _Joined()
        self._encoded: dict[Encoding, _Encoded] = {}

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
        return self._plain.size + sum(encoded.size for encoded in self._encoded.values())

    def append(self, cursor: Cursor, frame: bytes) -> None:
        """Add a frame, and the position behind it."""
        self.indexes.append(cursor.index)
        self.cursor = cursor
        self._plain.append(frame)

    def after(self, index: int, encoding: Encoding | None) -> Chunk:
        """The records behind an index, by default as plain frames.

        All who ask from the block's start on get the same bytes object.
        """
        position = bisect_right(self.indexes, index)
        if encoding is None:
            return Chunk(self._plain.behind(position), self.last)
        encoded = self._encoded.get(encoding)
        if encoded is None:
            encoded = self._encoded[encoding] = _Encoded(encoding)
        encoded.take(self._plain)
        return Chunk(encoded.behind(position, self.cursor), self.last)


def blocks_of(frames: Iterable[tuple[Cursor, bytes]]) -> list[Block]:
    """Frames, each with the position behind it, as blocks."""
    blocks: list[Block] = []
    for cursor, frame in frames:
        if not blocks or blocks[-1].full:
            blocks.append(Block())
        blocks[-1].append(cursor, frame)
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

    def after(self, index: int, encoding: Encoding | None = None) -> Chunk | None:
        """The next records behind an index, from the window's start at the earliest; None at the head.

        Whoever asks for what is before `start` must read it from the log.
        """
        if index >= self.cursor.index or not self._blocks:
            return None
        block = self._blocks[bisect_right(self._blocks, index, key=lambda block: block.last)]
        before = block.size_bytes
        chunk = block.after(index, encoding)
        self.size_bytes += block.size_bytes - before
        return chunk

    def all_after(self, index: int, encoding: Encoding) -> bytes:
        """All records behind an index, joined."""
        parts: list[bytes] = []
        while chunk := self.after(index, encoding):
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
        self.cursor = Cursor(self.cursor.log_id, update.epoch, update.index)
        self._blocks[-1].append(self.cursor, frame)
        self.size_bytes += len(frame)
        return frame
