"""What the doctor says: findings, and the promises that they put at risk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum


class Level(IntEnum):
    """How bad a finding is: a note need not be acted upon; a problem breaks a promise."""

    OK = 0
    NOTE = 1
    WARNING = 2
    PROBLEM = 3


class Promise(Enum):
    """What nodes and watchers are promised, fault by fault."""

    HISTORY = "The whole history, then live updates, each exactly once and in order."
    ACCEPTED = "What update() has accepted reaches the log, in order."
    LIVE = "Updates reach those who watch at once."
    RECONNECTED = "Connection to Redis lost: publishers hold their updates, feeds are repaired from the lists."
    REPAIRED = "Pub/sub message lost, or pub/sub deaf: feeds are repaired from the lists."
    RESTARTED = "Redis restarted with its data: nothing is lost, indexes go on."
    FAILED_OVER = "Master lost, replica promoted: publishers append again what it lacks, under a new epoch."
    OUTAGE = "Redis down for long: the outbox fills to its bound; what was accepted is still delivered."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Where all is well, ``promise`` is None and ``remedy`` empty.

    ``known`` is False where it could not be looked at.
    """

    level: Level
    title: str
    found: str
    promise: Promise | None = None
    remedy: str = ""
    known: bool = True


def fails(findings: Iterable[Finding], *, strict: bool) -> bool:
    """Whether the findings are bad enough for an exit status that says so: any problem, if ``strict`` any warning."""
    bound = Level.WARNING if strict else Level.PROBLEM
    return any(finding.level >= bound for finding in findings)
