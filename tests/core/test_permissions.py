"""Who may see what."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.names import Topic
from streamer.core.permissions import EVERYTHING, Permissions

NAMES = st.text("aAb*?[]!-.\\^$\n é", max_size=8)


def fits(pattern: str, name: str) -> bool:
    """What a pattern means, said without any regard to time."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return fits(pattern[1:], name) or (bool(name) and fits(pattern, name[1:]))
    return bool(name) and pattern[0] in ("?", name[0]) and fits(pattern[1:], name[1:])


@given(NAMES, NAMES)
def test_a_pattern_fits_as_it_means(pattern: str, name: str) -> None:
    assert Permissions(nodes=(pattern,)).may_see_node(name) == fits(pattern, name)


@given(NAMES)
def test_a_name_fits_itself(name: str) -> None:
    assert Permissions(nodes=(name,)).may_see_node(name)


@given(st.lists(NAMES), st.lists(NAMES), NAMES, NAMES)
def test_more_patterns_never_allow_less(some: list[str], more: list[str], node: str, job: str) -> None:
    for topic in (Topic(node), Topic(node, job)):
        few = Permissions(tuple(some), tuple(some))
        many = Permissions(tuple(some + more), tuple(some + more))
        assert few.may_watch(topic) <= many.may_watch(topic) <= EVERYTHING.may_watch(topic)


@given(NAMES, NAMES)
def test_without_a_pattern_nothing_is_allowed(node: str, job: str) -> None:
    for topic in (Topic(node), Topic(node, job)):
        assert not Permissions().may_watch(topic)
        assert not Permissions(nodes=("*",)).may_watch(topic)
        assert not Permissions(jobs=("*",)).may_watch(topic)


@pytest.mark.parametrize(
    ("jobs", "whole"),
    [(("*",), True), (("a", "**"), True), (("?*",), False), (("a*",), False), (("",), False), ((), False)],
)
def test_all_of_a_node_is_for_who_may_see_every_job(jobs: tuple[str, ...], whole: bool) -> None:
    permissions = Permissions(nodes=("n",), jobs=jobs)
    assert permissions.may_watch(Topic("n")) is whole
    assert permissions.may_see_job(None) is whole


@given(NAMES, NAMES)
def test_who_may_watch_all_of_a_node_may_watch_each_of_its_jobs(pattern: str, job: str) -> None:
    permissions = Permissions(nodes=("n",), jobs=(pattern,))
    if permissions.may_watch(Topic("n")):
        assert permissions.may_watch(Topic("n", job))


def test_what_is_missing_is_said() -> None:
    permissions = Permissions(nodes=("gpu-*",), jobs=("train-*",))
    assert "node 'cpu-1'" in permissions.missing_for(Topic("cpu-1"))
    assert "watch a job" in permissions.missing_for(Topic("gpu-1"))
    assert "job 'other'" in permissions.missing_for(Topic("gpu-1", "other"))


def test_no_pattern_takes_for_ever() -> None:
    began = time.process_time()
    assert not Permissions(nodes=("*a" * 100 + "b",)).may_see_node("a" * 256)
    assert time.process_time() - began < 5
