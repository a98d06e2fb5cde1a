"""Making connections to gateways, and why they fail or end: for good, or for now."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from inspect import isawaitable
from random import Random
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
    WebSocketException,
)
from websockets.frames import Close
from websockets.typing import Subprotocol

from streamer.client.address import websocket_url
from streamer.client.errors import GatewayRefused, Unauthorized
from streamer.core.errors import InvalidSetting
from streamer.core.protocol import Format

Token = str | Callable[[], str | Awaitable[str]]

MAX_MESSAGE_BYTES = 16 << 20
"""An update of the greatest size, with every character escaped in JSON, is smaller."""

WAITING_FRAMES = 2
"""So many messages websockets takes in ahead of the client; then the socket is not read."""

TOKEN_EXPIRED = 4004
"""The close code for a token that holds no longer."""

_FINAL = {1002, 1003, 1007, 1008, 1009, 1010}
"""Close codes after which another try would end the same way (RFC 6455, section 7.4.1)."""

PASSING = (WebSocketException, OSError)
"""What the making or the use of a connection raises where that fails; `reason` says whether another try can help."""


class Opening:
    """Opens connections to one gateway after another, beginning with any of them."""

    def __init__(
        self, gateways: Sequence[str], format: Format, token: Token | None, tls: ssl.SSLContext | None, rng: Random
    ) -> None:
        if not gateways:
            raise InvalidSetting("a client needs the URL of at least one gateway")
        self._urls = [websocket_url(gateway) for gateway in gateways]
        if tls is not None and not any(url.startswith("wss:") for url in self._urls):
            raise InvalidSetting(f"{self._urls[0]} does not use TLS, and so no authorities vouch for it: give wss://")
        self._format, self._token, self._tls = format, token, tls
        self._next = rng.randrange(len(self._urls))
        self.url = self._urls[self._next]
        self._opened = False

    @property
    def renews_token(self) -> bool:
        """Whether the next connection may have another token."""
        return callable(self._token)

    async def open(self) -> ClientConnection:
        """Open a connection to the next gateway.

        Raises one of PASSING, GatewayRefused where it speaks no v1, or what asking for the token raises.
        """
        self.url = self._urls[self._next]
        self._next = (self._next + 1) % len(self._urls)
        options: dict[str, Any] = {"ssl": self._tls} if self._tls is not None and self.url.startswith("wss:") else {}
        token = await self._ask_token()
        connection = await open_websocket(
            f"{self.url}/ws",
            additional_headers=None if token is None else {"Authorization": f"Bearer {token}"},
            subprotocols=[Subprotocol(self._format.value)],
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=WAITING_FRAMES,
            ping_interval=None,  # a client that does not read, since its consumer is slow, would not hear the answers
            **options,
        )
        if connection.subprotocol != self._format.value:
            connection.transport.abort()
            raise GatewayRefused(f"{self.url} does not speak {self._format.value}")
        self._opened = True
        return connection

    async def _ask_token(self) -> str | None:
        if self._token is None or isinstance(self._token, str):
            return self._token if self._token is None else _checked(self._token)
        # It may ask somebody over the network, and all that runs in this event loop would wait.
        token = await asyncio.to_thread(self._token)
        return _checked(await token if isawaitable(token) else token)

    def reason(self, error: Exception) -> str:
        """Why a connection failed or ended, where another try can help.

        Raises GatewayRefused, Unauthorized or InvalidSetting where it would end the same way. What a proxy answers for
        a gateway, or a certificate, is only regarded so until a connection was made: what has worked may work again.
        """
        match error:
            case ConnectionClosed(rcvd=None):
                return "the connection broke"
            case ConnectionClosed(rcvd=Close(code=code, reason=reason)):
                return self._closed(code, reason or f"closed with code {code}")
            case InvalidStatus(response=response):
                return self._answered(response.status_code, _sentence(response))
            case InvalidURI():
                raise InvalidSetting(str(error)) from error
            case NegotiationError():
                raise GatewayRefused(f"{self.url} does not speak {self._format.value}: {error}") from error
            case ssl.SSLCertVerificationError() if not self._opened:
                raise GatewayRefused(f"{self.url} cannot be trusted: {error.verify_message}") from error
        return f"{self.url} cannot be reached: {error or type(error).__name__}"

    def _closed(self, code: int, reason: str) -> str:
        if code in _FINAL:
            raise GatewayRefused(reason, str(code))
        if code == TOKEN_EXPIRED and not self.renews_token:
            raise Unauthorized(reason, str(code))
        return reason

    def _answered(self, status: int, sentence: str) -> str:
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise Unauthorized(sentence, str(status))
        passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
        if passing or self._opened:
            return sentence
        if status == HTTPStatus.NOT_FOUND:
            raise GatewayRefused(f"there is no gateway that speaks v1 at {self.url}: {sentence}", str(status))
        raise GatewayRefused(sentence, str(status))


def tls_context(ca_file: str | None) -> ssl.SSLContext | None:
    """What trusts an authority's certificates, None for those that the system trusts. Raises InvalidSetting."""
    if ca_file is None:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise InvalidSetting(f"the certificates in {ca_file!r} cannot be read: {error}") from error


def _checked(token: str) -> str:
    word = token.strip() if isinstance(token, str) else ""  # a file with it ends with its line
    if not (word and word.isascii() and word.isprintable() and " " not in word):
        raise InvalidSetting("a token must be one word of visible ASCII characters")
    return word


def _sentence(response: Any) -> str:
    """The gateway's own words, or a proxy's status."""
    try:
        return str(msgspec.json.decode(response.body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the gateway answered with HTTP status {response.status_code}"
