"""Connections to single servers, with every timeout set, and what is said of those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from streamer.core.errors import LogUnavailable
from streamer.log.url import without_password

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0

_ASYNC_CLASSES: dict[Any, Any] = {
    redis.SSLConnection: SSLConnection,
    redis.UnixDomainSocketConnection: UnixDomainSocketConnection,
}


def connect(options: dict[str, Any], timeout_s: float | None = None) -> redis.Redis:
    """Make a client of one server, for one thread. It connects at the first command and never retries: its owner does.

    ``timeout_s`` is for connecting and for each answer, where the usual times are too long.
    """
    options = _complete(options, timeout_s or ANSWER_TIMEOUT_S, Retry(NoBackoff(), 0))
    options["socket_connect_timeout"] = timeout_s or CONNECT_TIMEOUT_S
    return redis.Redis.from_pool(redis.ConnectionPool(**options))


def connect_async(options: dict[str, Any], most_connections: int) -> redis.asyncio.Redis:
    """Make a client of one server, for one event loop, whose commands wait for one of a few connections.

    A command is tried twice, since a connection that idled may be dead; all our commands may be repeated. Wrap each in
    `answering`, which bounds the wait: redis-py would do it by asyncio.wait_for, which in Python 3.11 can swallow a
    cancellation.
    """
    options = _complete(options, None, AsyncRetry(NoBackoff(), 1))
    if kind := options.pop("connection_class", None):
        options["connection_class"] = _ASYNC_CLASSES[kind]
    pool = redis.asyncio.BlockingConnectionPool(max_connections=most_connections, timeout=ANSWER_TIMEOUT_S, **options)
    return redis.asyncio.Redis.from_pool(pool)


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
        raise unavailable(url, error) from error


def unavailable(url: str, error: Exception) -> LogUnavailable:
    """What to raise for an error of redis-py."""
    return LogUnavailable(f"Redis at {without_password(url)} does not answer as it should: {_reason(error)}")


def _reason(error: Exception) -> str:
    text = str(error) or ("it takes too long" if isinstance(error, TimeoutError) else type(error).__name__)
    if isinstance(error, redis.AuthenticationError):
        if "required" in text:
            return (
                "it wants a password: put it into STREAMER_REDIS_PASSWORD or into the URL, "
                f"as in redis://:PASSWORD@HOST:PORT/0 ({text})"
            )
        return f"it refuses the user or the password ({text})"
    if isinstance(error, redis.InvalidResponse):
        return f"what answers there is no Redis ({text})"
    return text


def _complete(options: dict[str, Any], answer_timeout_s: float | None, retry: Any) -> dict[str, Any]:
    options = {
        **options,
        "socket_timeout": answer_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": retry,
        # Pushed messages then look the same on every version of server.
        "protocol": 2,
    }
    return options if "path" in options else {**options, "socket_keepalive": True}


# What redis-py and the resolver import at their first use is imported here and now: a process that forks while one of
# its threads imports has a child whose modules are half-made, for ever.
redis.Connection()  # type: ignore[no-untyped-call]
"localhost".encode("idna")
