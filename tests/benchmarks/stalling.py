"""Clients that do not read, beside others that do: what they cost those and the gateway, and that they lose nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tests.benchmarks.costs import measuring
from tests.benchmarks.figures import Figure, Target, ratio
from tests.benchmarks.lab import Lab, content_of, new_node

STALL_S = 600
"""Longer than any run: the gateway is not to close those that stall."""

AS_FAST = Target(least=0.9, words="as fast (within 10 %)")


class Stall(NamedTuple):
    """What came of a run: how fast those had everything that read, and how much more memory the gateway then held."""

    per_s: float
    us_per_update: float | None
    grown_bytes: int


def stalled(lab: Lab, *, reading: int, stalling: int, updates: int) -> Iterable[Figure]:
    """The same updates, all at once, to clients that read: without and with others beside them that do not."""
    alone = _run(lab, reading, 0, updates)
    beside = _run(lab, reading, stalling, updates)
    return [
        Figure("alone_per_s", "delivered per second, without stalled clients", alone.per_s, "/s"),
        Figure("per_s", "delivered per second to those that read, beside them", beside.per_s, "/s"),
        Figure("ratio", "with stalled clients to without", ratio(beside.per_s, alone.per_s), "×", AS_FAST),
        Figure("alone_us_per_update", "gateway: CPU time per update, without", alone.us_per_update, "µs"),
        Figure("us_per_update", "gateway: CPU time per update, with", beside.us_per_update, "µs"),
        Figure(
            "kib_per_stalled",
            "gateway: memory per stalled client",
            beside.grown_bytes / 1024 / stalling,
            "KiB",
            Target(most=64),
        ),
    ]


def _run(lab: Lab, reading: int, stalling: int, updates: int) -> Stall:
    node, content = new_node(), content_of(updates)
    with (
        lab.publisher(node, content) as publisher,
        lab.gateway("--stall-s", str(STALL_S)) as gateway,
        lab.clients(gateway, f"/nodes/{node}", clients=reading + stalling, content=content, stalled=stalling) as load,
    ):
        load.wait_open()
        lab.settle()
        before = gateway.memory_bytes()
        with measuring(gateway) as cost:
            publisher.go()
            load.wait_read()
        grown = gateway.memory_bytes() - before
        publisher.report()
        if stalling:
            load.let_stalled_read()
        load.finish()
    owed = reading * updates
    return Stall(cost.per_s(owed), cost.us_each(owed), grown)
