"""The node's line in the fleet's list, as its publisher renews it."""

from __future__ import annotations

import logging
import time

from streamer.core.entries import Entry
from streamer.core.records import unpack_tail
from streamer.log.fleet import Summary
from streamer.log.node_log import NodeLog
from streamer.reporting import describe, warn

SUMMARY_S = 1.0
"""How often at the most the fleet's summary is renewed."""
SUMMARY_RETRY_S = 10.0

_log = logging.getLogger(__name__)


class FleetSummary:
    """What the fleet is to be told of a node: best effort, for one thread."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._latest: tuple[Entry, int, int] | None = None
        self._untold = False
        self._due = 0.0
        self._reason: str | None = None

    def note(self, entry: Entry, index: int) -> None:
        """This is the node's last update now."""
        self._latest, self._untold = (entry, index, time.time_ns() // 1_000_000), True

    def due_in_s(self, now: float, urgent: bool) -> float | None:
        """In how many seconds it should be renewed: None for not at all, and at once if it is urgent."""
        if not self._untold:
            return None
        return 0 if urgent else max(0.0, self._due - now)

    def tell(self, log: NodeLog) -> None:
        """Renew it. A failure is logged once, and delays only the next time."""
        assert self._latest is not None
        (job, tail), index, seen_ms = self._latest
        _, status, _ = unpack_tail(tail)
        self._untold, wait_s = False, SUMMARY_S
        try:
            log.report(Summary(seen_ms, status, job, index))
            self._reason = None
        except Exception as error:
            self._untold, wait_s = True, SUMMARY_RETRY_S
            known, self._reason = self._reason, describe(error)
            if self._reason != known:
                warn(_log, "the fleet's summary of node %r waits: %s", self._node, error)
        self._due = time.monotonic() + wait_s
