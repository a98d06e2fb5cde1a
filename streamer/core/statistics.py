"""What a publisher can tell of itself, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Statistics:
    """A publisher at one moment. All but the first four fields and ``fenced`` only grow.

    ``pending`` updates wait for Redis's acknowledgement, ``spilled`` of them on the disk alone, and ``adopted`` of
    them from processes of the node that have ended; the oldest has been waiting for ``oldest_pending_s`` seconds.
    This process's `update` has ``accepted`` so many, and Redis has ``acknowledged`` so many of those at least once.
    ``retries`` counts failed tries to reach Redis, ``resent`` the updates that were sent again since Redis had lost
    them, ``lost`` those that it had lost and that were no longer here. ``fenced`` says that another has the node.
    """

    pending: int
    spilled: int
    adopted: int
    oldest_pending_s: float
    accepted: int
    acknowledged: int
    retries: int
    resent: int
    lost: int
    fenced: bool
