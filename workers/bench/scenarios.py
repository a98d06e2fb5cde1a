"""The four benches: each puts the steps of a run together, and makes figures of what came of them."""

from __future__ import annotations

from collections.abc import Iterable

from workers.bench.figures import Figure, Result, durations, shortfall
from workers.bench.histogram import Histogram
from workers.bench.meter import Meter
from workers.bench.orders import LoadReport, PublishReport
from workers.bench.reading_back import read_back
from workers.bench.run import Run
from workers.bench.usage import usage_of

CONNECTING_AT_ONCE = 100


def fan_out(run: Run, result: Result) -> None:
    """Clients join an empty topic; then updates are published, and each is owed to all of them."""
    run.start_publisher(rate=run.plan.rate)
    run.start_clients(at_once=CONNECTING_AT_ONCE)
    before = _gateway_bytes(run)
    run.connect()
    after = _gateway_bytes(run)
    meter = run.meter()
    run.release_publisher()
    run.deliver()
    meter.stop()
    published, reports = run.published(), run.finish()
    _tell_delivery(run, result, reports, published.began_ns, meter)
    result.figures += durations("latency", "latency", _merged(report.latency for report in reports))
    grown = None if before is None or after is None else (after - before) / run.plan.clients / 1024
    result.figures.append(Figure("gateway_kib_per_connection", "gateway's memory per idle connection", grown, "KiB"))
    _tell_publishing(run, result, published)


def join(run: Run, result: Result) -> None:
    """Updates are there already; clients connect all at once, and each is owed all of them."""
    run.start_publisher()
    published = run.publish()
    run.start_clients(at_once=run.plan.clients)
    meter = run.meter()
    run.release_clients()
    run.deliver()
    meter.stop()
    reports = run.finish()
    _tell_delivery(run, result, reports, run.released_ns, meter)
    result.figures += durations(
        "joining", "from the start until a client has all", _merged(report.joining for report in reports)
    )
    _tell_fault(result, published)


def publish(run: Run, result: Result) -> None:
    """One process publishes; then the log is read back."""
    run.start_publisher(prepared=True, rate=run.plan.rate)
    published = run.publish()
    run.stage.begin("reading back", run.plan.updates)
    result.faults += read_back(run.lab.redis_url, run.lab.prefix, run.node, run.content, run.stage.reach)
    result.figures += durations("update", "update()", published.update, "µs")
    _tell_publishing(run, result, published)


def soak(run: Run, result: Result) -> None:
    """Updates come at a steady rate, while clients come, go, stall and resume; each is owed a whole view."""
    run.start_publisher(rate=run.plan.rate)
    run.start_clients(at_once=run.plan.clients, restless_s=run.plan.duration_s)
    before = _gateway_bytes(run)
    meter = run.meter()
    run.connect()
    run.release_publisher()
    run.deliver()
    meter.stop()
    after = _gateway_bytes(run)
    published, reports = run.published(), run.finish()
    _tell_delivery(run, result, reports, published.began_ns, meter)
    result.figures += durations("latency", "latency where not stalled", _merged(report.latency for report in reports))
    result.figures += [
        Figure("resumed", "came back after leaving", sum(report.resumed for report in reports)),
        Figure("renewed", "began anew after leaving", sum(report.renewed for report in reports)),
        Figure("stalls", "stalls", sum(report.stalls for report in reports)),
        Figure("lost", "connections lost, or not opened", sum(report.lost for report in reports)),
        Figure("gateway_mib_before", "gateway's memory before", _mib(before), "MiB"),
        Figure("gateway_mib_after", "gateway's memory after", _mib(after), "MiB"),
    ]
    _tell_publishing(run, result, published)


def _tell_delivery(run: Run, result: Result, reports: list[LoadReport], began_ns: int, meter: Meter) -> None:
    """What all benches with clients tell: what was delivered, how fast, and at what cost."""
    delivered = sum(report.delivered for report in reports)
    took_s = max(0, max(report.done_ns for report in reports) - began_ns) / 1e9
    cpu_s = meter.cpu_s("gateway")
    shares = [share for loader in run.loaders if (share := meter.share(loader.name)) is not None]
    result.figures += [
        Figure("delivered", "updates delivered and verified", delivered),
        Figure("delivered_per_s", "delivered per second", delivered / took_s if took_s else None, "/s"),
        Figure(
            "gateway_cpu_us_per_update",
            "gateway's CPU time per delivered update",
            None if cpu_s is None or not delivered else cpu_s * 1e6 / delivered,
            "µs",
        ),
        Figure("gateway_cpu_percent", "gateway's CPU, of one processor", _percent(meter.share("gateway")), "%"),
        Figure("client_cpu_percent", "busiest client process", _percent(max(shares, default=None)), "%"),
    ]
    result.notes += run.limits(meter)
    for report in reports:
        result.faults += report.faults
        result.more_faults += report.more_faults


def _tell_publishing(run: Run, result: Result, published: PublishReport) -> None:
    took_s = (published.acknowledged_ns - published.began_ns) / 1e9
    rate = run.plan.updates / took_s if took_s else None
    result.figures.append(
        Figure("acknowledged_per_s", "published and acknowledged per second", None if published.fault else rate, "/s")
    )
    result.notes += shortfall(
        run.plan.rate, run.plan.updates * 1e9 / max(1, published.accepted_ns - published.began_ns)
    )
    _tell_fault(result, published)


def _tell_fault(result: Result, published: PublishReport) -> None:
    if published.fault:
        result.faults.insert(0, f"the publisher failed: {published.fault}")


def _merged(histograms: Iterable[Histogram]) -> Histogram:
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


def _gateway_bytes(run: Run) -> int | None:
    usage = None if run.lab.gateway_pid is None else usage_of(run.lab.gateway_pid)
    return usage and usage.memory_bytes


def _mib(size: int | None) -> float | None:
    return None if size is None else size / (1 << 20)


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100
