"""Fixtures of the fan-out's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fanout.house import House, built


@pytest.fixture
def house() -> Iterator[House]:
    with built() as house:
        yield house
