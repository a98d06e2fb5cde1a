"""The figures that the project must reach: what each row measures, at its full size, and at one that is quick."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.compressing import compress
from tests.benchmarks.delivering import burst, latency, linger, live
from tests.benchmarks.figures import Figure
from tests.benchmarks.growing import by_clients, by_log, by_topics
from tests.benchmarks.joining import connect, idle, join
from tests.benchmarks.lab import Lab
from tests.benchmarks.publishing import publish
from tests.benchmarks.stalling import stalled
from tests.benchmarks.topics import topics


@dataclass(frozen=True)
class Row:
    """A benchmark. ``measure`` is one round of it, called with one of the two sizes."""

    name: str
    what: str
    measure: Callable[..., Iterable[Figure]]
    full: Mapping[str, Any]
    small: Mapping[str, Any]

    def run(self, lab: Lab, *, small: bool) -> list[Figure]:
        """Run a round. Raises NotWhole where an update did not arrive once and in order, and PartFailed."""
        lab.empty()
        return list(self.measure(lab, **(self.small if small else self.full)))


ROWS = (
    Row(
        "live-200",
        "1,000 clients wait; 200 updates/s for 4 s",
        live,
        {"clients": 1000, "updates": 800, "rate": 200},
        {"clients": 20, "updates": 50, "rate": 200},
    ),
    Row(
        "live-1000",
        "1,000 clients wait; 1,000 updates/s for 4 s",
        live,
        {"clients": 1000, "updates": 4000, "rate": 1000},
        {"clients": 20, "updates": 100, "rate": 1000},
    ),
    Row(
        "burst",
        "1,000 clients wait; 2,000 updates at once",
        burst,
        {"clients": 1000, "updates": 2000},
        {"clients": 20, "updates": 1200},
    ),
    Row(
        "join-1000",
        "1,000 clients connect, each owed 1,000 updates",
        join,
        {"clients": 1000, "history": 1000},
        {"clients": 20, "history": 50},
    ),
    Row(
        "join-10000",
        "1,000 clients connect, each owed 10,000 updates",
        join,
        {"clients": 1000, "history": 10_000},
        {"clients": 20, "history": 1200},
    ),
    Row(
        "latency",
        "1,000 clients wait; 200 updates/s for 4 s",
        latency,
        {"clients": 1000, "updates": 800, "rate": 200},
        {"clients": 20, "updates": 50, "rate": 200},
    ),
    Row(
        "linger",
        "1,000 clients wait; 200 updates/s for 4 s, which the gateway collects for 0, 5 and 20 ms",
        linger,
        {"clients": 1000, "updates": 800, "rate": 200, "times_ms": (0, 5, 20)},
        {"clients": 20, "updates": 50, "rate": 200, "times_ms": (0, 20)},
    ),
    Row(
        "compress",
        "1,000 clients connect, each owed 1,000 updates, plain and compressed",
        compress,
        {"clients": 1000, "history": 1000},
        {"clients": 20, "history": 50},
    ),
    Row(
        "idle",
        "1,000 connections without updates, pings on",
        idle,
        {"clients": 1000, "ping_s": 2.0},
        {"clients": 20, "ping_s": 0.2},
    ),
    Row(
        "stalled",
        "5,000 updates at once to 1,000 clients that read, without and with 1,000 that do not until the end",
        stalled,
        {"reading": 1000, "stalling": 1000, "updates": 5000},
        {"reading": 10, "stalling": 10, "updates": 5000},
    ),
    Row(
        "topics",
        "1,000 jobs, each with one watcher; 50,000 updates of them in turn, at once",
        topics,
        {"jobs": 1000, "updates": 50_000},
        {"jobs": 20, "updates": 100},
    ),
    Row(
        "publisher",
        "one process publishes 100,000 updates; the append script alone gets the same",
        publish,
        {"updates": 100_000},
        {"updates": 1200},
    ),
    Row("connecting", "5,000 WebSocket handshakes", connect, {"clients": 5000}, {"clients": 20}),
    Row(
        "growth-clients",
        "100, 1,000 and 10,000 clients; 100,000 deliveries/s for 5 s",
        by_clients,
        {"sizes": (100, 1000, 10_000), "deliveries_per_s": 100_000, "seconds": 5.0},
        {"sizes": (5, 20), "deliveries_per_s": 2000, "seconds": 0.2},
    ),
    Row(
        "growth-topics",
        "1, 1,000 and 10,000 jobs, each with one watcher; 10,000 updates of them in turn, 2,000/s",
        by_topics,
        {"sizes": (1, 1000, 10_000), "updates": 10_000, "rate": 2000},
        {"sizes": (1, 20), "updates": 50, "rate": 200},
    ),
    Row(
        "growth-log",
        "logs of 1,000, 10,000 and 100,000 updates; 1,000, 1,000 and 100 clients connect, each owed all",
        by_log,
        {"sizes": (1000, 10_000, 100_000), "clients": (1000, 1000, 100)},
        {"sizes": (50, 1200), "clients": (20, 10)},
    ),
)
BY_NAME = {row.name: row for row in ROWS}
