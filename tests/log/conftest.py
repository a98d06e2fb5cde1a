"""Fixtures of the log's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.scripts import source
from tests.clusters import Cluster
from tests.log.writing import Writer
from tests.servers import KINDS, REAL_KINDS, RedisServer


@pytest.fixture(scope="session", params=[*KINDS, "cluster"])
def any_store(request: pytest.FixtureRequest) -> Iterator[RedisServer | Cluster]:
    """Each kind of store in turn, also a cluster, shared by all tests of the log: use names of your own in it, and do
    not flush it."""
    with Cluster(replicas=False) if request.param == "cluster" else RedisServer(request.param) as store:
        yield store


@pytest.fixture
def log(any_store: RedisServer, node: str) -> Iterator[NodeLog]:
    """The log of a node that no other test uses, on each kind of store.

    The scripts are loaded first, since fakeredis's TCP server closes a connection on which it has answered with an
    error, and NOSCRIPT is one.
    """
    with any_store.client() as client:
        for name in ("announce", "append", "claim", "clear", "read"):
            client.script_load(source(name))
    with NodeLog(any_store.url, Keys(), node) as log:
        yield log


@pytest.fixture
def writer(log: NodeLog) -> Writer:
    """A writer of that log."""
    return Writer(log)


@pytest.fixture
def client(any_store: RedisServer) -> Iterator[redis.Redis]:
    """A plain client to the same store."""
    with any_store.client() as client:
        yield client


@pytest.fixture(params=REAL_KINDS)
def own_store(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A real Valkey and a real Redis in turn, for one test, which may flush, stop, kill and restart it."""
    with RedisServer(request.param) as server:
        yield server
