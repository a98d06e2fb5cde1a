"""Waits between tries."""

from __future__ import annotations

from itertools import islice
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from streamer.core.backoff import backoff

randoms = st.randoms(use_true_random=False)
firsts = st.floats(0.01, 5)
factors = st.floats(1, 100)


@given(rng=randoms, first=firsts, factor=factors)
def test_every_wait_lies_below_a_ceiling_that_doubles_up_to_the_most(rng: Random, first: float, factor: float) -> None:
    most = first * factor
    for tries, wait in enumerate(islice(backoff(rng, first, most), 30)):
        assert wait <= min(most, first * 2**tries)


@given(rng=randoms, first=firsts, factor=factors)
def test_no_wait_is_so_short_that_tries_become_a_busy_loop(rng: Random, first: float, factor: float) -> None:
    most = first * factor
    for tries, wait in enumerate(islice(backoff(rng, first, most), 30)):
        assert wait >= min(most, first * 2**tries) / 5


def test_two_who_fail_together_do_not_come_back_together() -> None:
    herd = [tuple(islice(backoff(Random(seed)), 3)) for seed in range(100)]
    assert len(set(herd)) == 100


def test_the_same_chance_gives_the_same_waits() -> None:
    assert list(islice(backoff(Random(7)), 20)) == list(islice(backoff(Random(7)), 20))
