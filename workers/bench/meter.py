"""Measures what processes use between two moments."""

from __future__ import annotations

import time
from collections.abc import Mapping

from workers.bench.usage import Usage, usage_of


class Meter:
    """Measures processes, by name; what is None among them, or cannot be measured, stays None."""

    def __init__(self, pids: Mapping[str, int | None]) -> None:
        self._pids = pids
        self._before = self._now()
        self._after = self._before
        self._began = time.monotonic()
        self.wall_s = 0.0

    def stop(self) -> None:
        """End the time that is measured."""
        self._after, self.wall_s = self._now(), time.monotonic() - self._began

    def cpu_s(self, name: str) -> float | None:
        """The CPU time that a process and its descendants used, in seconds."""
        before, after = self._before[name], self._after[name]
        return None if before is None or after is None else max(0.0, after.cpu_s - before.cpu_s)

    def share(self, name: str) -> float | None:
        """The same as a share of one processor's time."""
        cpu_s = self.cpu_s(name)
        return None if cpu_s is None or not self.wall_s else cpu_s / self.wall_s

    def _now(self) -> dict[str, Usage | None]:
        return {name: None if pid is None else usage_of(pid) for name, pid in self._pids.items()}
