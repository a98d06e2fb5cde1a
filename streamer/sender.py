"""The thread that brings a node's updates to Redis."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from random import Random

from streamer.core.backoff import backoff
from streamer.core.claim import Claim
from streamer.core.entries import Batch
from streamer.core.errors import LogUnavailable, NodeFencedError, OutboxNotWritable
from streamer.fleet_summary import FleetSummary
from streamer.job_announcements import JobAnnouncements
from streamer.lane import Lane, Place
from streamer.lanes import Lanes
from streamer.log.node_log import NodeLog, Replication
from streamer.log.scripts import UNCLAIMED, Appended, Token, new_id
from streamer.reporting import describe, warn
from streamer.settings import NodeSettings

_log = logging.getLogger(__name__)

TAKEN = "its lease was over, and another process wrote to the node or has claimed it"

CHECK_S = 5.0
"""How often an idle publisher asks whether Redis still has what it has acknowledged."""


class Sender:
    """Sends what is in the lanes, in order and once, however often Redis fails in between.

    ``changed`` guards all that is shared with the threads that publish, flush and close: `lanes`, and the attributes
    without an underscore. It is notified whenever one of them has changed.
    """

    def __init__(self, node: str, settings: NodeSettings, exclusive: bool) -> None:
        self.changed = threading.Condition()
        self.lanes = Lanes(node, settings)
        self.thread: threading.Thread | None = None
        self.idle = self.urged = self.ended = False
        self.goal = self.tried = 0
        """Sequence numbers: up to which someone flushes, and of which the fleet's summary was to tell."""
        self.reason: str | None = None
        """Why updates wait, if they do for long."""
        self.fenced: NodeFencedError | None = None
        self.retries = 0
        self._node, self._settings = node, settings
        self._claim = Claim(new_id(), settings.lease_s, time.monotonic()) if exclusive else None
        self._summary = FleetSummary(node)
        self._announcements = JobAnnouncements(node, settings.job_ttl_s)
        self._replication = (
            Replication(settings.wait_replicas, round(settings.wait_replicas_s * 1000))
            if settings.wait_replicas
            else None
        )

    def start(self) -> None:
        """Start the thread, which is a daemon. Raises RuntimeError where the system has none."""
        thread = threading.Thread(target=self._run, name=f"publisher-{self._node}", daemon=True)
        thread.start()
        self.thread = thread

    def claim(self) -> None:
        """Claim the node where it is exclusive, and wait for the answer; before the thread is started.

        Where Redis does not answer, the thread does it; where another has the node, `fenced` says so.
        """
        if self._claim is not None:
            with suppress(LogUnavailable), self._open_log() as log:
                self._hold(log, self._claim)

    @property
    def fenced_for_ever(self) -> bool:
        """Whether nothing will be sent any more."""
        return self.fenced is not None and self.fenced.final

    def _run(self) -> None:
        rng = Random()
        waits = backoff(rng)
        while not self.ended:
            try:
                with self._open_log() as log:
                    while self._work(log):
                        waits = backoff(rng)
            except Exception as error:
                # Whatever it is: without its thread a node would be silent for ever.
                self._fail(error)
                if self._wait_to_retry(next(waits)):
                    waits = backoff(rng)
        self._give_up_claim()

    def _work(self, log: NodeLog) -> bool:
        """Do what is to be done next, once there is something; False at the end."""
        self._stir()
        with self.changed:
            while not self.ended and (wait_s := self._wait_s()) != 0:
                self.idle = True
                self.changed.wait(wait_s)
                self.idle = False
        self._stir()
        if self.ended:
            return False
        if self._claim is not None and self._claim.due_in_s(time.monotonic()) == 0:
            self._hold(log, self._claim)
        if not self.fenced_for_ever:
            self._send(log)
        return True

    def _wait_s(self) -> float | None:
        """In how many seconds there is something to do: None for when there are updates again."""
        if self.fenced_for_ever:
            return None
        if self.lanes.pending:
            return 0
        now = time.monotonic()
        waits = [max(0.0, lane.heard_at + CHECK_S - now) for lane in self.lanes.keeping]
        if self.fenced is None and (look_s := self.lanes.look_due_in_s(now)) is not None:
            waits.append(look_s)
        if (summary_s := self._summary_due_in_s(now)) is not None:
            waits.append(summary_s)
        if (announcement_s := self._announcements.due_in_s(now)) is not None:
            waits.append(announcement_s)
        if self._claim is not None:
            waits.append(self._claim.due_in_s(now))
        return min(waits, default=None)

    def _send(self, log: NodeLog) -> None:
        now = time.monotonic()
        # While another has the node, it is for that one to take them over, whose updates are not refused.
        if self.fenced is None and self.lanes.look_due_in_s(now) == 0:
            self._adopt()
        with self.changed:
            next_ = self.lanes.next_batch(now)
            left, self.lanes.left = self.lanes.left, []
        # Without the lock: whoever handles what is logged may wait for a thread that publishes.
        for error in left:
            warn(_log, "updates of ended processes of node %r stay where they are: %s", self._node, error)
        if next_ is not None:
            self._append(log, *next_)
        for lane in self.lanes.keeping:
            if lane.heard_at + CHECK_S <= now:
                self._append(log, lane, lane.nothing())
        if self._announcements.due_in_s(time.monotonic()) == 0:
            self._announcements.tell(log)
        if self._summary_due_in_s(time.monotonic()) == 0:
            self._tell(log)

    def _adopt(self) -> None:
        """Take over what other processes of the node have left that have ended since the last look."""
        found = self.lanes.find()
        with self.changed:
            if not self.ended:
                self.lanes.adopt(found)
                return
        for lane in found:
            lane.close()

    def _append(self, log: NodeLog, lane: Lane, batch: Batch) -> None:
        """Append a batch; an empty one asks whether Redis still has what it has acknowledged."""
        replication = self._replication if batch.entries else None
        self._announce(log, batch.jobs)
        try:
            appended = log.append(lane.writer, batch, self.lanes.retention, self._token, replication)
        except Exception:
            self._announcements.try_again()
            raise
        if appended.refused:
            self._take_refusal(appended.refused)
            return
        if self._announcements.stand_on(appended.log_id, appended.epoch):
            # It may be that Redis was emptied between the two. Before the acknowledgement: else a crash would lose it.
            self._announce(log, batch.jobs)
        with self.changed:
            if self.ended:
                return  # and what is durable is perhaps another process's already
            what = self._take_answer(lane, batch, appended)
            self.lanes.retire()
            self.reason = self.fenced = None
            self.changed.notify_all()
        if what is not None:
            warn(_log, "node %r: %s", self._node, what)

    def _announce(self, log: NodeLog, jobs: Iterable[str]) -> None:
        self._announcements.want(jobs, time.monotonic())
        self._announcements.tell(log)

    def _take_answer(self, lane: Lane, batch: Batch, appended: Appended) -> OutboxNotWritable | str | None:
        """Acknowledge what was appended, or go back to what is lost; return what is to be said of it."""
        now, place = time.monotonic(), Place(appended.log_id, appended.epoch, appended.next_index)
        if appended.seen < batch.after:
            lost = lane.go_back(appended.seen, place, self.lanes.retention.writer_ttl_s, now)
            self.tried = min(self.tried, self.lanes.acknowledged)
            return lost
        if batch.entries:
            self._summary.note(batch.entries[-1], appended.next_index - 1)
        return lane.acknowledge(batch.last, place, now)

    def _summary_due_in_s(self, now: float) -> float | None:
        return self._summary.due_in_s(now, urgent=self.tried < self.goal <= self.lanes.acknowledged)

    def _tell(self, log: NodeLog) -> None:
        """Renew the fleet's summary: its failure delays neither the next append nor a flush."""
        acknowledged = self.lanes.acknowledged
        self._summary.tell(log)
        with self.changed:
            self.tried = acknowledged
            self.changed.notify_all()

    def _hold(self, log: NodeLog, claim: Claim) -> None:
        """Claim the node, or renew the claim."""
        asked_at = time.monotonic()
        if claim.paused:
            self._fence("this process stood still for longer than its lease")
            return
        token, left_ms = log.claim(Token(claim.holder, claim.number), self._lease_ms)
        if token is not None:
            claim.granted(token.number, asked_at)
        elif claim.number:
            self._fence(TAKEN)
        else:
            self._fence(f"another process has it for itself, for {left_ms / 1000:.1f} s more if it does not renew that")

    def _take_refusal(self, refused: str) -> None:
        """Take note that an append was refused because of a claim."""
        if refused == "taken":
            self._fence(TAKEN)
        elif refused == "expired" and self._claim is not None:
            self._claim.expired()
        else:
            with self.changed:
                self.fenced = NodeFencedError(self._node, "another process has it for itself", final=False)
            raise self.fenced

    def _fence(self, reason: str) -> None:
        with self.changed:
            self.fenced = NodeFencedError(self._node, reason, True, self.lanes.pending, self.lanes.durable)
            self.changed.notify_all()
        if self.thread is not None:  # else whoever claims is told
            warn(_log, "updates of node %r are sent no more: %s", self._node, self.fenced)

    def _give_up_claim(self) -> None:
        if self._claim is not None and self._claim.number and not self.fenced_for_ever:
            with suppress(LogUnavailable), self._open_log() as log:  # else its lease ends it
                log.claim(self._token, 0)

    @property
    def _token(self) -> Token:
        return Token(self._claim.holder, self._claim.number) if self._claim is not None else UNCLAIMED

    @property
    def _lease_ms(self) -> int:
        return round(self._settings.lease_s * 1000)

    def _stir(self) -> None:
        if self._claim is not None:
            self._claim.stir(time.monotonic())

    def _fail(self, error: Exception) -> None:
        """Say once what is wrong."""
        self._stir()
        if self._claim is not None:
            self._claim.fail()
        self.retries += 1
        known, self.reason = self.reason, describe(error)
        if self.reason != known:
            warn(_log, "updates of node %r wait: %s", self._node, error)

    def _wait_to_retry(self, wait_s: float) -> bool:
        """Wait, unless someone has begun to flush since the last wait: return whether one has."""
        if self._claim is not None:
            wait_s = min(wait_s, self._claim.interval_s)
        with self.changed:
            self.changed.wait_for(lambda: self.ended or self.urged, wait_s)
            urged, self.urged = self.urged, False
            return urged

    def _open_log(self) -> NodeLog:
        return NodeLog(self._settings.redis_url, self._settings.keys, self._node)
