"""Replicas: whether there are any, how far behind they are, what the master wants of them, and who promotes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from workers.doctor.checks import Case, Check
from workers.doctor.facts import Facts, Size
from workers.doctor.findings import Level, Promise

LAG_S = 5
LAG_BYTES = 1 << 20


class Replicas(NamedTuple):
    """How many replicas there are; in words, those that are not in step."""

    number: int
    behind: str


class Wanted(NamedTuple):
    """How many replicas must be in step before a write is taken, what that means, and how many there are, and are in
    step (None where no number is wanted)."""

    least: int
    max_lag_s: int
    replicas: int
    in_step: int | None


class Watched(NamedTuple):
    """How many Sentinels watch the server, how many replicas it has, and whether the URL asks Sentinels."""

    sentinels: int
    replicas: int
    asked: bool


def _replicas(facts: Facts) -> Replicas | None:
    count = facts.number("connected_slaves")
    if count is None:
        return None
    offset = facts.number("master_repl_offset") or 0
    each = [facts.info.get(f"slave{n}") for n in range(count)]
    words = [_behind(replica, offset) for replica in each if isinstance(replica, Mapping)]
    return Replicas(count, "; ".join(word for word in words if word))


def _behind(replica: Mapping[str, object], master_offset: int) -> str:
    """In words, by how much a replica is out of step; empty where it is in step."""
    name = f"{replica.get('ip')}:{replica.get('port')}"
    if (state := replica.get("state")) != "online":
        return f"{name} is {state}"
    lag_s, offset = replica.get("lag"), replica.get("offset")
    if isinstance(lag_s, int) and lag_s > LAG_S:
        return f"{name} was last heard of {lag_s} s ago"
    if isinstance(offset, int) and master_offset - offset > LAG_BYTES:
        return f"{name} lacks {Size(master_offset - offset)}"
    return ""


def _wanted(facts: Facts) -> Wanted | None:
    least, max_lag_s = facts.number("min-replicas-to-write"), facts.number("min-replicas-max-lag")
    if least is None or max_lag_s is None:
        return None
    # With either at 0 the server does not count.
    counts = least > 0 and max_lag_s > 0
    in_step = facts.number("min_slaves_good_slaves") if counts else None
    return Wanted(least if counts else 0, max_lag_s, facts.number("connected_slaves") or 0, in_step)


def _watched(facts: Facts) -> Watched | None:
    if facts.sentinels is None:
        return None
    return Watched(facts.sentinels, facts.number("connected_slaves") or 0, facts.scheme.endswith("+sentinel"))


def _is_master(facts: Facts) -> bool:
    return not facts.replica


def _stands_alone(facts: Facts) -> bool:
    return not facts.clustered and not facts.replica


CHECKS: tuple[Check[Replicas] | Check[Wanted] | Check[Watched], ...] = (
    Check(
        "replicas",
        Promise.FAILED_OVER,
        _replicas,
        "{0.number} in step",
        (
            Case(
                lambda replicas: not replicas.number,
                Level.NOTE,
                "none: when this server's machine fails, updates wait at their publishers until it is back",
                Promise.FAILED_OVER,
                "If that may take longer than an outbox lasts, add a replica, and Sentinels or a cluster.",
            ),
            Case(
                lambda replicas: bool(replicas.behind),
                Level.WARNING,
                "{0.behind}: promoted now, it would lack what publishers may no longer hold",
                Promise.FAILED_OVER,
                "Look at that replica's log, its link and its disk.",
            ),
        ),
        concerns=_is_master,
    ),
    Check(
        "replicas for writes",
        Promise.FAILED_OVER,
        _wanted,
        "{0.least}, with a lag of at most {0.max_lag_s} s",
        (
            Case(
                lambda wanted: wanted.in_step is not None and wanted.in_step < wanted.least,
                Level.PROBLEM,
                "{0.least}, of which {0.in_step} are in step: appends are refused now",
                Promise.ACCEPTED,
                "Bring the replicas back, or set min-replicas-to-write to a number that there is.",
            ),
            Case(
                lambda wanted: wanted.least > 0 and wanted.least == wanted.replicas,
                Level.WARNING,
                "{0.least}, as many as there are: appends are refused as soon as one replica is away",
                Promise.ACCEPTED,
                "Add a replica, or lower min-replicas-to-write.",
            ),
            Case(
                lambda wanted: wanted.least > 0 and wanted.max_lag_s > 10,
                Level.NOTE,
                "{0.least}, but min-replicas-max-lag is {0.max_lag_s}: a master that is cut off takes appends for so "
                "many seconds, which publishers then send again",
                Promise.FAILED_OVER,
                "Set min-replicas-max-lag 10.",
            ),
            Case(
                lambda wanted: wanted.least == 0 and wanted.replicas > 1,
                Level.NOTE,
                "not set: a master that is cut off from its replicas goes on taking appends, which a failover drops",
                Promise.FAILED_OVER,
                "Set min-replicas-to-write 1 and min-replicas-max-lag 10.",
            ),
            Case(
                lambda wanted: wanted.least == 0,
                Level.OK,
                "not set",
                Promise.FAILED_OVER,
                "",
            ),
        ),
        concerns=_is_master,
    ),
    Check(
        "Sentinels",
        Promise.FAILED_OVER,
        _watched,
        "{0.sentinels} watch this server",
        (
            Case(
                lambda watched: watched.sentinels > 0 and not watched.asked,
                Level.WARNING,
                "{0.sentinels} watch this server, but the URL names the server: after a failover it leads to a "
                "replica, or nowhere",
                Promise.FAILED_OVER,
                "Use redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, with the addresses of the Sentinels.",
            ),
            Case(
                lambda watched: 0 < watched.sentinels < 3,
                Level.WARNING,
                "only {0.sentinels}: without one of them there may be no majority for a failover",
                Promise.FAILED_OVER,
                "Run three, on machines of their own.",
            ),
            Case(
                lambda watched: not watched.sentinels and watched.replicas > 0,
                Level.NOTE,
                "none watch this server, though it has replicas: unless something else does, nobody promotes one",
                Promise.FAILED_OVER,
                "Run three Sentinels, and name them in the URL: redis+sentinel://HOST:PORT,HOST:PORT/SERVICE.",
            ),
            Case(
                lambda watched: not watched.sentinels,
                Level.OK,
                "none, and no replicas for them",
                Promise.FAILED_OVER,
                "",
            ),
        ),
        concerns=_stands_alone,
        unknown="Look for Sentinels yourself, or allow PUBSUB NUMSUB.",
    ),
)
