"""A client's connection, from the moment it is made."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage
from websockets.protocol import State

from streamer.core.permissions import EVERYTHING
from streamer.core.protocol import Format
from streamer.fanout.fleet_session import FleetSession
from streamer.fanout.job_session import JobSession
from streamer.fanout.locating import Position
from streamer.fanout.session import Session
from streamer.gateway.conversation import Conversation
from streamer.gateway.endings import Endings
from streamer.gateway.http import answer_error
from streamer.gateway.routes import Plain

HEAD_BYTES = 64 * 1024
"""Of a longer request's head, what has come is given to websockets, which has bounds of its own."""

_BODY_HEADERS = re.compile(rb"(?<=\r\n)(?:content-length|transfer-encoding|expect):[^\r\n]*\r\n", re.IGNORECASE)


class GatewayConnection(ServerConnection):
    """A `websockets` server connection that answers every request, and reads no faster than its client does.

    websockets closes a connection without an answer where a request announces a body, where anything follows the
    request's head before it is answered, and where it is no HTTP. So the announcement is taken out of the head, which
    is gathered first; then nothing is read until the answer is sent; and what is no HTTP gets an answer, too. What has
    come with the head is taken in after the answer: a WebSocket's first frames, sent too early; a body is dropped.

    ``connections`` is a set that it is in from when it is made until it is lost. ``endings``, if given, counts how it
    ends.
    """

    def __init__(
        self, connections: set[GatewayConnection], *args: Any, endings: Endings | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.watch: Plain | None = None
        self.position: Position | None = None
        self.format: Format | None = None
        self.session: Session | JobSession | FleetSession | Conversation | None = None
        self.permissions = EVERYTHING
        self._connections, self._endings = connections, endings
        self._held = bytearray()
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read."""
        self._connections.add(self)
        super().connection_made(transport)
        self.recv_messages.resume = self._read_on

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._connections.discard(self)
        super().connection_lost(exc)
        if self._endings is not None:
            self._endings.count(self.response, self.protocol)

    async def __aexit__(self, *exc_info: Any) -> None:
        """Close, unless the client has gone, which is how most end."""
        if self.protocol.state is not State.CLOSED:
            await super().__aexit__(*exc_info)

    def forget_handshake(self) -> None:
        """Let go of what was asked: headers are a quarter of what an open connection would hold for days.

        A token may be among it.
        """
        for message in (self.request, self.response):
            if message is not None:
                message.headers.clear()
        if self.request is not None:
            self.request.path = ""

    def data_received(self, data: bytes) -> None:
        """Take in what the socket brings."""
        if self._answered:
            super().data_received(data)
            return
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if end:
            self.transport.pause_reading()
        if end or len(self._held) > HEAD_BYTES:
            self._held = rest
            super().data_received(_BODY_HEADERS.sub(b"", head + end))

    def eof_received(self) -> None:
        """End, since the client says no more. What has come of a head that is not whole is no request."""
        self._held.clear()
        super().eof_received()

    def send_data(self) -> None:
        """Send what websockets has to say: the answer, pings and pongs, the close. Updates do not come by here."""
        protocol = self.protocol
        if self.response is None and isinstance(protocol.handshake_exc, InvalidMessage):
            self.response = answer_error(
                HTTPStatus.BAD_REQUEST, "this is no HTTP request, or its path is not ASCII, or a header is too long"
            )
            self.transport.write(self.response.serialize())
        super().send_data()
        if self.paused:
            # Who pings and reads nothing must not have pongs pile up. Not in `pause_writing`: a client that is behind
            # all the time would never be heard to answer our pings.
            self.transport.pause_reading()
        if not self._answered and (protocol.state is State.OPEN or protocol.eof_sent):
            self._answered = True
            held, self._held = bytes(self._held), bytearray()
            self._read_on()
            if held:
                self.data_received(held)

    def resume_writing(self) -> None:
        """Go on, since the client has taken what was written."""
        super().resume_writing()
        self._read_on()

    def _read_on(self) -> None:
        """Read, unless the answer is due, or the client does not take what was written, or messages wait."""
        if self._answered and not self.paused and not self.recv_messages.paused:
            self.transport.resume_reading()
