"""Live delivery: clients wait, and updates are published to all of them; by a gateway, and by the floor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tests.benchmarks.clients import Report
from tests.benchmarks.costs import Cost, measuring
from tests.benchmarks.figures import Figure, Target, ratio
from tests.benchmarks.lab import Lab, content_of, new_node
from tests.benchmarks.publishers import publish_to_floor
from workers.bench.content import Content

AT_MOST_THE_FLOORS = Target(most=1.15, words="at most 1.15 × the floor's")
CHEAPER = Target(most=1.0, words="less than without")
TWICE_THE_FLOORS = Target(most=2.0, words="at most 2 × the floor's")


class Delivery(NamedTuple):
    """Updates delivered to clients that waited."""

    cost: Cost
    report: Report

    @property
    def us_per_update(self) -> float | None:
        """The server's CPU time for each update at each client."""
        return self.cost.us_each(self.report.delivered)


def live(lab: Lab, *, clients: int, updates: int, rate: float) -> Iterable[Figure]:
    """CPU time per delivered update, a gateway's beside the floor's."""
    floor, gateway = deliver_in_turns(lab, content_of(updates), clients=clients, rate=rate)
    return _costs(floor, gateway)


def burst(lab: Lab, *, clients: int, updates: int) -> Iterable[Figure]:
    """The same where all is published at once."""
    floor, gateway = deliver_in_turns(lab, content_of(updates), clients=clients, rate=0)
    owed = clients * updates
    return [
        *_costs(floor, gateway),
        Figure("per_s", "gateway: delivered per second", gateway.cost.per_s(owed), "/s"),
        Figure("floor_per_s", "floor: delivered per second", floor.cost.per_s(owed), "/s"),
    ]


def latency(lab: Lab, *, clients: int, updates: int, rate: float) -> Iterable[Figure]:
    """From just before an update is published until a client has read it."""
    floor, gateway = deliver_in_turns(lab, content_of(updates), clients=clients, rate=rate)
    for name, words in (("p50_ms", "median"), ("p99_ms", "99th percentile")):
        ours, least = getattr(gateway.report, name), getattr(floor.report, name)
        yield Figure(f"gateway_{name}", f"gateway: latency, {words}", ours, "ms")
        yield Figure(f"floor_{name}", f"floor: latency, {words}", least, "ms")
        yield Figure(f"ratio_{name}", f"latency, {words}: gateway to floor", ratio(ours, least), "×", TWICE_THE_FLOORS)


def linger(lab: Lab, *, clients: int, updates: int, rate: float, times_ms: tuple[int, ...]) -> Iterable[Figure]:
    """What it saves, and what it delays, that the gateway collects updates before it writes."""
    without: float | None = None
    for time_ms in times_ms:
        options = ("--linger-ms", str(time_ms))
        delivery = deliver(lab, new_node(), content_of(updates), clients=clients, rate=rate, options=options)
        cost, words = delivery.us_per_update, f"linger of {time_ms} ms"
        yield Figure(f"us_per_update_{time_ms}", f"{words}: CPU time per delivered update", cost, "µs")
        yield Figure(f"p50_ms_{time_ms}", f"{words}: latency, median", delivery.report.p50_ms, "ms")
        if time_ms == 0:
            without = cost
        else:
            yield Figure(f"ratio_{time_ms}", f"{words}: CPU time to that without", ratio(cost, without), "×", CHEAPER)


def deliver_in_turns(lab: Lab, content: Content, *, clients: int, rate: float) -> tuple[Delivery, Delivery]:
    """Deliver the content by the floor, and then by a gateway."""
    floor = _deliver_by_floor(lab, new_node(), content, clients=clients, rate=rate)
    return floor, deliver(lab, new_node(), content, clients=clients, rate=rate)


def deliver(
    lab: Lab,
    node: str,
    content: Content,
    *,
    clients: int,
    rate: float,
    path: str = "",
    per_job: bool = False,
    options: tuple[str, ...] = (),
) -> Delivery:
    """Connect clients to a gateway with these options, publish the content to the node, measure until all have it."""
    with (
        lab.publisher(node, content, rate) as publisher,
        lab.gateway(*options) as gateway,
        lab.clients(gateway, f"/nodes/{node}{path}", clients=clients, content=content, per_job=per_job) as load,
    ):
        load.wait_open()
        lab.settle()
        with measuring(gateway) as cost:
            publisher.go()
            load.wait_read()
        publisher.report()
        return Delivery(cost, load.finish())


def _deliver_by_floor(lab: Lab, channel: str, content: Content, *, clients: int, rate: float) -> Delivery:
    with (
        lab.floor(channel) as floor,
        lab.redis_client() as client,
        lab.clients(floor, "/", clients=clients, content=content) as load,
    ):
        load.wait_open()
        lab.settle()
        with measuring(floor) as cost:
            publish_to_floor(client, channel, content, rate)
            load.wait_read()
        return Delivery(cost, load.finish())


def _costs(floor: Delivery, gateway: Delivery) -> list[Figure]:
    ours, least = gateway.us_per_update, floor.us_per_update
    return [
        Figure("us_per_update", "gateway: CPU time per delivered update", ours, "µs"),
        Figure("floor_us_per_update", "floor: CPU time per delivered update", least, "µs"),
        Figure("ratio", "CPU time: gateway to floor", ratio(ours, least), "×", AT_MOST_THE_FLOORS),
    ]
