"""Connections to Redis or Valkey, with every timeout set."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from streamer.core.errors import InvalidSetting, LogUnavailable

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0

_FORM = "it should look like redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH?db=0"
_OPTIONS = {"db", "username", "password", "client_name", "health_check_interval"}
_SECRET_OPTION = re.compile(r"([?&][^=&]*(?:pass|%)[^=&]*=).*", re.DOTALL | re.IGNORECASE)
_TLS_OPTIONS = {
    f"ssl_{name}" for name in ("ca_certs", "certfile", "keyfile", "password", "cert_reqs", "check_hostname")
}


def connect(url: str) -> redis.Redis:
    """Make a client for one thread. It connects at the first command and never retries: its owner does.

    Raises InvalidSetting where the URL is none that we know.
    """
    options = _options(url, ANSWER_TIMEOUT_S, Retry(NoBackoff(), 0))
    client: redis.Redis = redis.Redis.from_url(check_url(url), **options)
    return client


def connect_async(url: str, most_connections: int = 16) -> redis.asyncio.Redis:
    """Make a client for one event loop, whose commands wait for one of a few connections.

    A command is tried twice, since a connection that idled may be dead; all our commands may be repeated. Wrap each in
    `answering`, which bounds the wait: redis-py would do it by asyncio.wait_for, which in Python 3.11 can swallow a
    cancellation.

    Raises InvalidSetting where the URL is none that we know.
    """
    options = _options(url, None, AsyncRetry(NoBackoff(), 1))
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        check_url(url), max_connections=most_connections, timeout=ANSWER_TIMEOUT_S, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


def check_url(url: str) -> str:
    """Return the URL of a Redis unchanged; raise InvalidSetting with a sentence that says what is wrong with it."""
    fault = _fault(url)
    if fault is not None:
        raise InvalidSetting(f"{without_password(url)!r} is no URL of a Redis: {_FORM}{fault}")
    return url


def without_password(url: str) -> str:
    """The URL as it may be shown, however broken it is: where a password may stand, there is none."""
    start, rest = re.fullmatch(r"((?:\w*:?//?)?)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    usual = re.fullmatch(r"([^:@/?#]*)(:[^/?#]*@)?([^@]*|@[^@]*)", rest)
    if usual is None:
        # An @ stands where none should, and so a password may have begun anywhere.
        name, *secret = re.split("[:?#]", rest, maxsplit=1)
        return f"{start}{name}{':***' if secret else ''}"
    user, password, host = usual.groups()
    return start + user + (":***@" if password else "") + _SECRET_OPTION.sub(r"\1***", host)


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
            return f"it wants a password: put it into the URL, as in redis://:PASSWORD@HOST:PORT/0 ({text})"
        return f"it refuses the user or the password in the URL ({text})"
    if isinstance(error, redis.InvalidResponse):
        return f"what answers there is no Redis ({text})"
    return text


def _fault(url: str) -> str | None:
    """What else to say of a URL that redis-py would misread, or fail on later; None where it is good.

    What urllib says of it is not passed on: that may quote a part of the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return ", with an IPv6 address in brackets"
    local = parts.scheme == "unix"
    place = unquote((parts.path if local else parts.hostname) or "")
    if not url.startswith(("redis://", "rediss://", "unix://")) or not place or (local and parts.hostname):
        return ""
    if parts.fragment or _port(parts) == 0:
        return ", with a port from 1 to 65535, and what is special in a password escaped, such as %23 for #"
    if not (_can_be_a_host(place) or (local and "\0" not in place)):
        return ", with the name or the address of a host, or the path of a socket"
    others = _TLS_OPTIONS if parts.scheme == "rediss" else set()
    if parse_qs(parts.query, keep_blank_values=True).keys() - _OPTIONS - others:
        return f", with no other options than {', '.join(sorted(_OPTIONS | others))}"
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        return ", with numbers for db and health_check_interval"
    if options.get("db", 0) < 0 or not (local or re.fullmatch("/?[0-9]*", parts.path)):
        return ", with a number as the database"
    if options.get("ssl_cert_reqs", "none") not in ("none", "optional", "required"):
        return ", with none, optional or required for ssl_cert_reqs"
    return None


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return 0


def _can_be_a_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return bool(re.fullmatch(r"[\w.:%-]+", name))


def _options(url: str, answer_timeout_s: float | None, retry: Any) -> dict[str, Any]:
    options = {
        "socket_timeout": answer_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": retry,
        # Pushed messages then look the same on every version of server.
        "protocol": 2,
    }
    return options if url.startswith("unix:") else {**options, "socket_keepalive": True}


# What redis-py and the resolver import at their first use is imported here and now: a process that forks while one of
# its threads imports has a child whose modules are half-made, for ever.
redis.Connection()  # type: ignore[no-untyped-call]
"localhost".encode("idna")
