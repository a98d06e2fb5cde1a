"""How fast somebody may go on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.core.rate import Rate, Verdict


def verdicts(rate: Rate, *times: float) -> list[Verdict]:
    return [rate.take(now) for now in times]


@given(steps=st.lists(st.floats(0, 10), max_size=60), per_s=st.floats(0.1, 10), burst=st.integers(1, 10))
def test_no_more_is_taken_than_the_burst_and_what_the_time_allows(steps: list[float], per_s: float, burst: int) -> None:
    rate, now, taken = Rate(per_s, burst, 0.0), 0.0, 0
    for step in steps:
        now += step
        taken += rate.take(now) is Verdict.TAKE
        assert taken <= burst + now * per_s + 1e-6


@given(gaps=st.lists(st.floats(1, 10), max_size=60), burst=st.integers(1, 10))
def test_who_keeps_to_the_rate_is_never_refused(gaps: list[float], burst: int) -> None:
    rate, now = Rate(1.001, burst, 0.0), 0.0
    for gap in gaps:
        now += gap
        assert rate.take(now) is Verdict.TAKE


def test_what_is_refused_counts_until_it_is_too_much() -> None:
    assert verdicts(Rate(1.0, 3, 0.0), *[0.0] * 6) == [Verdict.TAKE] * 3 + [Verdict.REFUSE] * 2 + [Verdict.GIVE_UP]


def test_who_waits_is_forgiven() -> None:
    rate = Rate(1.0, 3, 0.0)
    verdicts(rate, *[0.0] * 5)
    assert verdicts(rate, 2.0, 4.0, 100.0, 100.0, 100.0, 100.0) == [
        Verdict.REFUSE,
        Verdict.TAKE,
        Verdict.TAKE,
        Verdict.TAKE,
        Verdict.TAKE,
        Verdict.REFUSE,
    ]
