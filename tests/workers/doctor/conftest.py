"""Fixtures of the doctor's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import REAL_KINDS, RedisServer
from tests.workers.doctor.good import Server


@pytest.fixture(scope="session", params=REAL_KINDS)
def good_store(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Valkey and a Redis in turn with good settings, shared: what a test changes, it changes back."""
    with Server(request.param) as server:
        yield server
