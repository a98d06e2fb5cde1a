"""How large a storm is, and how long it lasts."""

from __future__ import annotations

from dataclasses import dataclass

from workers.bench.storm.content import Content


@dataclass(frozen=True)
class Plan:
    """So many processes of each kind; ``rate`` updates a second of each node; a fault every so many seconds.

    ``timeout_s`` is how long nothing may come on after the storm before it is given up.
    """

    duration_s: float
    nodes: int
    gateways: int
    clients: int
    rate: float
    seed: int
    fault_every_s: float
    size: int = 40
    jobs: int = 2
    client_processes: int = 2
    timeout_s: float = 60.0

    @property
    def content(self) -> Content:
        """What the nodes publish."""
        return Content(self.seed, self.size, self.jobs)
