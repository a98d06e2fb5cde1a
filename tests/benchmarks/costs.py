"""What work costs a server: its CPU time, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.lab import Server
from workers.bench.meter import Meter
from workers.local_parts import PartFailed


class Cost:
    """What a server uses from now on until `stop`, in seconds. Raises PartFailed where this system does not tell."""

    def __init__(self, server: Server) -> None:
        self._meter = Meter({"server": server.pid})
        self._began = time.monotonic()
        self._stopped = False
        self.cpu_s = self.took_s = 0.0

    def stop(self) -> None:
        """End the time that is measured; again changes nothing."""
        if self._stopped:
            return
        self._stopped = True
        self.took_s = time.monotonic() - self._began
        self._meter.stop()
        cpu_s = self._meter.cpu_s("server")
        if cpu_s is None:
            raise PartFailed("this system does not tell the CPU time of processes")
        self.cpu_s = cpu_s

    def us_each(self, count: int) -> float | None:
        """CPU time in µs for each of so many; None where the system's clock of it, which ticks, tells nothing yet."""
        return self.cpu_s * 1e6 / count if self.cpu_s else None

    def per_s(self, count: int) -> float:
        """How many of so many were done each second."""
        return count / self.took_s


@contextmanager
def measuring(server: Server) -> Iterator[Cost]:
    """Measure a server during the block, or until it says `stop`."""
    cost = Cost(server)
    yield cost
    cost.stop()
