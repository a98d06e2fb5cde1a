"""What delivering costs a server: its CPU time and memory while clients that wait get what is published."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.clients import Clients, Report
from tests.benchmarks.lab import Server
from workers.bench.meter import Meter
from workers.local_parts import PartFailed


class Cost(NamedTuple):
    """What a server used while ``updates`` were delivered to all clients together, in ``took_s``."""

    updates: int
    cpu_s: float
    took_s: float

    @property
    def us_per_update(self) -> float | None:
        """CPU time in µs for each delivered update; None where it is less than a system's clock of it can tell."""
        return self.cpu_s * 1e6 / self.updates if self.cpu_s else None

    @property
    def updates_per_s(self) -> float:
        """How many arrived each second."""
        return self.updates / self.took_s


def cost_of(server: Server, doing: Callable[[], int]) -> Cost:
    """Measure a server during a call, which returns how many updates it has had delivered."""
    meter = Meter({"server": server.pid})
    began = time.monotonic()
    updates = doing()
    took_s = time.monotonic() - began
    meter.stop()
    cpu_s = meter.cpu_s("server")
    if cpu_s is None:
        raise PartFailed("this system does not tell the CPU time of processes")
    return Cost(updates, cpu_s, took_s)
