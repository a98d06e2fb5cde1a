"""The thread that brings a node's updates to Redis."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from random import Random
from weakref import WeakSet

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
REPORT_S = 1.0
"""How often at the most the fleet's summary is renewed."""

_log = logging.getLogger(__name__)


class Publisher:
    """One writer of a node's log: an outbox, and a thread that empties it in batches.

    What was accepted goes out in order, once, however often Redis fails in between. The thread starts with the first
    update and is a daemon. All methods may be called from any thread.
    """

    def __init__(self, node: str, settings: NodeSettings) -> None:
        self._node, self._settings = node, settings
        self._writer = new_id()
        self._outbox = Outbox(settings.outbox_records, settings.outbox_bytes)
        # The last entry that Redis has, with its index; and that of which the fleet's summary tells.
        self._latest: tuple[Entry, int] | None = None
        self._reported: tuple[Entry, int] | None = None
        self._report_due = 0.0
        self._changed = threading.Condition()
        self._idle = False
        self._flushing = 0
        self._closed = False
        self._ended = False
        self._reason: str | None = None
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> int:
        """How many updates are accepted and not yet acknowledged."""
        return len(self._outbox)

    def put(self, entry: Entry) -> None:
        """Accept an update. It never waits for the network.

        Raises OutboxFull where too many wait already, and StreamerClosed after `close`.
        """
        with self._changed:
            if self._closed:
                raise StreamerClosed(f"the streamer of node {self._node!r} is closed: it takes no more updates")
            if not self._outbox.put(entry):
                raise OutboxFull(self._node, len(self._outbox), self._reason)
            if self._thread is None:
                self._start()
            elif self._idle:
                self._changed.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Return once Redis has acknowledged all that was accepted before the call. Raises NotAcknowledged."""
        with self._changed:
            goal = self._outbox.accepted
            self._flushing += 1
            self._changed.notify_all()
            try:
                # The summary too: a process that ends after this leaves the fleet's list true.
                self._changed.wait_for(lambda: self._outbox.acknowledged >= goal and not self._unreported, timeout_s)
            finally:
                self._flushing -= 1
            if self._outbox.acknowledged < goal:
                raise NotAcknowledged(self._node, goal - self._outbox.acknowledged, timeout_s, self._reason)

    def close(self, timeout_s: float) -> None:
        """Accept no more, flush, and end the thread. Raises NotAcknowledged; what is left is then given up."""
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
                self._thread.join(timeout_s)

    @property
    def _unreported(self) -> bool:
        return self._reported is not self._latest

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"publisher-{self._node}", daemon=True)
        self._thread.start()
        _running.add(self)
        # A child of multiprocessing ends without atexit.
        if multiprocessing_util := sys.modules.get("multiprocessing.util"):
            multiprocessing_util.Finalize(None, flush_all, exitpriority=0)

    def _run(self) -> None:
        with NodeLog(self._settings.redis_url, self._settings.keys, self._node) as log:
            waits = backoff(Random())
            while True:
                with self._changed:
                    self._wait_for_work()
                    if self._ended:
                        return
                    batch = self._outbox.batch(BATCH_RECORDS, BATCH_BYTES)
                try:
                    if batch.entries:
                        self._append(log, batch)
                    if self._report_wait_s() == 0:
                        self._report(log)
                except LogUnavailable as error:
                    self._fail(error, waits)
                else:
                    waits = backoff(Random())

    def _wait_for_work(self) -> None:
        while not (self._ended or self._outbox) and (wait := self._report_wait_s()) != 0:
            self._idle = True
            self._changed.wait(wait)
            self._idle = False

    def _report_wait_s(self) -> float | None:
        """In how many seconds the summary should be renewed: None for not at all."""
        if not self._unreported:
            return None
        return 0 if self._flushing else max(0.0, self._report_due - time.monotonic())

    def _append(self, log: NodeLog, batch: Batch) -> None:
        appended = log.append(self._writer, batch, self._settings.retention)
        with self._changed:
            self._latest = batch.entries[-1], appended.next_index - 1
            self._outbox.acknowledge(batch.last)
            self._reason = None
            self._changed.notify_all()

    def _report(self, log: NodeLog) -> None:
        latest = self._latest
        if latest is not None:
            entry, index = latest
            timestamp, status, _ = unpack_tail(entry.tail)
            log.report(Summary(timestamp, status, entry.job, index))
        with self._changed:
            self._reported, self._report_due = latest, time.monotonic() + REPORT_S
            self._changed.notify_all()

    def _fail(self, error: LogUnavailable, waits: Iterator[float]) -> None:
        """Say once what is wrong, and wait before the next try."""
        with self._changed:
            if str(error) != self._reason:
                _log.warning("updates of node %r wait: %s", self._node, error)
            self._reason = str(error)
            self._changed.wait_for(lambda: self._ended, next(waits))


_running: WeakSet[Publisher] = WeakSet()


def flush_all() -> None:
    """Flush every publisher of the process, within the greatest `exit_flush_s` of them; log what is lost."""
    began = time.monotonic()
    for publisher in list(_running):
        spent = time.monotonic() - began
        try:
            publisher.flush(max(0.0, publisher._settings.exit_flush_s - spent))
        except NotAcknowledged as error:
            _log.error("the process ends, and updates are lost: %s", error)


atexit.register(flush_all)
if hasattr(os, "register_at_fork"):
    # The parent's publishers have no thread in the child, and what they hold is the parent's to send.
    os.register_at_fork(after_in_child=_running.clear)
