"""From facts to findings."""

from __future__ import annotations

from typing import Any

from workers.doctor import cluster, connections, memory, persistence, replication, rights, server, trials
from workers.doctor.checks import Check
from workers.doctor.facts import Facts
from workers.doctor.findings import Finding, Level, Promise

CHECKS: tuple[Check[Any], ...] = (
    *server.CHECKS,
    *rights.CHECKS,
    *trials.CHECKS,
    *memory.CHECKS,
    *persistence.CHECKS,
    *connections.CHECKS,
    *replication.CHECKS,
    *cluster.CHECKS,
)

_SENTINEL = Finding(
    Level.PROBLEM,
    "server",
    "the URL leads to a Sentinel, which holds no log",
    Promise.ACCEPTED,
    "Use redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, or the address of the master.",
)


def examine(facts: Facts) -> list[Finding]:
    """Judge the facts: one finding for each check that concerns this Redis, in the order of the checks."""
    if facts.sentinel:
        return [_SENTINEL]
    return [finding for check in CHECKS if (finding := check.examine(facts)) is not None]
