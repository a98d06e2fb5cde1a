"""What Prometheus may scrape of a node's process."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamer.core.statistics import Statistics
from streamer.state_streamer import streamers

_GAUGES = {
    "pending": "Updates that wait for Redis's acknowledgement.",
    "pending_bytes": "Bytes of those of them that are in memory.",
    "spilled": "Those of them that are on the disk alone.",
    "adopted": "Those of them that are of processes of the node that have ended.",
    "oldest_pending_seconds": "For how many seconds the oldest of them has been waiting.",
    "epoch": "The epoch of the node's log, as it was last heard of: greater after each failover or restart.",
    "fenced": "1 where another process has claimed the node.",
}
_COUNTERS = {
    "accepted": "Updates that this process has accepted.",
    "acknowledged": "Those of them that Redis has acknowledged.",
    "retries": "Failed tries to reach Redis.",
    "resent": "Updates sent again since Redis had lost them.",
    "lost": "Updates that Redis had lost and that were no longer here.",
}


class NodeCollector(Collector):
    """Collects the statistics of all nodes that this process publishes for: `REGISTRY.register(NodeCollector())`."""

    def collect(self) -> Iterator[Metric]:
        """Give each metric, labelled by node."""
        nodes = {streamer.node: _values(streamer.statistics()) for streamer in streamers()}
        for name, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"streamer_node_{name}", text, labels=["node"])
            for node, values in nodes.items():
                gauge.add_metric([node], values[name])
            yield gauge
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"streamer_node_{name}", text, labels=["node"])
            for node, values in nodes.items():
                counter.add_metric([node], values[name])
            yield counter


def _values(statistics: Statistics) -> dict[str, float]:
    return {**vars(statistics), "oldest_pending_seconds": statistics.oldest_pending_s}
