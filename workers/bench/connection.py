"""A load client's connection: it opens the WebSocket, hands over what comes, and answers pings and the close."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

from workers.bench.frames import (
    CLOSE,
    MAX_HEAD_BYTES,
    NORMAL_CLOSURE,
    PING,
    PONG,
    Frame,
    Malformed,
    Refused,
    check_answer,
    client_frame,
    close_reason,
    request,
)

BROKEN = 1006
"""Stands for a close code where a connection ended without one (RFC 6455, section 7.1.5)."""


class Ending(NamedTuple):
    """How a connection ended: the gateway's close code and its reason."""

    code: int
    reason: str

    def __str__(self) -> str:
        return (
            self.reason if self.code == BROKEN else f"closed with code {self.code}: {self.reason or 'no reason given'}"
        )


class Taker(Protocol):
    """Whoever takes what a connection brings: ``count`` updates by now; ``faulty`` where any of them is wrong."""

    @property
    def count(self) -> int: ...
    @property
    def faulty(self) -> bool: ...

    def take(self, data: bytes) -> Sequence[Frame]:
        """Take what came; return the control frames in it. Raises Malformed."""


class Connection(asyncio.Protocol):
    """One connection, from the request on.

    ``opened`` is done once the WebSocket is open, or has `Refused` as its exception; ``lost`` once the connection has
    ended. ``moved`` is called with the taker's count before, whenever that has changed or a fault was found.
    """

    def __init__(self, host: str, path: str, taker: Taker, moved: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[Ending] = loop.create_future()
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._request = request(host, path, self._key)
        self._taker, self._moved = taker, moved
        self._head = b""
        self._open = False
        self._ending: Ending | None = None
        self._close_sent = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        # uvloop's is a Transport in all but its class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Verify what has come."""
        if not self._open:
            self._take_head(data)
            return
        taker = self._taker
        before = taker.count
        try:
            controls = taker.take(data)
        except Malformed as error:
            self._end(Ending(BROKEN, f"what came is no WebSocket: {error}"))
            self._transport.abort()
            return
        if taker.count != before or taker.faulty:
            self._moved(before)
        for frame in controls:
            self._take_control(frame)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell those who wait."""
        self._end(Ending(BROKEN, f"the connection broke{f': {error}' if error else ''}"))
        if not self.opened.done():
            self._check_head()
        assert self._ending is not None
        if not self.lost.done():
            self.lost.set_result(self._ending)

    def leave(self) -> None:
        """Close in order. ``lost`` is done once the gateway has answered: until then it may still send."""
        if not self._close_sent and not self._transport.is_closing():
            self._close_sent = True
            self._transport.write(client_frame(CLOSE, NORMAL_CLOSURE.to_bytes(2, "big"), os.urandom(4)))

    def abort(self) -> None:
        """End at once, as a phone in a tunnel does."""
        self._transport.abort()

    def stall(self) -> None:
        """Read nothing more for now."""
        self._transport.pause_reading()

    def read_on(self) -> None:
        """End the stall."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _take_head(self, data: bytes) -> None:
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD_BYTES:
            self._transport.abort()
        elif end and head.split(b" ", 2)[1:2] == [b"101"]:
            self._check_head()
            if self._open and rest:
                self.data_received(rest)

    def _check_head(self) -> None:
        head, _, body = self._head.partition(b"\r\n\r\n")
        try:
            if not head:
                raise Refused(str(self._ending))
            check_answer(head, body, self._key)
        except Refused as error:
            if not self.opened.done():  # nobody may wait for it any more
                self.opened.set_exception(error)
            self._transport.abort()
        else:
            self._open = True
            if not self.opened.done():
                self.opened.set_result(None)

    def _take_control(self, frame: Frame) -> None:
        if frame.opcode == PING:
            self._transport.write(client_frame(PONG, frame.payload, os.urandom(4)))
        elif frame.opcode == CLOSE:
            self._end(Ending(*close_reason(frame.payload)))
            self.leave()

    def _end(self, ending: Ending) -> None:
        self._ending = self._ending or ending
