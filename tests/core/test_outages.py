"""Outages are counted, and their time is added up."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streamer.core.outages import Outages


def test_what_never_worked_has_no_outage() -> None:
    outages = Outages()
    outages.look(False, 1.0)
    assert (outages.count, outages.seconds(9.0)) == (0, 0.0)


def test_an_outage_that_lasts_is_counted_already() -> None:
    outages = Outages()
    outages.look(True, 1.0)
    outages.look(False, 2.0)
    outages.look(False, 3.0)
    assert (outages.count, outages.seconds(5.0)) == (1, 3.0)
    outages.look(True, 6.0)
    assert (outages.count, outages.seconds(9.0)) == (1, 4.0)


@given(st.lists(st.booleans()))
def test_each_look_that_finds_it_broken_after_it_worked_lasts_until_the_next(looks: list[bool]) -> None:
    outages = Outages()
    for now, working in enumerate(looks):
        outages.look(working, float(now))
    since = looks[looks.index(True) :] if True in looks else []
    assert outages.seconds(float(len(looks))) == since.count(False)
    assert outages.count == sum(before and not after for before, after in pairwise(since))
