"""Durations are counted as Prometheus counts them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.core.latencies import BOUNDS_S, Latencies


@given(durations=st.lists(st.floats(0, 100) | st.sampled_from(BOUNDS_S)))
def test_each_bound_counts_what_is_not_greater(durations: list[float]) -> None:
    latencies = Latencies()
    for duration in durations:
        latencies.add(duration)
    counts = latencies.counts()
    bounds = [*BOUNDS_S, float("inf")]
    assert counts.up_to == tuple(sum(duration <= bound for duration in durations) for bound in bounds)
    assert abs(counts.sum_s - sum(durations)) < 1e-6


def test_what_arrives_before_it_was_sent_by_another_clock_took_no_time() -> None:
    latencies = Latencies()
    latencies.add(-5)
    assert (latencies.counts().up_to[0], latencies.counts().sum_s) == (1, 0)
