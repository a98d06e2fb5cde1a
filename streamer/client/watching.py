"""Watch a node or a job through any gateway: history, then live, across lost connections, each update once."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from random import Random
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import Close, CloseCode

from streamer.core.backoff import backoff
from streamer.core.errors import InvalidSetting, StreamerError
from streamer.core.messages import GAP, RESET, PlainMessage
from streamer.core.names import Topic, check_job, check_node

MAX_MESSAGE_BYTES = 16 << 20
"""An update of the greatest size, with every character escaped in JSON, is smaller."""

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
    token: str | Callable[[], str] | None = None,
    ca: str | None = None,
    notify: Callable[[str], None] = lambda sentence: None,
    rng: Random | None = None,
) -> AsyncGenerator[PlainMessage, None]:
    """Yield the updates of a node, or of a job: first those that the log keeps, then each as it comes, without end.

    A lost connection is made again, with growing waits, and goes on behind the last update yielded. Where updates are
    no longer kept, or the log was started anew, it goes on with what there is. Cancelling it ends it at once, and so
    does closing it.

    Args:
        gateway: the gateway's URL, as `ws://host:8080` or `https://host/prefix`.
        after: the cursor of an update, to begin behind it.
        history: without a cursor, how much comes first: `all`, `none`, or how many.
        token: says who asks, where the gateway wants to know; or what returns it, called for each connection: a token
            that has expired is then replaced by the next.
        ca: a file with the authorities that may vouch for the gateway (PEM), instead of those that the system knows.
        notify: is called with a sentence when the connection is lost or there again, or updates were missed.
        rng: spreads the waits.

    Raises InvalidName, InvalidSetting (for the URL, the token or the authorities), WatchRefused.
    """
    gateway = websocket_url(gateway)
    tls = _tls(gateway, ca)
    path = path_of(Topic(check_node(node), job if job is None else check_job(job)))
    rng = rng or Random()
    waits = backoff(rng)
    moved, waited = True, False
    while True:
        query = {"after": after} if after is not None else {"history": history}
        try:
            connection = await connect(
                f"{gateway}{path}?{urlencode(query)}",
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                additional_headers=_authorization(token() if callable(token) else token),
                ssl=tls,
            )
            try:
                if waited:
                    notify("connected")
                assert connection.response is not None
                after = connection.response.headers.get("Streamer-Cursor", after)
                while True:
                    message = _decode(await connection.recv())
                    waits, moved, after = backoff(rng), True, message.cursor
                    yield message
            finally:
                # The gateway's answer to a close would come behind all that it has still to send.
                connection.transport.abort()
        except (WebSocketException, OSError, msgspec.DecodeError) as error:
            code, reason = _ending(error, gateway)
        if code == RESET:
            after, history = None, "all"
        elif code == GAP and (match := _AFTER.search(reason)):
            after = match[1]
        news = reason.partition("; ")[0]  # what follows tells a program how to come back
        # A reset or a gap is news, and the next try may be at once; again and again it would be a busy loop.
        waited = code not in (RESET, GAP) or not moved
        if waited:
            wait = next(waits)
            notify(f"{news}; next try in {wait:.1f} s")
            await asyncio.sleep(wait)
        else:
            moved = False
            notify(news)


def _ending(error: Exception, gateway: str) -> tuple[int, str]:
    """The close code, or else the status, with which a connection ended or was refused, and the reason.

    Raises WatchRefused or InvalidSetting where another try would end the same way.
    """
    match error:
        case ConnectionClosed(rcvd=None):
            return CloseCode.ABNORMAL_CLOSURE, "the connection broke"
        case ConnectionClosed(rcvd=Close(code=code, reason=reason)):
            reason = reason or f"closed with code {code}"
            if code in _FINAL:
                raise WatchRefused(reason)
            return code, reason
        case InvalidStatus(response=response):
            status, sentence = response.status_code, _sentence(response)
            if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
                raise WatchRefused(sentence)
            return status, sentence
        case ssl.SSLCertVerificationError():
            raise WatchRefused(f"{gateway} is not vouched for: {error.verify_message}")
        case InvalidURI():
            raise InvalidSetting(str(error))
        case msgspec.DecodeError():
            raise WatchRefused(f"what {gateway} sends is no update: {error}")
    return CloseCode.ABNORMAL_CLOSURE, f"{gateway} cannot be reached: {error or type(error).__name__}"


def _authorization(token: str | None) -> dict[str, str]:
    if token is None:
        return {}
    token = token.strip()
    if not (token and token.isascii() and token.isprintable() and " " not in token):
        raise InvalidSetting("the token is none: it must be one word of ASCII characters")
    return {"Authorization": f"Bearer {token}"}


def _tls(gateway: str, ca: str | None) -> ssl.SSLContext | None:
    if not gateway.startswith("wss:"):
        if ca is not None:
            raise InvalidSetting(f"authorities are given, but {gateway} does not use TLS: it should begin with wss://")
        return None
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        reason = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise InvalidSetting(f"the authorities in {ca} cannot be used: {reason}") from None


def websocket_url(gateway: str) -> str:
    """A gateway's URL as `ws://HOST:PORT/PREFIX` or `wss://…`. Raises InvalidSetting where it is none."""
    try:
        parts = urlsplit(gateway)
        _ = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise InvalidSetting(f"{gateway!r} is no URL of a gateway: {error}") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidSetting(f"{gateway!r} is no URL of a gateway: it should look like ws://HOST:8080 or https://HOST")
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def path_of(topic: Topic) -> str:
    """The path under which a gateway serves a topic."""
    node = f"/nodes/{quote(topic.node, safe='')}"
    return node if topic.job is None else f"{node}/jobs/{quote(topic.job, safe='')}"


def _sentence(response: Any) -> str:
    """The gateway's own words, or a proxy's status."""
    try:
        return str(msgspec.json.decode(response.body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the gateway answered with HTTP status {response.status_code}"
