"""Memory: whether it is bounded, how much is left, and what happens when it is full."""

from __future__ import annotations

from typing import NamedTuple

from workers.doctor.checks import Case, Check
from workers.doctor.facts import Facts, Size
from workers.doctor.findings import Level, Promise


class Eviction(NamedTuple):
    """What is evicted when memory is full, where there is a bound, and how many keys have been."""

    policy: str
    bounded: bool
    evicted: int


class Memory(NamedTuple):
    """The bound of memory, 0 for none, what is used, and what the machine has, 0 where that is not known."""

    bound: Size
    used: Size
    machine: Size

    @property
    def percent(self) -> float:
        """How much of the bound is used."""
        return 100 * self.used / self.bound if self.bound else 0.0


def _eviction(facts: Facts) -> Eviction | None:
    policy = facts.text("maxmemory-policy")
    if policy is None:
        return None
    return Eviction(policy, facts.number("maxmemory") != 0, facts.number("evicted_keys") or 0)


def _memory(facts: Facts) -> Memory | None:
    bound, used = facts.number("maxmemory"), facts.number("used_memory")
    if bound is None or used is None:
        return None
    counted = used - (facts.number("mem_not_counted_for_evict") or 0)
    return Memory(Size(bound), Size(counted), Size(facts.number("total_system_memory") or 0))


CHECKS: tuple[Check[Eviction] | Check[Memory], ...] = (
    Check(
        "eviction",
        Promise.HISTORY,
        _eviction,
        "maxmemory-policy {0.policy}",
        (
            Case(
                lambda eviction: eviction.policy != "noeviction" and eviction.bounded,
                Level.PROBLEM,
                "maxmemory-policy {0.policy}: when memory is full, lists are dropped, which are the log "
                "({0.evicted} keys so far)",
                Promise.HISTORY,
                "Set maxmemory-policy noeviction: then appends fail, and publishers hold their updates and retry.",
            ),
            Case(
                lambda eviction: eviction.policy != "noeviction",
                Level.WARNING,
                "maxmemory-policy {0.policy}: as soon as a maxmemory is set, lists are dropped, which are the log",
                Promise.HISTORY,
                "Set maxmemory-policy noeviction.",
            ),
            Case(
                lambda eviction: eviction.evicted > 0,
                Level.WARNING,
                "{0.evicted} keys were evicted since the server started, under an earlier policy",
                Promise.HISTORY,
                "If some were of this prefix, start the logs concerned anew; alert on evicted_keys.",
            ),
        ),
    ),
    Check(
        "memory",
        Promise.OUTAGE,
        _memory,
        "{0.used} of {0.bound} used",
        (
            Case(
                lambda memory: not memory.bound,
                Level.WARNING,
                "no maxmemory: it takes what the machine has until the kernel kills it ({0.used} used)",
                Promise.RESTARTED,
                "Set maxmemory to about half of the memory that it may have: a rewrite of the append-only file forks.",
            ),
            Case(
                lambda memory: memory.percent >= 95,
                Level.PROBLEM,
                "{0.used} of {0.bound} used: appends fail, or soon will",
                Promise.OUTAGE,
                "Raise maxmemory, or keep less: --retention-records, --job-ttl-s.",
            ),
            Case(
                lambda memory: memory.percent >= 80,
                Level.WARNING,
                "{0.used} of {0.bound} used; when it is full, appends fail",
                Promise.OUTAGE,
                "Raise maxmemory, or keep less: --retention-records, --job-ttl-s.",
            ),
            Case(
                lambda memory: 0 < memory.machine * 3 // 4 < memory.bound,
                Level.WARNING,
                "maxmemory {0.bound} of the machine's {0.machine}: a rewrite of the append-only file forks, and may "
                "need as much again",
                Promise.RESTARTED,
                "Set maxmemory to about half of the machine's memory.",
            ),
        ),
    ),
)
