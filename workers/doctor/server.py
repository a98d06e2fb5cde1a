"""Which server it is: its kind, its version, its role, its scripts, and whether the URL means it."""

from __future__ import annotations

import re
from typing import NamedTuple

from workers.doctor.checks import Case, Check
from workers.doctor.facts import Facts
from workers.doctor.findings import Level, Promise

TESTED = {"Redis": ((6, 2), (8, 99)), "Valkey": ((7, 0), (9, 99))}
"""The first and the last version of each kind that all is made for and tested on."""

_OTHERS = ("dragonfly_version", "keydb_version", "kvrocks_version", "garnet_version")


class Server(NamedTuple):
    """A kind and a version, and where it stands among those that are supported."""

    kind: str
    version: str
    supported: str

    @property
    def older(self) -> bool:
        """Older than the oldest that is supported."""
        return self._number < TESTED[self.kind][0]

    @property
    def newer(self) -> bool:
        """Newer than any that was tested."""
        return self._number > TESTED[self.kind][1]

    @property
    def _number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:2])


def server_of(facts: Facts) -> Server | None:
    """The server's kind and version; None where it does not tell."""
    supported = "Redis 6.2 to 8 and Valkey 7 to 9"
    for name in _OTHERS:
        if name in facts.info:
            return Server(name.partition("_")[0], str(facts.info[name]), supported)
    if valkey := facts.text("valkey_version"):
        return Server("Valkey", valkey, supported)
    redis = facts.text("redis_version")
    return None if redis is None else Server("Redis", redis, supported)


def _script_limit(facts: Facts) -> int | None:
    busy = facts.number("busy-reply-threshold")
    return facts.number("lua-time-limit") if busy is None else busy


CHECKS: tuple[Check[Server] | Check[str] | Check[int], ...] = (
    Check(
        "server",
        Promise.HISTORY,
        server_of,
        "{0.kind} {0.version}",
        (
            Case(
                lambda server: server.kind not in TESTED,
                Level.WARNING,
                "{0.kind} {0.version}, on which nothing was tested",
                Promise.HISTORY,
                "Use {0.supported}, or run the tests on it first.",
            ),
            Case(
                lambda server: server.older,
                Level.PROBLEM,
                "{0.kind} {0.version} lacks commands that are needed",
                Promise.HISTORY,
                "Upgrade: {0.supported} are supported.",
            ),
            Case(
                lambda server: server.newer,
                Level.NOTE,
                "{0.kind} {0.version} is newer than what was tested",
                Promise.HISTORY,
                "{0.supported} are tested. Try it with `streamer bench` first.",
            ),
        ),
    ),
    Check(
        "role",
        Promise.ACCEPTED,
        lambda facts: facts.text("role"),
        "a {0}",
        (
            Case(
                lambda role: role == "slave",
                Level.PROBLEM,
                "a replica, which is read-only: nodes cannot append",
                Promise.ACCEPTED,
                "Let the URL name the master; with Sentinel use redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, "
                "which finds it.",
            ),
        ),
    ),
    Check(
        "time limit of scripts",
        Promise.LIVE,
        _script_limit,
        "{0} ms (appends and reads take a few)",
        (
            Case(
                lambda limit_ms: 0 < limit_ms < 1000,
                Level.WARNING,
                "{0} ms: if an append takes longer, all others are answered BUSY",
                Promise.LIVE,
                "Set busy-reply-threshold (before Redis 7 lua-time-limit) to 5000.",
            ),
        ),
    ),
)
