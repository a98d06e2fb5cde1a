"""What a node's process publishes with: an outbox that accepts, and a thread that sends."""

from __future__ import annotations

import time

from streamer import process_end
from streamer.core.entries import Entry
from streamer.core.errors import NodeFencedError, NotAcknowledged, OutboxFull, StreamerClosed
from streamer.core.statistics import Statistics
from streamer.lane import Lane
from streamer.sender import Sender
from streamer.settings import NodeSettings


class Publisher:
    """One writer of a node's log: an outbox, and a thread that empties it in batches.

    What was accepted goes out in order, once, however often Redis fails in between. The thread starts with the first
    update, or at once where processes of the node that have ended left updates in durable outboxes; it is a daemon.
    All methods may be called from any thread.

    With ``exclusive`` it claims the node before it sends anything: while its claim holds, Redis refuses all other
    writers of the node. Where another has the claim, or takes it after this one's lease was over, this publisher is
    fenced: it sends nothing any more, and says so in `put` and `flush`. One that is not exclusive, and finds the node
    claimed, keeps what it has accepted, accepts no more, and goes on once the claim is over.

    Raises OutboxNotWritable where the directory of durable outboxes cannot be used.
    """

    def __init__(self, node: str, settings: NodeSettings, *, exclusive: bool = False, adopts: bool = True) -> None:
        self._closed = False
        self.exclusive = exclusive
        self.exit_flush_s = settings.exit_flush_s
        self._node, self._settings = node, settings
        self._sender = Sender(node, settings, exclusive)
        self._changed, self._lanes = self._sender.changed, self._sender.lanes
        if adopts and self._lanes.adopt(self._lanes.find()):
            with self._changed:
                self._start()

    @property
    def pending(self) -> int:
        """How many updates are accepted and not yet acknowledged, with those of processes that have ended."""
        return self._lanes.pending

    def put(self, entry: Entry) -> None:
        """Accept an update. It waits for the network only where it is set to block, or the process is ending.

        Raises OutboxFull where too many wait already, OutboxNotWritable, NodeFencedError, StreamerClosed after
        `close`, and RuntimeError where the system has no thread for the publisher; the update is then not accepted.
        """
        sender = self._sender
        with self._changed:
            if self._closed or sender.fenced is not None:
                self._refuse()
            if sender.thread is None:
                self._start()
            lane = self._lanes.own or self._lanes.open()
            if not lane.put(entry):
                self._put_in_time(lane, entry)
            if sender.idle:
                self._changed.notify_all()
        if process_end.began is not None:
            process_end.flush_all()

    def claim(self) -> None:
        """Claim the node, where it is exclusive; wait for Redis's answer.

        Raises NodeFencedError where another has it. Where Redis does not answer, the claim is made as soon as it does.
        """
        if self.exclusive:
            self._sender.claim()
            with self._changed:
                if self._sender.fenced is not None:
                    self._refuse()
                if self._sender.thread is None:
                    self._start()

    def check_open(self) -> None:
        """Raise StreamerClosed after `close`."""
        if self._closed:
            raise StreamerClosed(f"the streamer of node {self._node!r} is closed: ask for a new one")

    def urge(self) -> int:
        """Try at once, however long the next wait is. Return the sequence number of the last update accepted."""
        with self._changed:
            self._sender.goal, self._sender.urged = self._lanes.accepted, True
            self._changed.notify_all()
            return self._sender.goal

    def flush(self, timeout_s: float, spent_s: float = 0.0) -> None:
        """Return once Redis has acknowledged all that was accepted before the call, by ended processes, too.

        Raises NotAcknowledged after ``timeout_s`` seconds, of which ``spent_s`` are over, and NodeFencedError.
        """
        self._flush(timeout_s, spent_s)
        with self._changed:
            if self._sender.fenced_for_ever:
                self._refuse()

    def close(self, timeout_s: float) -> None:
        """Accept no more, flush, and end the thread, all within ``timeout_s`` seconds.

        Raises NotAcknowledged, or NodeFencedError; what is left is then given up, unless it is in a durable outbox:
        then it goes out with the node's next start. A claim on the node is given up, too.
        """
        began = time.monotonic()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        try:
            self._flush(timeout_s)
        finally:
            with self._changed:
                self._sender.ended = True
                self._changed.notify_all()
            process_end.forget(self)
            if self._sender.thread is not None:
                self._sender.thread.join(max(0.0, timeout_s - (time.monotonic() - began)))
            with self._changed:
                self._lanes.close()

    def statistics(self) -> Statistics:
        """What there is to tell of it now."""
        with self._changed:
            return self._lanes.statistics(time.monotonic(), self._sender.retries, self._sender.fenced is not None)

    def for_child(self) -> Publisher:
        """A writer for a forked child: as open as this one, and with nothing of what is the parent's to send.

        Where the parent is exclusive, it stays so: the child is refused like any other process.
        """
        publisher = Publisher(self._node, self._settings, adopts=False)
        publisher._closed = self._closed
        return publisher

    def _start(self) -> None:
        self._sender.start()
        process_end.flush_at_end(self)

    def _put_in_time(self, lane: Lane, entry: Entry) -> None:
        """Put an entry once there is room, if that is set and comes in time; else raise OutboxFull."""
        if self._settings.outbox_full == "block":
            put = self._changed.wait_for(
                lambda: self._closed or self._sender.fenced is not None or lane.put(entry),
                self._settings.outbox_block_s,
            )
            if self._closed or self._sender.fenced is not None:
                self._refuse()
            if put:
                return
        raise OutboxFull(self._node, len(lane.outbox), self._sender.reason)

    def _flush(self, timeout_s: float, spent_s: float = 0.0) -> None:
        goal, sender = self.urge(), self._sender
        with self._changed:
            # The summary too: a process that ends after this leaves the fleet's list true.
            self._changed.wait_for(
                lambda: sender.fenced_for_ever or (sender.tried >= goal and not self._lanes.adopted),
                timeout_s - spent_s,
            )
            pending = max(0, goal - self._lanes.acknowledged) + self._lanes.adopted
            if pending and sender.fenced is not None:
                raise self._fenced(sender.fenced, pending)
            if pending:
                raise NotAcknowledged(self._node, pending, timeout_s, sender.reason, self._lanes.durable)

    def _refuse(self) -> None:
        """Raise what says why nothing is accepted."""
        self.check_open()
        if self._sender.fenced is not None:
            raise self._fenced(self._sender.fenced, self.pending)

    def _fenced(self, why: NodeFencedError, pending: int) -> NodeFencedError:
        # Anew, since a traceback belongs to one thread.
        return NodeFencedError(self._node, why.reason, why.final, pending, self._lanes.durable)
