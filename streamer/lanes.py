"""The lanes of a publisher: its own, and those of the node's processes that have ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from streamer.core.entries import Batch
from streamer.core.errors import OutboxNotWritable
from streamer.core.statistics import Statistics
from streamer.lane import Lane
from streamer.log.scripts import Retention, new_id
from streamer.settings import NodeSettings

if TYPE_CHECKING:
    from streamer.durable.directory import OutboxDirectory

LOOK_S = 5.0
"""How often a process looks for what others of the node have left that ended meanwhile."""

DURABLE_WRITER_TTL_S = 90 * 24 * 3600
"""How long Redis remembers a writer whose updates may wait on a disk for the node's next start."""


class Lanes:
    """All that one publisher sends. Whoever shares it holds a lock around every call but `find`.

    Raises OutboxNotWritable where the directory of durable outboxes cannot be used.
    """

    def __init__(self, node: str, settings: NodeSettings) -> None:
        self.own: Lane | None = None
        self.left: list[OutboxNotWritable] = []
        """Why files of ended processes were left to others: to be told."""
        self._node, self._settings = node, settings
        self._adopted: list[Lane] = []
        self._directory: OutboxDirectory | None = None
        self._looked_at = time.monotonic()
        self._resent = self._lost = 0
        self.retention = settings.retention
        if settings.outbox_dir:
            self.retention = Retention(settings.retention_records, settings.job_ttl_s, DURABLE_WRITER_TTL_S)

    def open(self) -> Lane:
        """Begin this process's own lane, with its first update."""
        writer, now = new_id(), time.monotonic()
        owned = self._outboxes().create(writer) if self.durable else None
        self.own = Lane(writer, self._settings, now, owned)
        return self.own

    def find(self) -> list[Lane]:
        """Own what ended processes of the node have left, to be adopted or closed. It may read much from the disk."""
        found: list[Lane] = []
        if self.durable:
            self._looked_at = time.monotonic()
            for owned in self._outboxes().adopt():
                try:
                    found.append(Lane(owned.writer, self._settings, time.monotonic(), owned))
                except OutboxNotWritable as error:
                    owned.release(empty=False)
                    self._leave_to_others(owned.writer, error)
        return found

    def look_due_in_s(self, now: float) -> float | None:
        """In how many seconds `find` is to be called again; None for never."""
        return max(0.0, self._looked_at + LOOK_S - now) if self.durable else None

    def adopt(self, found: list[Lane]) -> bool:
        """Send what was found from now on; return whether there is anything to do."""
        self._adopted += found
        self.retire()
        return bool(self._adopted or self.left)

    @property
    def durable(self) -> bool:
        """Whether what waits outlives the process."""
        return bool(self._settings.outbox_dir)

    @property
    def pending(self) -> int:
        """How many updates wait."""
        return (len(self.own.outbox) if self.own else 0) + self.adopted

    @property
    def adopted(self) -> int:
        """How many updates of ended processes wait."""
        return sum(len(lane.outbox) for lane in self._adopted)

    @property
    def accepted(self) -> int:
        """The sequence number of this process's last update."""
        return self.own.outbox.accepted if self.own else 0

    @property
    def acknowledged(self) -> int:
        """The sequence number of this process's last update that Redis has acknowledged, and has not lost."""
        return self.own.outbox.acknowledged if self.own else 0

    @property
    def keeping(self) -> list[Lane]:
        """Those that hold acknowledged updates."""
        return [lane for lane in self._all if lane.outbox.kept]

    def next_batch(self, now: float) -> tuple[Lane, Batch] | None:
        """What to send next, if anything: what ended processes have left comes first.

        Raises OutboxNotWritable where this process's own file cannot be read; another's is then left to others.
        """
        for lane in self._all:
            if lane.outbox:
                try:
                    return lane, lane.batch(now)
                except OutboxNotWritable as error:
                    if lane is self.own:
                        raise
                    self._leave(lane)
                    self._leave_to_others(lane.writer, error)
        return None

    def retire(self) -> None:
        """Delete the files of ended processes for which nothing more is to be done."""
        for lane in [lane for lane in self._adopted if lane.done]:
            self._leave(lane)

    def close(self) -> None:
        """Give up all files; those in which updates wait are left to the node's next start."""
        for lane in self._all:
            lane.close()

    def statistics(self, now: float, retries: int, fenced: bool) -> Statistics:
        """What there is to tell."""
        lanes = self._all
        return Statistics(
            pending=self.pending,
            pending_bytes=sum(lane.outbox.here_bytes for lane in lanes),
            spilled=sum(lane.outbox.spilled for lane in lanes),
            adopted=self.adopted,
            oldest_pending_s=max((lane.oldest_s(now) for lane in lanes), default=0.0),
            accepted=self.accepted,
            acknowledged=self.own.best if self.own else 0,
            retries=retries,
            resent=self._resent + sum(lane.resent for lane in lanes),
            lost=self._lost + sum(lane.lost for lane in lanes),
            epoch=self.own.epoch if self.own else 0,
            fenced=fenced,
        )

    @property
    def _all(self) -> list[Lane]:
        return [*self._adopted, self.own] if self.own else self._adopted

    def _leave(self, lane: Lane) -> None:
        self._adopted = [other for other in self._adopted if other is not lane]
        self._resent += lane.resent
        self._lost += lane.lost
        lane.close()

    def _leave_to_others(self, writer: str, error: OutboxNotWritable) -> None:
        if self._outboxes().is_news_of(writer):
            self.left.append(error)

    def _outboxes(self) -> OutboxDirectory:
        if self._directory is None:
            # Here, so that without durable outboxes neither SQLite nor locks of files are needed.
            from streamer.durable.directory import OutboxDirectory

            settings = self._settings
            self._directory = OutboxDirectory(settings.outbox_dir, settings.prefix, self._node, settings.outbox_sync)
        return self._directory
