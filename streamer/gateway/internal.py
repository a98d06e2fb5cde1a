"""Health and metrics, on the internal port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from http import HTTPStatus

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from websockets.http11 import Request, Response

from streamer.core.errors import LogUnavailable
from streamer.core.latencies import BOUNDS_S
from streamer.fanout.hub import Hub
from streamer.gateway.endings import Endings
from streamer.gateway.http import answer, answer_error, answer_json

READY_TIMEOUT_S = 2.0

_GAUGES = {
    "listening": "1 while the pub/sub connection to Redis works.",
    "draining": "1 while the gateway stops: it takes no more clients, and closes those that it has.",
    "feeds": "Topics held in memory.",
    "feed_bytes": "Bytes of records that the feeds hold.",
    "live": "Subscriptions at the head, which get updates as they come.",
    "behind": "Subscriptions that lag, and read on towards the head.",
    "unsent_bytes": "Bytes that wait for clients to take them.",
}
_COUNTERS = {
    "appended": "Updates taken into feeds.",
    "duplicates": "Published updates that a feed had already.",
    "repairs": "Times that what a feed had read from the log turned out to be lost by pub/sub.",
    "read_retries": "Failed tries of feeds to read the log.",
    "gaps": "Watchers told that updates they had missed are no longer kept: one each time.",
    "resets": "Watchers told that their cursor is not of the log: one each time.",
    "epochs": "Times that an open feed found its log on another server, as after a failover.",
    "rewinds": "Times that a log had lost its tail, and a feed went back.",
    "deaf_periods": "Times that what is published was not heard any more.",
    "deaf_seconds": "Seconds in which it was not heard.",
}


class _GatewayCollector(Collector):
    def __init__(self, hub: Hub, endings: Endings, draining: bool) -> None:
        self._hub, self._endings, self._draining = hub, endings, draining

    def collect(self) -> Iterator[Metric]:
        statistics = self._hub.statistics()
        values = {**vars(statistics), "deaf_seconds": statistics.deaf_s, "draining": self._draining}
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"streamer_{name}", text, value=values[name])
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"streamer_{name}", text, value=values[name])
        yield _by("streamer_closed", "WebSockets that the gateway has closed, by code.", "code", self._endings.closed)
        yield _by("streamer_refused", "Requests that were refused, by status.", "status", self._endings.refused)
        latencies = statistics.latencies
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        yield HistogramMetricFamily(
            "streamer_latency_seconds",
            "From an update's timestamp, by its publisher's clock, until it was written to those who watch live.",
            buckets=list(zip(bounds, latencies.up_to, strict=True)),
            sum_value=latencies.sum_s,
        )


def _by(name: str, text: str, label: str, counts: Mapping[int, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([str(value)], count)
    return family


async def answer_internal(hub: Hub, endings: Endings, draining: bool, request: Request) -> Response:
    """Answer `/healthz` (the process runs), `/readyz` (it can serve clients) and `/metrics` (for Prometheus)."""
    match request.path.partition("?")[0]:
        case "/healthz":
            return answer_json({"status": "ok"})
        case "/readyz":
            return await _readiness(hub, draining)
        case "/metrics":
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_GatewayCollector(hub, endings, draining))
            return answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
    return answer_error(HTTPStatus.NOT_FOUND, "here are /healthz, /readyz and /metrics")


async def _readiness(hub: Hub, draining: bool) -> Response:
    if draining:
        return _not_ready("the gateway is stopping")
    if not hub.statistics().listening:
        return _not_ready("the gateway does not hear Redis's pub/sub")
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await hub.reader.ping()
    except (LogUnavailable, TimeoutError) as error:
        return _not_ready(str(error) or f"Redis did not answer within {READY_TIMEOUT_S:g} s")
    return answer_json({"status": "ready"})


def _not_ready(why: str) -> Response:
    return answer_error(HTTPStatus.SERVICE_UNAVAILABLE, why)
