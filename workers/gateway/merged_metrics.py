"""Metrics of several processes as one text for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def merge(texts: Mapping[int, str], own: Iterable[Metric]) -> bytes:
    """Render what each process has, labelled with its number as `process`, and the metrics of our own as they are."""
    families = {metric.name: metric for metric in own}
    for number, text in texts.items():
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.add_sample(sample.name, {**sample.labels, "process": str(number)}, sample.value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Rendered(families.values()))
    return generate_latest(registry)


class _Rendered(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
