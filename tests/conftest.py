"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.certificates import Certificates
from tests.servers import KINDS, REAL_KINDS, RedisServer
from tests.streamers import Make, making_streamers


def _serve(kind: str) -> Iterator[RedisServer]:
    with RedisServer(kind) as server:
        yield server


@pytest.fixture(scope="session", params=KINDS)
def any_store(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each kind of store in turn, shared by all tests: use names of your own in it, and do not flush it."""
    yield from _serve(request.param)


@pytest.fixture(scope="session", params=REAL_KINDS)
def real_store(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A real Valkey and a real Redis in turn, shared by all tests like `any_store`."""
    yield from _serve(request.param)


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """A real Valkey, shared by all tests like `any_store`."""
    yield from _serve("valkey")


@pytest.fixture
def own_valkey() -> Iterator[RedisServer]:
    """A real Valkey for one test, which may flush, kill and restart it."""
    yield from _serve("valkey")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for TLS, the same for all tests."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def node() -> str:
    """A node's name that no other test uses."""
    return f"node-{secrets.token_hex(6)}"


@pytest.fixture
def streaming(node: str) -> Iterator[Make]:
    """Makes the streamer of that node, with settings; closed at the end, whatever it still holds."""
    yield from making_streamers(node)
