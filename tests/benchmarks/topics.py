"""Many jobs, each with a watcher of its own."""

from __future__ import annotations

from collections.abc import Iterable

from tests.benchmarks.delivering import Delivery, deliver
from tests.benchmarks.figures import Figure, Target
from tests.benchmarks.lab import Lab, content_of, new_node


def topics(lab: Lab, *, jobs: int, updates: int) -> Iterable[Figure]:
    """Updates of the jobs in turn, all at once."""
    delivery = deliver_to_jobs(lab, jobs, updates, rate=0)
    return [
        Figure("us_per_update", "gateway: CPU time per update", delivery.us_per_update, "µs", Target(most=20)),
        Figure("per_s", "delivered per second", delivery.cost.per_s(updates), "/s"),
    ]


def deliver_to_jobs(lab: Lab, jobs: int, updates: int, rate: float) -> Delivery:
    """Publish updates of the jobs in turn, each of which has a watcher, and measure until all have theirs."""
    node = new_node()
    lab.make_log(node)
    content = content_of(updates, jobs)
    return deliver(lab, node, content, clients=jobs, rate=rate, path="/jobs/job-%d", per_job=True)
