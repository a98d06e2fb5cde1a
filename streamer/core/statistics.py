"""What a publisher can tell of itself, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """A publisher at one moment. From ``accepted`` to ``lost`` the fields only grow.

    ``pending`` updates wait for Redis's acknowledgement, those in memory with ``pending_bytes``, ``spilled`` of them on
    the disk alone, and ``adopted`` of them from processes of the node that have ended; the oldest has been waiting for
    ``oldest_pending_s`` seconds.
    This process's `update` has ``accepted`` so many, and Redis has ``acknowledged`` so many of those at least once.
    ``retries`` counts failed tries to reach Redis, ``resent`` the updates that were sent again since Redis had lost
    them, ``lost`` those that it had lost and that were no longer here. ``epoch`` is the log's, as it was last heard of,
    0 before that. ``fenced`` says that another has the node.
    """

    pending: int
    pending_bytes: int
    spilled: int
    adopted: int
    oldest_pending_s: float
    accepted: int
    acknowledged: int
    retries: int
    resent: int
    lost: int
    epoch: int
    fenced: bool
