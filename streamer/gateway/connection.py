"""A client's connection, from its request on."""

from __future__ import annotations

import re
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from streamer.fanout.feed import Position
from streamer.fanout.session import Session
from streamer.gateway.routes import Watch

HELD_BYTES = 64 * 1024

_BODY_HEADERS = re.compile(rb"(?<=\r\n)(?:content-length|transfer-encoding|expect):[^\r\n]*\r\n", re.IGNORECASE)


class GatewayConnection(ServerConnection):
    """A `websockets` server connection that also answers requests with a body.

    websockets closes a connection without an answer where a request announces a body, or where anything follows the
    request's head before the handshake is answered. So the announcement is taken out of the head, and what follows is
    held until then: a WebSocket's first frames, sent too early, are taken in, a body is dropped.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watch: Watch | None = None
        self.position: Position | None = None
        self.session: Session | None = None
        self._held = bytearray()

    def data_received(self, data: bytes) -> None:
        """Take in what the socket brings."""
        if self.response is not None:
            super().data_received(data)
            return
        self._held += data
        if self.request is None:
            head, end, rest = self._held.partition(b"\r\n\r\n")
            if end or len(self._held) > HELD_BYTES:
                self._held = rest
                super().data_received(_BODY_HEADERS.sub(b"", head + end))
        elif len(self._held) > HELD_BYTES:
            self.transport.pause_reading()

    def release_held(self) -> None:
        """Take in what came before the handshake was through."""
        if len(self._held) > HELD_BYTES:
            self.transport.resume_reading()
        held, self._held = bytes(self._held), bytearray()
        if held and self.protocol.state is State.OPEN:
            super().data_received(held)
