"""A node's log in memory, in other words than the scripts': what tests have the fan-out read, and hold it against."""

from __future__ import annotations

from collections.abc import Sequence

from streamer.core.cursor import Cursor
from streamer.core.names import Topic
from streamer.core.records import Update, pack_header, pack_tail
from streamer.log.reading import Head
from streamer.log.scripts import Page


class ModelLog:
    """A log with all the records that it ever had; retained of each topic are its last ``keep``.

    Each record has a number of its own in its state, ``n``, which no other record ever has, also of those that a
    failover lost.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.log_id = ""
        self.epochs: list[tuple[int, int]] = []
        self.records: list[Update] = []
        self.numbers = 0
        self.failovers = 0
        self._ids = 0
        self._moved = False
        self._expired: dict[str | None, int] = {}

    @property
    def epoch(self) -> int:
        return self.epochs[-1][0] if self.epochs else 0

    @property
    def head(self) -> int:
        return len(self.records) - 1

    def whole(self, job: str | None) -> list[Update]:
        """All records of a topic that the log has ever had and not lost."""
        return [record for record in self.records if job is None or record.state.get("job") == job]

    def retained(self, job: str | None) -> list[Update]:
        return [record for record in self.whole(job)[-self.keep :] if record.index > self._expired.get(job, -1)]

    def append(self, jobs: Sequence[str | None]) -> dict[str | None, bytes]:
        """Append an update for each job (or none); return what is published on each topic, by job."""
        if not self.log_id:
            self._create()
        if self._moved or not self.epochs:
            self.epochs.append((self.epoch + 1, self.head + 1))
            self._moved = False
        messages: dict[str | None, bytes] = {}
        for job in jobs:
            before = self.whole(job)[-1].index if job is not None and self.whole(job) else -1
            state = {"n": self.numbers} if job is None else {"n": self.numbers, "job": job}
            self.numbers += 1
            record = Update(self.epoch, self.head + 1, before, 0, "s", state)
            self.records.append(record)
            for topic in {None, job}:
                messages[topic] = messages.get(topic, self._greeting()) + pack(record)
        return messages

    def clear(self) -> dict[str | None, bytes]:
        """Start anew; return what is published, by job."""
        if not self.log_id:
            return {}
        jobs = {None, *(record.state.get("job") for record in self.records)}
        self._create()
        self.epochs = [(1, 0)]
        return {job: self._greeting() for job in jobs}

    def flush(self) -> None:
        """Be lost altogether."""
        self._create()
        self.log_id = ""

    def expire(self, job: str) -> None:
        """Lose a job's list, whose time is over."""
        self._expired[job] = self.head

    def fail_over(self, lost: int) -> None:
        """Lose up to so many of the last records, and go on on another server, which may still have older ones.

        The first record of the current epoch stays: of two servers that each begin an epoch by the same number, the
        log cannot tell the one from the other.
        """
        if self.epochs:
            del self.records[max(len(self.records) - lost, self.epochs[-1][1] + 1) :]
            self._expired = {job: min(index, self.head) for job, index in self._expired.items()}
            self._moved = True
            self.failovers += 1

    def read(self, topic: Topic, cursor: Cursor, limit: int) -> Page:
        """What read.lua and its parser give."""
        foreign = cursor.log_id and (cursor.log_id != self.log_id or cursor.epoch > self.epoch)
        if foreign or (not cursor.log_id and cursor.index > self.head):
            return Page(self.log_id, self.epoch, self.head, True, -1, [], 0, None)
        start = min(cursor.index, self.head)
        if cursor.epoch:
            start = min([start, *(first - 1 for epoch, first in self.epochs if epoch > cursor.epoch)])
        following = [record for record in self.retained(topic.job) if record.index > start]
        gone = [record for record in self.whole(topic.job) if record.index > start and record not in following]
        missing = (start + 1, gone[-1].index) if gone else None
        return Page(
            self.log_id, self.epoch, self.head, False, start, following[:limit], len(following[limit:]), missing
        )

    def before_last(self, topic: Topic, count: int) -> int | None:
        """What `Reader.before_last` gives."""
        retained = self.retained(topic.job)
        return retained[-count - 1].index if len(retained) > count else None

    def look(self, topic: Topic) -> Head | None:
        """What `Reader.heads` gives."""
        whole = self.whole(topic.job)
        last = whole[-1].index if whole else -1 if topic.job is None else None
        return Head(self.log_id, self.epoch if self.log_id else 0, last if self.log_id else -1)

    def _create(self) -> None:
        self._ids += 1
        self.log_id = f"{self._ids:02x}"
        self.epochs, self.records, self._moved, self._expired = [], [], False, {}

    def _greeting(self) -> bytes:
        return bytes([0xA0 + len(self.log_id)]) + self.log_id.encode()


def pack(record: Update) -> bytes:
    """A record as the scripts store it."""
    tail = pack_tail(record.status, record.state, record.timestamp)
    return pack_header(record.epoch, record.index, record.previous) + tail
