"""The jobs that a node runs, as its publisher notes them in the jobs' indexes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from streamer.log.node_log import NodeLog
from streamer.reporting import describe, warn

RENEW_S = 60.0
"""How old a note may become. Where an index was lost, the next update of the job after that puts the node back."""

TTL_S = 3600
"""For so long an index outlives the job's list: longer than until the note is renewed."""

PATIENCE_S = 5.0
"""For so long updates wait for an index that cannot be written; then they go without, and it is tried now and then."""

RETRY_S = 10.0

MOST_DUE = 10_000
"""Of more jobs that wait to be told, only the last are."""

_log = logging.getLogger(__name__)


class JobAnnouncements:
    """What is, and what is to be, in the indexes of the jobs of a node; for one thread.

    A job is to be announced before its first update is appended, so that no crash can come between; so it is once a
    job, and again where the log is another, or RENEW_S later.
    """

    def __init__(self, node: str, job_ttl_s: int) -> None:
        self._node, self._ttl_s = node, job_ttl_s and job_ttl_s + TTL_S
        self._told: dict[str, float] = {}
        self._due: dict[str, None] = {}
        self._log_at = ("", 0)
        self._failing_since: float | None = None
        self._retry_at = 0.0
        self._reason: str | None = None

    def want(self, jobs: Iterable[str], now: float) -> None:
        """These jobs are about to have updates: announce those that are not, or not lately."""
        self._forget_old(now)
        self._due.update((job, None) for job in jobs if job not in self._told)

    def stand_on(self, log_id: str, epoch: int) -> bool:
        """The log is this one: return whether it was another, whose jobs must all be announced again."""
        before, self._log_at = self._log_at, (log_id, epoch)
        if before in (("", 0), self._log_at):
            return False
        self._told.clear()
        return True

    def due_in_s(self, now: float) -> float | None:
        """In how many seconds something should be told: None for not at all."""
        return max(0.0, self._retry_at - now) if self._due else None

    def tell(self, log: NodeLog) -> None:
        """Tell what is due. Raises what telling raises, for PATIENCE_S; then a failure only delays the next try."""
        now = time.monotonic()
        if not self._due or now < self._retry_at:
            return
        try:
            log.announce(self._due, self._ttl_s)
        except Exception as error:
            if self._failing_since is None:
                self._failing_since = now
            if now - self._failing_since < PATIENCE_S:
                raise
            self._put_off(error, now + RETRY_S)
        else:
            self._told.update((job, now) for job in self._due)
            self._due.clear()
            self._failing_since, self._retry_at, self._reason = None, 0.0, None

    def try_again(self) -> None:
        """Updates cannot be appended either: what is due comes first again."""
        self._retry_at = 0.0

    def _put_off(self, error: Exception, until: float) -> None:
        """Try again later; say why, once, where updates have been appended meanwhile."""
        if self._retry_at and self._reason != describe(error):
            self._reason = describe(error)
            warn(_log, "those who follow jobs may not learn that node %r runs them: %s", self._node, error)
        self._retry_at = until
        for job in list(self._due)[:-MOST_DUE]:
            del self._due[job]

    def _forget_old(self, now: float) -> None:
        # They are in the order in which they were told.
        while self._told and now - self._told[oldest := next(iter(self._told))] >= RENEW_S:
            del self._told[oldest]
