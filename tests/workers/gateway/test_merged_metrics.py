"""Metrics of several processes become one text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from workers.gateway.merged_metrics import merge


def _text(value: float) -> str:
    registry = CollectorRegistry()
    Counter("seen", "Things seen.", registry=registry).inc(value)
    Gauge("size", "How large.", ["kind"], registry=registry).labels(kind='a "b"\\').set(value)
    Histogram("lag", "How late.", registry=registry, buckets=[1]).observe(value)
    return generate_latest(registry).decode()


def test_every_sample_gets_the_number_of_its_process_and_keeps_the_rest() -> None:
    merged = merge({1: _text(0.5), 2: _text(7)}, []).decode()
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    for number, value in ((1, 0.5), (2, 7)):
        expected = {family.name: family for family in text_string_to_metric_families(_text(value))}
        assert {name: (one.type, one.documentation) for name, one in expected.items()} == {
            name: (one.type, one.documentation) for name, one in families.items()
        }
        for name, family in expected.items():
            if not name.endswith("_created"):
                samples = [(one.name, one.labels, one.value) for one in families[name].samples]
                for sample in family.samples:
                    assert (sample.name, {**sample.labels, "process": str(number)}, sample.value) in samples
    assert merged.count("# TYPE lag histogram") == 1


def test_our_own_stay_as_they_are_also_where_nobody_answers() -> None:
    own = GaugeMetricFamily("up", "Whether it is up.", labels=["process"])
    own.add_metric(["1"], 0)
    assert merge({}, [own]).decode().splitlines()[-1] == 'up{process="1"} 0.0'
