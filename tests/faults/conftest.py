"""Fixtures of the faults' tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.nodes import APART, NodeProcess
from tests.servers import REAL_KINDS, RedisServer

StartNode = Callable[..., NodeProcess]


@pytest.fixture(params=REAL_KINDS)
def own_store(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A real Valkey and a real Redis in turn, for one test, which may flush, kill and restart it."""
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture
def start_node(node: str, tmp_path: Path) -> Iterator[StartNode]:
    """Starts processes of the node, which number their updates apart; killed at the end."""
    with ExitStack() as stack:
        started: list[NodeProcess] = []

        def start(
            redis_url: str, *options: str, settings: dict[str, object] | None = None, **process: object
        ) -> NodeProcess:
            first = len(started) * APART
            ledger = tmp_path / f"ledger-{len(started)}"
            node_process = NodeProcess(redis_url, node, first, ledger, *options, settings=settings or {}, **process)
            started.append(stack.enter_context(node_process))
            return node_process

        yield start
