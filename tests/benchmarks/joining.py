"""Clients that connect: what history costs that they are owed, and what connecting costs by itself."""

from __future__ import annotations

import time
from collections.abc import Iterable

from tests.benchmarks.clients import NotWhole
from tests.benchmarks.costs import Cost, measuring
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.lab import Lab, Server, content_of, new_node
from workers.bench.content import Content

PINGS = 2.5
"""So many times as long as the gateway waits between two pings, connections are left idle."""


def join(lab: Lab, *, clients: int, history: int) -> Iterable[Figure]:
    """Clients that connect all at once, each of which is owed all that was published before."""
    node, content = new_node(), content_of(history)
    lab.publish(node, content)
    with lab.gateway() as gateway:
        before = gateway.peak_memory_bytes()
        cost = join_all(lab, gateway, node, content, clients)
        grown = gateway.peak_memory_bytes() - before
    owed = clients * history
    return [
        Figure("per_s", "delivered per second", cost.per_s(owed), "/s", Target(least=2_500_000)),
        Figure("us_per_update", "gateway: CPU time per delivered update", cost.us_each(owed), "µs", Target(most=0.4)),
        Figure("grown_mib", "gateway: its greatest memory, above that before", grown / 2**20, "MiB", Target(most=100)),
    ]


def join_all(lab: Lab, gateway: Server, node: str, content: Content, clients: int) -> Cost:
    """Connect clients to a node that has the content, and measure the gateway until each one has it all."""
    with (
        measuring(gateway) as cost,
        lab.clients(gateway, f"/nodes/{node}", clients=clients, content=content, at_once=clients) as load,
    ):
        load.wait_read()
        cost.stop()
        load.finish()
    return cost


def connect(lab: Lab, *, clients: int) -> Iterable[Figure]:
    """WebSocket handshakes, each of a client that joins a node without updates."""
    with lab.gateway() as gateway:
        cost = connect_all(lab, gateway, new_node(), clients)
    handshakes = clients / cost.cpu_s if cost.cpu_s else None
    return [
        Figure("handshakes_per_s", "handshakes per second of a core", handshakes, "/s", Target(least=3000)),
        Figure("per_s", "handshakes per second", cost.per_s(clients), "/s"),
    ]


def connect_all(lab: Lab, gateway: Server, node: str, clients: int) -> Cost:
    """Connect clients to a node without updates, and measure the gateway until all have joined."""
    with measuring(gateway) as cost, lab.clients(gateway, f"/nodes/{node}", clients=clients) as load:
        load.wait_open()
        cost.stop()
        load.finish(at_once=True)
    return cost


def idle(lab: Lab, *, clients: int, ping_s: float) -> Iterable[Figure]:
    """Connections without updates, which the gateway pings and which answer."""
    with lab.gateway("--ping-s", f"{ping_s}") as gateway:
        # What the first connection has the gateway take, it takes once.
        connect_all(lab, gateway, new_node(), 1)
        before = gateway.memory_bytes()
        with lab.clients(gateway, f"/nodes/{new_node()}", clients=clients) as load:
            load.wait_open()
            lab.settle()
            time.sleep(PINGS * ping_s)
            grown = gateway.memory_bytes() - before
            report = load.finish(at_once=True)
    if report.pings < clients:
        raise NotWhole(f"{clients:,} connections were pinged {report.pings:,} times")
    return [
        Figure("kib_per_connection", "gateway: memory per connection", grown / 1024 / clients, "KiB", Target(most=14)),
        Figure("pings", "pings answered per connection", report.pings / clients),
    ]
