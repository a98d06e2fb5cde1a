"""The thread that brings a node's updates to Redis."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from random import Random

from streamer import process_end
from streamer.core.backoff import backoff
from streamer.core.entries import Batch, Entry
from streamer.core.errors import (
    LogUnavailable,
    NotAcknowledged,
    OutboxFull,
    OutboxNotWritable,
    StreamerClosed,
    StreamerError,
)
from streamer.core.records import unpack_tail
from streamer.core.statistics import Statistics
from streamer.lane import Lane
from streamer.lanes import Lanes
from streamer.log.fleet import Summary
from streamer.log.node_log import NodeLog, Replication
from streamer.settings import NodeSettings

SUMMARY_S = 1.0
"""How often at the most the fleet's summary is renewed."""
SUMMARY_RETRY_S = 10.0
CHECK_S = 5.0
"""How often an idle publisher asks whether Redis still has what it has acknowledged."""

_log = logging.getLogger(__name__)


class Publisher:
    """The writer of a node's log: an outbox, and a thread that empties it in batches.

    What was accepted goes out in order, once, however often Redis fails in between. The thread starts with the first
    update, or at once where processes of the node that have ended left updates in durable outboxes; it is a daemon.
    All methods may be called from any thread.

    Raises OutboxNotWritable where the directory of durable outboxes cannot be used.
    """

    def __init__(self, node: str, settings: NodeSettings, *, adopts: bool = True) -> None:
        self._closed = False
        self.exit_flush_s = settings.exit_flush_s
        self._node, self._settings = node, settings
        self._replication = (
            Replication(settings.wait_replicas, round(settings.wait_replicas_s * 1000))
            if settings.wait_replicas
            else None
        )
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._idle = False
        self._urged = False
        self._ended = False
        self._reason: str | None = None
        self._retries = 0
        # Sequence numbers: up to which someone flushes; of which the fleet's summary was to tell.
        self._goal = self._tried = 0
        self._untold = False
        self._latest: tuple[Entry, int, int] | None = None
        self._summary_due = 0.0
        self._summary_reason: str | None = None
        self._lanes = Lanes(node, settings)
        if adopts and self._lanes.adopt():
            with self._changed:
                self._start()

    @property
    def pending(self) -> int:
        """How many updates are accepted and not yet acknowledged, with those of processes that have ended."""
        return self._lanes.pending

    def put(self, entry: Entry) -> None:
        """Accept an update. It does not wait for the network, unless it is set to block, or the process is ending:
        then it flushes.

        Raises OutboxFull where too many wait already, OutboxNotWritable, StreamerClosed after `close`, and RuntimeError
        where the system has no thread for the publisher; the update is then not accepted.
        """
        with self._changed:
            self.check_open()
            if self._thread is None:
                self._start()
            lane = self._lanes.own or self._lanes.open()
            if not lane.put(entry):
                self._put_in_time(lane, entry)
            if self._idle:
                self._changed.notify_all()
        process_end.flush_if_ending()

    def check_open(self) -> None:
        """Raise StreamerClosed after `close`."""
        if self._closed:
            raise StreamerClosed(f"the streamer of node {self._node!r} is closed: ask for a new one")

    def urge(self) -> int:
        """Try at once, however long the next wait is. Return the sequence number of the last update accepted."""
        with self._changed:
            self._goal, self._urged = self._lanes.accepted, True
            self._changed.notify_all()
            return self._goal

    def flush(self, timeout_s: float, spent_s: float = 0.0) -> None:
        """Return once Redis has acknowledged all that was accepted before the call, by ended processes, too.

        Raises NotAcknowledged after ``timeout_s`` seconds, of which ``spent_s`` are over.
        """
        goal = self.urge()
        with self._changed:
            # The summary too: a process that ends after this leaves the fleet's list true.
            self._changed.wait_for(lambda: self._tried >= goal and not self._lanes.adopted, timeout_s - spent_s)
            pending = max(0, goal - self._lanes.acknowledged) + self._lanes.adopted
            if pending:
                raise NotAcknowledged(self._node, pending, timeout_s, self._reason, self._lanes.durable)

    def close(self, timeout_s: float) -> None:
        """Accept no more, flush, and end the thread, all within ``timeout_s`` seconds.

        Raises NotAcknowledged; what is left is then given up, unless it is in a durable outbox: then it goes out with
        the node's next start.
        """
        began = time.monotonic()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        try:
            self.flush(timeout_s)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            process_end.forget(self)
            if self._thread is not None:
                self._thread.join(max(0.0, timeout_s - (time.monotonic() - began)))
            with self._changed:
                self._lanes.close()

    def statistics(self) -> Statistics:
        """What there is to tell of it now."""
        with self._changed:
            return self._lanes.statistics(time.monotonic(), self._retries, False)

    def for_child(self) -> Publisher:
        """A writer for a forked child: as open as this one, and with nothing of what is the parent's to send."""
        publisher = Publisher(self._node, self._settings, adopts=False)
        publisher._closed = self._closed
        return publisher

    def _put_in_time(self, lane: Lane, entry: Entry) -> None:
        """Put an entry once there is room, if that is set and comes in time; else raise OutboxFull."""
        if self._settings.outbox_full == "block":
            done = self._changed.wait_for(lambda: self._closed or lane.put(entry), self._settings.outbox_block_s)
            self.check_open()
            if done:
                return
        raise OutboxFull(self._node, len(lane.outbox), self._reason)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"publisher-{self._node}", daemon=True)
        thread.start()
        self._thread = thread
        process_end.flush_at_end(self)

    def _run(self) -> None:
        rng = Random()
        waits = backoff(rng)
        while not self._ended:
            try:
                with NodeLog(self._settings.redis_url, self._settings.keys, self._node) as log:
                    while self._work(log):
                        waits = backoff(rng)
            except Exception as error:
                # Whatever it is: without its thread a node would be silent for ever.
                self._fail(error)
                if self._wait_to_retry(next(waits)):
                    waits = backoff(rng)

    def _work(self, log: NodeLog) -> bool:
        """Do what is to be done next, once there is something; False at the end."""
        with self._changed:
            while not self._ended and (wait_s := self._wait_s()) != 0:
                self._idle = True
                self._changed.wait(wait_s)
                self._idle = False
            if self._ended:
                return False
            now = time.monotonic()
            next_ = self._lanes.next_batch(now)
        if next_ is not None:
            self._append(log, *next_)
        for lane in self._lanes.keeping:
            if lane.heard_at + CHECK_S <= now:
                self._append(log, lane, lane.nothing())
        if self._summary_wait_s() == 0:
            self._summarize(log)
        return True

    def _wait_s(self) -> float | None:
        """In how many seconds there is something to do: None for when there are updates again."""
        if self._lanes.pending:
            return 0
        checks = [max(0.0, lane.heard_at + CHECK_S - time.monotonic()) for lane in self._lanes.keeping]
        summary_s = self._summary_wait_s()
        return min(checks if summary_s is None else [summary_s, *checks], default=None)

    def _summary_wait_s(self) -> float | None:
        """In how many seconds the summary should be renewed: None for not at all."""
        if not self._untold:
            return None
        if self._tried < self._goal <= self._lanes.acknowledged:
            return 0
        return max(0.0, self._summary_due - time.monotonic())

    def _append(self, log: NodeLog, lane: Lane, batch: Batch) -> None:
        """Append a batch; an empty one asks whether Redis still has what it has acknowledged."""
        replication = self._replication if batch.entries else None
        appended = log.append(lane.writer, batch, self._lanes.retention, replication=replication)
        now = time.monotonic()
        lost = None
        with self._changed:
            if self._ended:
                return  # and what is durable is perhaps another process's already
            if appended.seen < batch.after:
                lost = lane.go_back(appended.seen, self._lanes.retention.writer_ttl_s, now)
                self._tried = min(self._tried, self._lanes.acknowledged)
            else:
                lane.acknowledge(batch.last, now)
                if batch.entries:
                    self._untold = True
                    self._latest = batch.entries[-1], appended.next_index - 1, time.time_ns() // 1_000_000
            self._lanes.retire()
            self._reason = None
            self._changed.notify_all()
        if lost is not None:
            _warn("node %r: %s", self._node, lost)

    def _summarize(self, log: NodeLog) -> None:
        """Renew the fleet's summary. That is best effort: a failure delays neither the next append nor a flush."""
        assert self._latest is not None
        (job, tail), index, seen_ms = self._latest
        acknowledged, wait_s = self._lanes.acknowledged, SUMMARY_S
        _, status, _ = unpack_tail(tail)
        self._untold = False
        try:
            log.report(Summary(seen_ms, status, job, index))
            self._summary_reason = None
        except Exception as error:
            self._untold, wait_s = True, SUMMARY_RETRY_S
            known, self._summary_reason = self._summary_reason, _describe(error)
            if self._summary_reason != known:
                _warn("the fleet's summary of node %r waits: %s", self._node, error)
        with self._changed:
            self._tried, self._summary_due = acknowledged, time.monotonic() + wait_s
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        """Say once what is wrong."""
        self._retries += 1
        known, self._reason = self._reason, _describe(error)
        if self._reason != known:
            _warn("updates of node %r wait: %s", self._node, error)

    def _wait_to_retry(self, wait_s: float) -> bool:
        """Wait, unless someone has begun to flush since the last wait: return whether one has."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._urged, wait_s)
            urged, self._urged = self._urged, False
            return urged


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"


def _warn(message: str, node: str, what: Exception | str) -> None:
    unexpected = isinstance(what, Exception) and not isinstance(what, LogUnavailable | OutboxNotWritable)
    text = _describe(what) if isinstance(what, Exception) else what
    with suppress(Exception):  # which a filter of the program's own may raise
        _log.warning(message, node, text, exc_info=what if unexpected else None)  # type: ignore[arg-type]
