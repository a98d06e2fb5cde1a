"""What was tried and measured: an append, a delivery, round trips, the clock."""

from __future__ import annotations

from workers.doctor.checks import Case, Check
from workers.doctor.facts import Clock, Spread, Trial
from workers.doctor.findings import Level, Promise

EARLIEST_S = 1_600_000_000
"""In 2020: no clock that is right shows less."""


_NOT_TRIED = "It is tried only on a master, by a user who lacks no right, without --role and --user."
_NEAR = "Run Redis near to its nodes and gateways; look at SLOWLOG GET and LATENCY DOCTOR for what holds it up."

CHECKS: tuple[Check[Trial] | Check[Spread] | Check[Clock], ...] = (
    Check(
        "append and read",
        Promise.ACCEPTED,
        lambda facts: facts.appending,
        "work on a throw-away node",
        (
            Case(
                lambda trial: bool(trial.fault),
                Level.PROBLEM,
                "fail on a throw-away node: {0.fault}",
                Promise.ACCEPTED,
                "See the other findings, and the server's log.",
            ),
        ),
        unknown=_NOT_TRIED,
    ),
    Check(
        "pub/sub",
        Promise.LIVE,
        lambda facts: facts.delivering,
        "what is appended is delivered",
        (
            Case(
                lambda trial: bool(trial.fault),
                Level.PROBLEM,
                "{0.fault}",
                Promise.LIVE,
                "If something stands between (a proxy, a load balancer), let it pass pub/sub, or go around it.",
            ),
        ),
        unknown=_NOT_TRIED,
    ),
    Check(
        "round trip",
        Promise.LIVE,
        lambda facts: facts.ping,
        "median {0.median_ms:.2f} ms, 99 % within {0.p99_ms:.2f} ms ({0.times} pings)",
        (
            Case(
                lambda ping: ping.median_ms > 20 or ping.p99_ms > 200,
                Level.WARNING,
                "median {0.median_ms:.1f} ms, 99 % within {0.p99_ms:.0f} ms: every append and every read waits as long",
                Promise.LIVE,
                _NEAR,
            ),
        ),
        unknown=_NOT_TRIED,
    ),
    Check(
        "time of an append",
        Promise.LIVE,
        lambda facts: facts.append,
        "median {0.median_ms:.2f} ms, 99 % within {0.p99_ms:.2f} ms ({0.times} of one update)",
        (
            Case(
                lambda append: append.median_ms > 50 or append.p99_ms > 500,
                Level.WARNING,
                "median {0.median_ms:.1f} ms, 99 % within {0.p99_ms:.0f} ms",
                Promise.LIVE,
                _NEAR,
            ),
        ),
        unknown=_NOT_TRIED,
    ),
    Check(
        "clock",
        Promise.FAILED_OVER,
        lambda facts: facts.clock,
        "as this machine's, within {0.error_s:.3f} s",
        (
            Case(
                lambda clock: clock.time_s < EARLIEST_S,
                Level.PROBLEM,
                "the server's clock is years behind: epochs of different masters may be taken for the same",
                Promise.FAILED_OVER,
                "Have the server's machine set its clock (NTP).",
            ),
            Case(
                lambda clock: clock.off_s >= 1,
                Level.WARNING,
                "this machine is {0.ahead_s:+.1f} s from the server: timestamps mislead, and so do epochs if masters "
                "differ as much",
                Promise.FAILED_OVER,
                "Have both machines set their clocks (NTP).",
            ),
        ),
        unknown="Allow TIME.",
    ),
)
