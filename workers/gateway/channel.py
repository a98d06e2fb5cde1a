"""What a supervisor and one of its gateway processes say to each other, over a pair of sockets that only they hold.

    supervisor          process
    Order ───────────▶            first, and once
          ◀─────────── Serving    it listens; or
          ◀─────────── Failed     it cannot, and ends
    Ask ─────────────▶            any number, at any time once it serves
          ◀─────────── Answer     to each, in any order

The end of the channel is the end of the other: a process whose supervisor is gone stops, however that went.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Self

import msgspec

from streamer.gateway.settings import GatewaySettings

_SIZE_BYTES = 4


class Order(msgspec.Struct, frozen=True, tag=True):
    """What a process is to do, and its number, from 1. It goes this way since others can read a command line."""

    number: int
    settings: GatewaySettings
    log_level: str


class Serving(msgspec.Struct, frozen=True, tag=True):
    """The process listens."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The process cannot listen; ``why`` is a sentence."""

    why: str


class Ask(msgspec.Struct, frozen=True, tag=True):
    """A request for a path of the internal port."""

    number: int
    path: str


class Answer(msgspec.Struct, frozen=True, tag=True):
    """The answer to the request of this number: an HTTP status and a body."""

    number: int
    status: int
    body: bytes


Message = Order | Serving | Failed | Ask | Answer

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Channel:
    """One end of the channel; for one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Speak over a socket, which is the channel's from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Send without waiting. Where the other is gone, nobody is told."""
        data = _encode(message)
        if not self._writer.is_closing():
            self._writer.write(len(data).to_bytes(_SIZE_BYTES) + data)

    async def receive(self) -> Message | None:
        """Return the next message, None at the end."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_SIZE_BYTES))
            message: Message = _decode(await self._reader.readexactly(size))
        except (EOFError, ConnectionError):
            return None
        return message

    async def close(self) -> None:
        """Send what still waits, if the other takes it, and end the channel."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
