"""The thread that brings a node's updates to Redis."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from random import Random

from streamer.core.backoff import backoff
from streamer.core.errors import LogUnavailable, NotAcknowledged, OutboxFull, StreamerClosed
from streamer.core.outbox import Batch, Entry, Outbox
from streamer.core.records import unpack_tail
from streamer.log.fleet import Summary
from streamer.log.node_log import NodeLog
from streamer.log.scripts import new_id
from streamer.settings import NodeSettings

BATCH_RECORDS = 500
BATCH_BYTES = 1 << 20
SUMMARY_S = 1.0
"""How often at the most the fleet's summary is renewed."""
SUMMARY_RETRY_S = 10.0

_log = logging.getLogger(__name__)


class Publisher:
    """One writer of a node's log: an outbox, and a thread that empties it in batches.

    What was accepted goes out in order, once, however often Redis fails in between. The thread starts with the first
    update and is a daemon. All methods may be called from any thread.
    """

    def __init__(self, node: str, settings: NodeSettings) -> None:
        self._closed = False
        self.exit_flush_s = settings.exit_flush_s
        self._node, self._settings = node, settings
        self._writer = new_id()
        self._outbox = Outbox(settings.outbox_records, settings.outbox_bytes)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._idle = False
        self._urged = False
        self._ended = False
        self._reason: str | None = None
        # Sequence numbers: up to which someone flushes; of which the fleet's summary tells; and was to tell.
        self._goal = self._summarized = self._tried = 0
        self._latest: tuple[Entry, int, int] | None = None
        self._summary_due = 0.0
        self._summary_reason: str | None = None

    @property
    def pending(self) -> int:
        """How many updates are accepted and not yet acknowledged."""
        return len(self._outbox)

    def put(self, entry: Entry) -> None:
        """Accept an update. It does not wait for the network, unless the process is ending: then it flushes.

        Raises OutboxFull where too many wait already, StreamerClosed after `close`, and RuntimeError where the system
        has no thread for the publisher; the update is then not accepted.
        """
        with self._changed:
            self.check_open()
            if self._thread is None:
                self._start()
            if not self._outbox.put(entry):
                raise OutboxFull(self._node, len(self._outbox), self._reason)
            if self._idle:
                self._changed.notify_all()
        if _ending_since is not None:
            flush_all()

    def check_open(self) -> None:
        """Raise StreamerClosed after `close`."""
        if self._closed:
            raise StreamerClosed(f"the streamer of node {self._node!r} is closed: ask for a new one")

    def urge(self) -> int:
        """Try at once, however long the next wait is. Return the sequence number of the last update accepted."""
        with self._changed:
            self._goal, self._urged = self._outbox.accepted, True
            self._changed.notify_all()
            return self._goal

    def flush(self, timeout_s: float, spent_s: float = 0.0) -> None:
        """Return once Redis has acknowledged all that was accepted before the call.

        Raises NotAcknowledged after ``timeout_s`` seconds, of which ``spent_s`` are over.
        """
        goal = self.urge()
        with self._changed:
            # The summary too: a process that ends after this leaves the fleet's list true.
            self._changed.wait_for(lambda: self._tried >= goal, timeout_s - spent_s)
            if self._outbox.acknowledged < goal:
                raise NotAcknowledged(self._node, goal - self._outbox.acknowledged, timeout_s, self._reason)

    def close(self, timeout_s: float) -> None:
        """Accept no more, flush, and end the thread, all within ``timeout_s`` seconds.

        Raises NotAcknowledged; what is left is then given up.
        """
        began = time.monotonic()
        with self._changed:
            self._closed = True
        try:
            self.flush(timeout_s)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            _running.discard(self)
            if self._thread is not None:
                self._thread.join(max(0.0, timeout_s - (time.monotonic() - began)))

    def for_child(self) -> Publisher:
        """A writer for a forked child: as open as this one, and with nothing of what is the parent's to send."""
        publisher = Publisher(self._node, self._settings)
        publisher._closed = self._closed
        return publisher

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"publisher-{self._node}", daemon=True)
        thread.start()
        self._thread = thread
        _running.add(self)
        _flush_with_multiprocessing()

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
            while not (self._ended or self._outbox) and (wait_s := self._summary_wait_s()) != 0:
                self._idle = True
                self._changed.wait(wait_s)
                self._idle = False
            if self._ended:
                return False
            batch = self._outbox.batch(BATCH_RECORDS, BATCH_BYTES)
        if batch.entries:
            self._append(log, batch)
        if self._summary_wait_s() == 0:
            self._summarize(log)
        return True

    def _summary_wait_s(self) -> float | None:
        """In how many seconds the summary should be renewed: None for not at all."""
        if self._summarized == self._outbox.acknowledged:
            return None
        if self._tried < self._goal <= self._outbox.acknowledged:
            return 0
        return max(0.0, self._summary_due - time.monotonic())

    def _append(self, log: NodeLog, batch: Batch) -> None:
        appended = log.append(self._writer, batch, self._settings.retention)
        with self._changed:
            self._latest = batch.entries[-1], appended.next_index - 1, time.time_ns() // 1_000_000
            self._outbox.acknowledge(batch.last)
            self._reason = None
            self._changed.notify_all()

    def _summarize(self, log: NodeLog) -> None:
        """Renew the fleet's summary. That is best effort: a failure delays neither the next append nor a flush."""
        assert self._latest is not None
        (job, tail), index, seen_ms = self._latest
        acknowledged, wait_s = self._outbox.acknowledged, SUMMARY_S
        _, status, _ = unpack_tail(tail)
        try:
            log.report(Summary(seen_ms, status, job, index))
            self._summarized, self._summary_reason = acknowledged, None
        except Exception as error:
            wait_s = SUMMARY_RETRY_S
            known, self._summary_reason = self._summary_reason, _describe(error)
            if self._summary_reason != known:
                _warn("the fleet's summary of node %r waits: %s", self._node, error)
        with self._changed:
            self._tried, self._summary_due = acknowledged, time.monotonic() + wait_s
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        """Say once what is wrong."""
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
    return str(error) if isinstance(error, LogUnavailable) else f"{type(error).__name__}: {error}"


def _warn(message: str, node: str, error: Exception) -> None:
    with suppress(Exception):  # which a filter of the program's own may raise
        _log.warning(message, node, _describe(error), exc_info=None if isinstance(error, LogUnavailable) else error)


_running: set[Publisher] = set()
_ending_since: float | None = None


def flush_all() -> None:
    """Flush every publisher of the process, which ends; log what is lost.

    All share one time, that begins with the first call: for each its `exit_flush_s` counts from then. From then on
    each `put` flushes, too, since nothing else may do so any more.
    """
    global _ending_since
    if _ending_since is None:
        _ending_since = time.monotonic()
    publishers = list(_running)
    for publisher in publishers:
        publisher.urge()
    for publisher in publishers:
        try:
            publisher.flush(publisher.exit_flush_s, spent_s=time.monotonic() - _ending_since)
        except NotAcknowledged as error:
            _running.discard(publisher)
            _log.error("the process ends, and updates are lost: %s", error)


@functools.cache
def _flush_with_multiprocessing() -> None:
    """Have a child of multiprocessing flush at its end, which comes without atexit."""
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if util and process and process.parent_process():
        util.Finalize(None, flush_all, exitpriority=0)


def _after_fork() -> None:
    # The parent's publishers have no thread in the child.
    global _ending_since
    _ending_since = None
    _running.clear()
    _flush_with_multiprocessing.cache_clear()


atexit.register(flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
