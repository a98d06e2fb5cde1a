"""Watch a node or a job through any gateway: history, then live, across lost connections, each update once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus
from random import Random
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import CloseCode

from streamer.core.backoff import backoff
from streamer.core.errors import InvalidSetting, StreamerError
from streamer.core.messages import PlainMessage
from streamer.core.names import Topic, check_job, check_node

MAX_MESSAGE_BYTES = 16 << 20
"""An update of the greatest size, with every character escaped in JSON, is smaller."""

_RESET, _GAP = 4001, 4002
_FINAL = {1002, 1003, 1007, 1008, 1009, 1010}
"""Close codes after which another try would end the same way (RFC 6455, section 7.4.1)."""

_AFTER = re.compile(r"after=(\S+)")
_decode = msgspec.json.Decoder(PlainMessage).decode


class WatchRefused(StreamerError):
    """The gateway will not serve this, now or later; the text is its reason."""


async def watch(
    gateway: str,
    node: str,
    job: str | None = None,
    *,
    after: str | None = None,
    history: str = "all",
    notify: Callable[[str], None] = lambda sentence: None,
    rng: Random | None = None,
) -> AsyncGenerator[PlainMessage, None]:
    """Yield the updates of a node, or of a job: first those that the log keeps, then each as it comes, without end.

    A lost connection is made again, with growing waits, and goes on behind the last update yielded. Where updates are
    no longer kept, or the log was started anew, it goes on with what there is. Cancelling ends it.

    Args:
        gateway: the gateway's URL, as `ws://host:8080` or `https://host/prefix`.
        after: the cursor of an update, to begin behind it.
        history: without a cursor, how much comes first: `all`, `none`, or how many.
        notify: is called with a sentence when the connection is lost or updates were missed.
        rng: spreads the waits.

    Raises InvalidName, InvalidSetting (for the URL), WatchRefused.
    """
    base = _websocket_url(gateway) + _path(Topic(check_node(node), job if job is None else check_job(job)))
    waits = backoff(rng or Random())
    while True:
        query = {"after": after} if after is not None else {"history": history}
        try:
            async with aclosing(_receive(f"{base}?{urlencode(query)}")) as messages:
                async for message in messages:
                    waits = backoff(rng or Random())
                    after = message.cursor
                    yield message
        except _Ended as end:
            code, reason = end.code, end.reason
        if code in _FINAL:
            raise WatchRefused(reason)
        if code == _RESET:
            after, history = None, "all"
        if code == _GAP and (match := _AFTER.search(reason)):
            after = match[1]
        if code in (_RESET, _GAP):
            notify(reason)
        else:
            wait = next(waits)
            notify(f"{reason or f'closed with code {code}'}; next try in {wait:.1f} s")
            await asyncio.sleep(wait)


class _Ended(Exception):
    """How a connection ended: a close code, or the status with which it was refused."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


async def _receive(url: str) -> AsyncGenerator[PlainMessage, None]:
    """Yield what one connection brings, and then raise _Ended; WatchRefused where another would end the same way."""
    try:
        async with connect(url, compression=None, max_size=MAX_MESSAGE_BYTES) as connection:
            while True:
                yield _decode(await connection.recv())
    except ConnectionClosed as error:
        if error.rcvd is None:
            raise _Ended(CloseCode.ABNORMAL_CLOSURE, "the connection broke") from None
        raise _Ended(error.rcvd.code, error.rcvd.reason) from None
    except InvalidStatus as error:
        status, sentence = error.response.status_code, _sentence(error.response)
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
            raise WatchRefused(sentence) from None
        raise _Ended(status, sentence) from None
    except InvalidURI as error:
        raise InvalidSetting(str(error)) from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        where = url.partition("/nodes/")[0]
        raise _Ended(
            CloseCode.ABNORMAL_CLOSURE, f"{where} cannot be reached: {error or type(error).__name__}"
        ) from None


def _websocket_url(gateway: str) -> str:
    parts = urlsplit(gateway)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidSetting(f"{gateway!r} is no URL of a gateway: it should look like ws://HOST:8080 or https://HOST")
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _path(topic: Topic) -> str:
    node = f"/nodes/{quote(topic.node, safe='')}"
    return node if topic.job is None else f"{node}/jobs/{quote(topic.job, safe='')}"


def _sentence(response: Any) -> str:
    """The gateway's own words, or a proxy's status."""
    try:
        return str(msgspec.json.decode(response.body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the gateway answered with HTTP status {response.status_code}"
