"""One writer's way to Redis: its numbers, what waits, and, where that is durable, its file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from streamer.core.ages import Ages
from streamer.core.entries import Batch, Entry
from streamer.core.errors import OutboxNotWritable, counted
from streamer.core.outbox import Outbox
from streamer.settings import NodeSettings

if TYPE_CHECKING:
    from streamer.durable.directory import OwnedFile

BATCH_RECORDS = 500
BATCH_BYTES = 1 << 20


class Place(NamedTuple):
    """How far a log had come: its id, its epoch, its next index."""

    log_id: str
    epoch: int
    next_index: int


class Lane:
    """The entries of one writer, on their way. Whoever shares it holds a lock around every call.

    ``heard_at`` is when Redis last said anything of the writer, in seconds of the clock that all times here are of.
    """

    def __init__(self, writer: str, settings: NodeSettings, now: float, owned: OwnedFile | None = None) -> None:
        self.writer = writer
        self.heard_at = now - (owned.silent_s if owned else 0.0)
        self.resent = self.lost = self.best = 0
        """How many entries were sent again, and lost, since Redis had lost them; up to where it ever acknowledged."""
        self._owned = owned
        self._ages = Ages()
        self._spills = settings.outbox_full == "spill"
        self._read_records = min(4 * BATCH_RECORDS, settings.outbox_records)
        self._unnoted = False
        self._place = Place("", 0, 0)
        self.outbox = Outbox(settings.outbox_records, settings.outbox_bytes, settings.keep)
        self.put: Callable[[Entry], bool] = self.outbox.put
        if owned is not None:
            self.put = self._put_stored
            self.outbox = _outbox_of(owned, settings, now)
        self.best = self.outbox.acknowledged

    @property
    def done(self) -> bool:
        """Whether nothing waits, and nothing is kept."""
        return not (self.outbox or self.outbox.kept)

    @property
    def durable(self) -> bool:
        """Whether what waits here outlives the process."""
        return self._owned is not None

    def _put_stored(self, entry: Entry) -> bool:
        """Take an entry in, and store it; False where the outbox is full. Raises OutboxNotWritable."""
        assert self._owned is not None
        fits = self.outbox.fits(entry)
        if not (fits or self._spills):
            return False
        self._owned.file.append(self.outbox.accepted + 1, entry, nothing_waits=not self.outbox)
        if fits:
            self.outbox.put(entry)
        else:
            self.outbox.spill()
        return True

    def batch(self, now: float) -> Batch:
        """The entries to append next; none where none wait. Raises OutboxNotWritable."""
        if self.outbox.spilled and self._owned is not None and self.outbox.here < BATCH_RECORDS:
            self.outbox.refill(self._owned.file.read(self.outbox.next_spilled, self._read_records))
        if self.outbox:
            self._ages.look(self.outbox.acknowledged + 1, self.outbox.accepted, now)
        return self.outbox.batch(BATCH_RECORDS, BATCH_BYTES)

    def nothing(self) -> Batch:
        """An empty batch, which asks whether Redis still has what it has acknowledged."""
        return self.outbox.batch(0, 0)

    def acknowledge(self, last: int, place: Place, now: float) -> OutboxNotWritable | None:
        """Let what Redis has wait no more, and keep it for a while; it had the log at this place then.

        Returns what is wrong where the file could not be written, the first time.
        """
        self.heard_at, self._place, first = now, place, self.outbox.acknowledged + 1
        self.outbox.acknowledge(last, now)
        self.best = max(self.best, last)
        self._ages.forget(self.outbox.acknowledged + 1 if self.outbox else None)
        return self._note(self._owned) if self._owned is not None and last >= first else None

    def _note(self, owned: OwnedFile) -> OutboxNotWritable | None:
        known, self._unnoted = self._unnoted, False
        try:
            owned.file.acknowledge(
                self.outbox.acknowledged,
                self.outbox.acknowledged - self.outbox.kept,
                nothing_waits=not self.outbox,
            )
        except OutboxNotWritable as error:
            # The next one makes up for it. What another process may send again meanwhile, Redis drops.
            self._unnoted = True
            return None if known else error
        return None

    def go_back(self, seen: int, place: Place, writer_ttl_s: float, now: float) -> str | None:
        """Have wait again what Redis has lost, which now has the log at this place; return a sentence about it.

        Where it has only forgotten the writer, nothing is lost, as far as anyone can know, and nothing is sent again.
        """
        if seen == 0 and (now - self.heard_at >= writer_ttl_s or self._still_there(place)):
            self.outbox.forget_writer()
            return None
        resent, lost = self.outbox.go_back(seen)
        self.resent += resent
        self.lost += lost
        self.heard_at = now
        gone = f"; {counted(lost)} before those are no longer here, and lost" if lost else ""
        return f"Redis has lost updates that it had acknowledged, as in a failover: {counted(resent)} sent again{gone}"

    def _still_there(self, place: Place) -> bool:
        """Whether the log still has what it had when this writer was last heard: only its tail is ever lost.

        Then the writer's key alone is gone, as by an eviction, which an unsuitable setting of Redis allows.
        """
        log_id, epoch, next_index = self._place
        return place[:2] == (log_id, epoch) and place.next_index >= next_index

    def oldest_s(self, now: float) -> float:
        """For how many seconds the oldest entry has been waiting."""
        return self._ages.of(self.outbox.acknowledged + 1, now) if self.outbox else 0.0

    @property
    def epoch(self) -> int:
        """The epoch that the log had when Redis last answered; 0 before that."""
        return self._place.epoch

    def close(self) -> None:
        """Give up the file, which is deleted where nothing waits. May be called twice."""
        if self._owned is not None:
            self._owned.release(empty=not self.outbox)


def _outbox_of(owned: OwnedFile, settings: NodeSettings, now: float) -> Outbox:
    """An outbox that goes on where that of the file's last owner ended."""
    first, mark, last = owned.file.contents()
    outbox = Outbox(settings.outbox_records, settings.outbox_bytes, settings.keep, mark + 1)
    if first <= mark:
        outbox.keep(owned.file.read(first, mark + 1 - first), now)
    outbox.spill(last - mark)
    return outbox
