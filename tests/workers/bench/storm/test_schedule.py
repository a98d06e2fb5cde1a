"""Which fault happens when follows from the seed, and is over when the next hits the same."""

from __future__ import annotations

from collections import Counter

import pytest

from workers.bench.storm.schedule import Fault, Strike, schedule


def nothing(_: Strike) -> None:
    """Do nothing."""


FAULTS = [
    Fault("short", "is hit", ["one", "two"], nothing),
    Fault("long", "is away", ["one", "two", "three"], nothing, nothing, (1.0, 4.0), rest_s=2.0),
    Fault("rare", "stands still", ["three"], nothing, nothing, (2.0, 3.0), rest_s=4.0),
]


def plain(strikes: list[Strike]) -> list[tuple[float, str, str, float, int]]:
    return [(strike.at_s, strike.fault.name, strike.target, strike.lasts_s, strike.draw) for strike in strikes]


def test_the_same_seed_gives_the_same_faults_and_another_others() -> None:
    assert plain(schedule(FAULTS, 1, 60, 2)) == plain(schedule(FAULTS, 1, 60, 2))
    assert plain(schedule(FAULTS, 1, 60, 2)) != plain(schedule(FAULTS, 2, 60, 2))


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_hit_before_it_has_recovered_and_all_is_over_at_the_end(seed: int) -> None:
    free_at: dict[str, float] = {}
    strikes = schedule(FAULTS, seed, 60, 1)
    assert [strike.at_s for strike in strikes] == sorted(strike.at_s for strike in strikes)
    for strike in strikes:
        assert strike.at_s >= free_at.get(strike.target, 0.0)
        free_at[strike.target] = strike.at_s + strike.lasts_s + strike.fault.rest_s
        assert strike.at_s + strike.lasts_s <= 60
        assert strike.target in strike.fault.targets


@pytest.mark.parametrize("seed", range(50))
def test_every_kind_happens_before_any_comes_a_third_time(seed: int) -> None:
    so_far: Counter[str] = Counter()
    for strike in schedule(FAULTS, seed, 60, 3):
        so_far[strike.fault.name] += 1
        assert max(so_far.values()) <= 2 or len(so_far) == len(FAULTS)


def test_a_strike_says_what_it_does() -> None:
    assert str(Strike(1.0, FAULTS[0], "one", 0.0, 1)) == "one is hit"
    assert str(Strike(1.0, FAULTS[1], "two", 1.26, 1)) == "two is away for 1.3 s"
