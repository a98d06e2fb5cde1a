"""What figures are made of: durations, what processes use, and what held a run back."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.records import Update
from tests.workers.bench.streams import CONTENT, message
from workers.bench.content import View
from workers.bench.figures import Figure, Result, bottleneck, durations, shortfall
from workers.bench.histogram import Histogram
from workers.bench.reading_back import check
from workers.bench.tally import Tally
from workers.bench.usage import Process, descendants, parse_ps, parse_stat, usage_of


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_within_two_percent_of_the_truth(values: list[int], part: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    rank = next(n for n in range(1, len(values) + 1) if n >= part * len(values))
    truth = sorted(values)[rank - 1]
    found = histogram.quantile_ns(part)
    assert found is not None
    assert abs(found - truth) <= 0.02 * truth + 1
    assert histogram.greatest_ns == max(values)


def test_histograms_merge_and_empty_ones_know_nothing() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for value, histogram in ((5, one), (700, one), (90_000, other)):
        histogram.add(value, 3)
        both.add(value, 3)
    one.merge(other)
    assert one == both
    assert Histogram().quantile_ns(0.5) is None
    assert [figure.value for figure in durations("x", "x", Histogram())] == [None, None, None]


def test_stat_is_read_whatever_the_process_is_called() -> None:
    times = "10 20 3 4"
    text = f"42 (a b) (c) S 7 42 42 0 -1 4194560 1 2 3 4 {times} 20 0 1 0 99 1000000 25 18446744073709551615 1 1"
    assert parse_stat(text, tick_s=0.01, page_bytes=4096) == Process(42, 7, pytest.approx(0.37), 25 * 4096)


def test_ps_is_read_with_its_forms_of_time() -> None:
    text = "  1     0 1-02:03:04  8\n 20  1   0:01.50  1200\n  21 20 10:00 4\n"
    assert [(process.pid, process.parent, process.cpu_s) for process in parse_ps(text)] == [
        (1, 0, 93784.0),
        (20, 1, 1.5),
        (21, 20, 600.0),
    ]


def test_descendants_are_a_process_and_all_that_come_from_it() -> None:
    family = [Process(pid, parent, 1.0, 1) for pid, parent in ((1, 0), (5, 1), (6, 5), (7, 6), (8, 1))]
    assert {process.pid for process in descendants(5, family)} == {5, 6, 7}
    assert list(descendants(99, family)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ps tells, and not as exactly")
def test_this_process_is_seen_to_use_time_and_memory() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    assert usage.cpu_s > 0
    assert usage.memory_bytes > 1 << 20
    assert usage_of(2**22 + 1) is None


def test_busy_clients_are_the_bottleneck_and_a_busy_machine_is_said() -> None:
    [note] = bottleneck({"load process 1": 0.97, "load process 2": 0.5}, 0.6, 8)
    assert note.startswith("the clients, not the gateway, were the bottleneck: load process 1 used 97% of a processor")
    assert "shared this machine's 2 processors" in bottleneck({"load process 1": 0.85}, 0.99, 2)[0]
    assert bottleneck({"load process 1": 0.5}, 0.6, 2) == []
    assert bottleneck({"load process 1": None}, None, 2) == []


def test_a_publisher_that_is_too_slow_is_said() -> None:
    assert shortfall(1000, 800) == ["the publisher reached 800 updates/s of the 1,000 asked for"]
    assert shortfall(1000, 990) == []
    assert shortfall(0, 5) == []


def test_figures_are_for_people_and_for_programs() -> None:
    assert Figure("k", "l", None).text() == "not measured"
    assert Figure("k", "l", 12345.6, "/s").text() == "12,346 /s"
    assert Figure("k", "l", 0.12345, "µs").text() == "0.12 µs"
    result = Result("join", {"clients": 1}, [Figure("k", "l", 1.23456)], faults=[f"client {n} x" for n in range(12)])
    result.more_faults = 5
    assert result.as_json()["figures"] == {"k": 1.235}
    assert result.verdict().splitlines()[-1] == "  and 7 more"


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([0, 1, 2, 3, 4, 5], []),
        ([0, 1, 3, 4, 5], ["never got update 2"]),
        ([0, 1, 1, 2, 3, 4, 5], ["got twice update 1"]),
        ([1, 0, 2, 3, 4, 5], ["got out of order update 0 behind 1"]),
    ],
)
def test_a_log_read_back_is_verified_as_a_client_is(numbers: list[int], says: list[str]) -> None:
    tally = Tally(View(CONTENT), 0)
    check(CONTENT, tally, [_update(number) for number in numbers])
    assert list(tally.sentences()) == says


def test_what_a_log_has_that_was_never_published_is_a_fault() -> None:
    tally = Tally(View(CONTENT), 0)
    right = [_update(number) for number in range(6)]
    check(CONTENT, tally, [*right[:5], Update(1, 5, -1, 0, "x", {"sent_ns": 1}), Update(1, 6, -1, 0, "x", {})])
    [sentence] = tally.sentences()
    assert sentence.startswith("got altered update 5: its status is 'x', not 'benchmarking', update 6: it was never")


def _update(number: int) -> Update:
    plain = message(number)
    return Update(1, plain.index, plain.previous, plain.timestamp, plain.status, plain.state)
