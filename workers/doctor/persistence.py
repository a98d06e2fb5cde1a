"""Whether the log outlives the process, and whether writing it down works."""

from __future__ import annotations

from typing import NamedTuple

from workers.doctor.checks import Case, Check
from workers.doctor.facts import Facts
from workers.doctor.findings import Level, Promise


class Kept(NamedTuple):
    """How data is kept: by an append-only file, by snapshots (None where nobody knows)."""

    append_only: bool
    snapshots: str | None


class Written(NamedTuple):
    """How the last writes to the disk went, each `ok` or not; and whether a failed snapshot makes writes refused."""

    aof: str
    rewrite: str
    snapshot: str
    stops: bool


def _kept(facts: Facts) -> Kept | None:
    append_only = {"yes": True, "no": False, "1": True, "0": False}.get(
        facts.text("appendonly") or facts.text("aof_enabled") or ""
    )
    return None if append_only is None else Kept(append_only, facts.text("save"))


def _keeps_file(facts: Facts) -> bool:
    kept = _kept(facts)
    return kept is not None and kept.append_only


def _written(facts: Facts) -> Written | None:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    if not any(name in facts.info for name in names):
        return None
    aof, rewrite, snapshot = (facts.text(name) or "ok" for name in names)
    stops = facts.text("stop-writes-on-bgsave-error") != "no" and facts.text("save") != ""
    return Written(aof, rewrite, snapshot, stops)


_TURN_ON = "Set appendonly yes and appendfsync everysec, also in the configuration file."

CHECKS: tuple[Check[Kept] | Check[Written] | Check[str] | Check[int], ...] = (
    Check(
        "persistence",
        Promise.RESTARTED,
        _kept,
        "append-only file",
        (
            Case(
                lambda kept: not kept.append_only and bool(kept.snapshots),
                Level.PROBLEM,
                "no append-only file, only snapshots (save {0.snapshots}): a crash loses what came after the last one",
                Promise.RESTARTED,
                _TURN_ON,
            ),
            Case(
                lambda kept: not kept.append_only and kept.snapshots is None,
                Level.PROBLEM,
                "no append-only file, and snapshots at best: a crash loses what came after the last one",
                Promise.RESTARTED,
                _TURN_ON,
            ),
            Case(
                lambda kept: not kept.append_only,
                Level.PROBLEM,
                "neither append-only file nor snapshots: a restart begins with nothing, and replicas follow it",
                Promise.RESTARTED,
                _TURN_ON,
            ),
        ),
    ),
    Check(
        "fsync",
        Promise.RESTARTED,
        lambda facts: facts.text("appendfsync"),
        "appendfsync {0}",
        (
            Case(
                lambda policy: policy == "no",
                Level.WARNING,
                "appendfsync no: when the machine is lost, so are about 30 s of updates, more than publishers still "
                "hold",
                Promise.RESTARTED,
                "Set appendfsync everysec.",
            ),
        ),
        concerns=_keeps_file,
    ),
    Check(
        "fsync during rewrites",
        Promise.RESTARTED,
        lambda facts: facts.text("no-appendfsync-on-rewrite"),
        "goes on",
        (
            Case(
                lambda paused: paused == "yes",
                Level.NOTE,
                "no-appendfsync-on-rewrite yes: during a rewrite a lost machine costs more than a second",
                Promise.RESTARTED,
                "Set no-appendfsync-on-rewrite no, unless the disk is too slow for it.",
            ),
        ),
        concerns=_keeps_file,
    ),
    Check(
        "rewrites of the append-only file",
        Promise.RESTARTED,
        lambda facts: facts.number("auto-aof-rewrite-percentage"),
        "when it has grown by {0} %",
        (
            Case(
                lambda percentage: percentage == 0,
                Level.WARNING,
                "auto-aof-rewrite-percentage 0: the file grows until the disk is full",
                Promise.OUTAGE,
                "Set auto-aof-rewrite-percentage 100, or have BGREWRITEAOF run regularly.",
            ),
        ),
        concerns=_keeps_file,
    ),
    Check(
        "writing to disk",
        Promise.RESTARTED,
        _written,
        "the last writes went well",
        (
            Case(
                lambda written: written.aof != "ok",
                Level.PROBLEM,
                "the append-only file cannot be written ({0.aof}): appends are refused",
                Promise.OUTAGE,
                "Look at the server's log and the space on its disk.",
            ),
            Case(
                lambda written: written.snapshot != "ok" and written.stops,
                Level.PROBLEM,
                "the last snapshot failed ({0.snapshot}): appends are refused (stop-writes-on-bgsave-error)",
                Promise.OUTAGE,
                "Look at the server's log and the space on its disk; without need for snapshots set save ''.",
            ),
            Case(
                lambda written: written.rewrite != "ok",
                Level.WARNING,
                "the last rewrite of the append-only file failed ({0.rewrite}): it grows until the disk is full",
                Promise.RESTARTED,
                "Look at the server's log: mostly memory is short (vm.overcommit_memory) or the disk is full.",
            ),
            Case(
                lambda written: written.snapshot != "ok",
                Level.WARNING,
                "the last snapshot failed ({0.snapshot})",
                Promise.RESTARTED,
                "Look at the server's log and the space on its disk.",
            ),
        ),
    ),
    Check(
        "speed of the disk",
        Promise.LIVE,
        lambda facts: facts.number("aof_delayed_fsync"),
        "no fsync was late",
        (
            Case(
                lambda delayed: delayed > 0,
                Level.NOTE,
                "{0} fsyncs were late, for each of which appends waited",
                Promise.LIVE,
                "If the number grows, give the append-only file a faster disk.",
            ),
        ),
        concerns=_keeps_file,
    ),
)
