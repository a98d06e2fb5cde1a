"""Connections to Redis or Valkey, with every timeout set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamer.core.errors import InvalidSetting, LogUnavailable

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0

_SCHEMES = ("redis", "rediss", "unix")


def connect(url: str) -> redis.Redis:
    """Make a client for one thread. It connects at the first command and never retries: its owner does.

    Raises InvalidSetting where the URL is none that we know.
    """
    options = _options(ANSWER_TIMEOUT_S, Retry(NoBackoff(), 0))
    client: redis.Redis = redis.Redis.from_url(check_url(url), **options)
    return client


def connect_async(url: str, most_connections: int = 16) -> redis.asyncio.Redis:
    """Make a client for one event loop, whose commands wait for one of a few connections.

    A command is tried twice, since a connection that idled may be dead; all our commands may be repeated. Wrap each in
    `answering`, which bounds the wait: redis-py would do it by asyncio.wait_for, which in Python 3.11 can swallow a
    cancellation.

    Raises InvalidSetting where the URL is none that we know.
    """
    options = _options(None, AsyncRetry(NoBackoff(), 1))
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        check_url(url), max_connections=most_connections, timeout=ANSWER_TIMEOUT_S, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


def check_url(url: str) -> str:
    """Return the URL of a Redis unchanged; raise InvalidSetting with a sentence that says what is wrong with it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidSetting(f"{without_password(url)!r} is no URL of a Redis: {error}") from None
    if parts.scheme not in _SCHEMES or not (parts.hostname or parts.path) or port == 0:
        raise InvalidSetting(
            f"{without_password(url)!r} is no URL of a Redis: it should look like redis://HOST:PORT/0, rediss://… or unix://…"
        )
    return url


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}{separator}{user + ':***' if at and ':' in credentials else credentials}{at}{host}"


@asynccontextmanager
async def answering(url: str) -> AsyncIterator[None]:
    """Give Redis its time to answer, and turn whatever goes wrong into LogUnavailable."""
    with unavailable_as_error(url):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            yield


@contextmanager
def unavailable_as_error(url: str) -> Iterator[None]:
    """Turn redis-py's errors into LogUnavailable, with a sentence that names the Redis."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise LogUnavailable(
            f"Redis at {without_password(url)} does not answer as it should: {error or 'it takes too long'}"
        ) from error


def _options(answer_timeout_s: float | None, retry: Any) -> dict[str, Any]:
    return {
        "socket_timeout": answer_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        "retry": retry,
        # Pushed messages then look the same on every version of server.
        "protocol": 2,
    }
