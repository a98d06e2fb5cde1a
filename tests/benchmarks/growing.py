"""Growth: what a delivered update costs with ever more clients, topics, and updates in the log."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tests.benchmarks.delivering import deliver_in_turns
from tests.benchmarks.figures import Figure, Target, ratio
from tests.benchmarks.joining import connect_all, join_all
from tests.benchmarks.lab import Lab, content_of, new_node
from tests.benchmarks.topics import deliver_to_jobs
from workers.bench.open_files import BESIDES

FLAT = Target(most=1.5)


Costs = Mapping[str, float | None]
"""CPU time per delivered update in µs, by whose it is."""


def by_clients(lab: Lab, *, sizes: Sequence[int], deliveries_per_s: int, seconds: float) -> Iterable[Figure]:
    """More clients of one node. So many deliveries are made each second, whatever the number of clients.

    The floor's growth, beside it, is that of the kernel's part.
    """

    def costs(clients: int) -> Costs:
        rate = deliveries_per_s / clients
        content = content_of(max(1, round(rate * seconds)))
        floor, gateway = deliver_in_turns(lab, content, clients=clients, rate=rate)
        return {"gateway": gateway.us_per_update, "floor": floor.us_per_update}

    return _axis("clients", sizes, costs, most=_most_clients())


def by_topics(lab: Lab, *, sizes: Sequence[int], updates: int, rate: float) -> Iterable[Figure]:
    """More jobs, each with a watcher. So many updates of them in turn are published, at the same rate."""

    def costs(topics: int) -> Costs:
        return {"gateway": deliver_to_jobs(lab, topics, updates, rate).us_per_update}

    return _axis("topics", sizes, costs, most=_most_clients())


def by_log(lab: Lab, *, sizes: Sequence[int], clients: Sequence[int]) -> Iterable[Figure]:
    """Longer logs, each with the number of clients that join it and are owed all of it.

    What connecting costs by itself is measured beside it and left out: it would hide the growth.
    """
    joining = dict(zip(sizes, clients, strict=True))

    def costs(updates: int) -> Costs:
        node, content = new_node(), content_of(updates)
        lab.publish(node, content)
        with lab.gateway() as gateway:
            connecting = connect_all(lab, gateway, new_node(), joining[updates])
            delivering = join_all(lab, gateway, node, content, joining[updates])
        cpu_s = delivering.cpu_s - connecting.cpu_s
        return {"gateway": cpu_s * 1e6 / (updates * joining[updates]) if cpu_s > 0 else None}

    return _axis("updates in the log", sizes, costs)


def _axis(what: str, sizes: Sequence[int], costs: Callable[[int], Costs], most: int | None = None) -> Iterator[Figure]:
    smallest: Costs = {}
    for size in sizes:
        allowed = size if most is None else min(size, most)
        words = f"{allowed:,} {what}" + ("" if allowed == size else f" (of {size:,}: the limit of open files)")
        measured = costs(allowed)
        for who, value in measured.items():
            key = f"{what.split()[0]}_{size}_{who}"
            yield Figure(f"{key}_us", f"{words}, {who}: CPU time per delivered update", value, "µs")
            if smallest:
                target = FLAT if who == "gateway" else None
                yield Figure(
                    f"{key}_ratio", f"{words}, {who}: to {sizes[0]:,}", ratio(value, smallest[who]), "×", target
                )
        smallest = smallest or measured


def _most_clients() -> int | None:
    """As many connections as this system lets a gateway, or the clients' process, have; None for no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else max(1, hard - BESIDES)
