"""What Prometheus scrapes of a node's process."""

from __future__ import annotations

from dataclasses import fields

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamer import NodeSettings, Statistics, state_streaming
from streamer.metrics import NodeCollector
from tests.servers import RedisServer

TIMEOUT_S = 20


def scrape() -> dict[str, dict[str, float]]:
    """Each metric's values by node."""
    registry = CollectorRegistry()
    registry.register(NodeCollector())
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        found[family.name] = {sample.labels["node"]: sample.value for sample in family.samples}
    return found


def test_each_figure_of_each_node_is_there(valkey: RedisServer, node: str) -> None:
    nodes = [f"{node}-1", f"{node}-2"]
    streamers = [state_streaming(name, NodeSettings(redis_url=valkey.url)) for name in nodes]
    try:
        streamers[0].update("running", {"job": "j"})
        streamers[0].flush(TIMEOUT_S)
        found = scrape()
        names = {field.name.replace("pending_s", "pending_seconds") for field in fields(Statistics)}
        assert set(found) == {f"streamer_node_{name}" for name in names}
        assert [found["streamer_node_accepted"][name] for name in nodes] == [1, 0]
        assert [found["streamer_node_acknowledged"][name] for name in nodes] == [1, 0]
        assert [found["streamer_node_pending"][name] for name in nodes] == [0, 0]
        assert [found["streamer_node_epoch"][name] for name in nodes] == [1, 0]
    finally:
        for streamer in streamers:
            streamer.close(TIMEOUT_S)
    assert not set(nodes) & set(scrape()["streamer_node_accepted"])
