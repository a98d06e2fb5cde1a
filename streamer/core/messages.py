"""What the plain endpoint sends: one update, one JSON message, one WebSocket frame; and why it closes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import msgspec

from streamer.core.cursor import Cursor
from streamer.core.records import Update

RESET = 4001
GAP = 4002
TOO_SLOW = 4003
EXPIRED = 4004
"""Close codes of our own (RFC 6455, section 7.4.2). After all of them a client may come back at once, but after
EXPIRED only with another token."""

MAX_REASON_BYTES = 123

DEFLATE_BITS = 12
"""The window of the compression: 4 KiB is more than most messages have, and a compressor for it is made in a tenth of
the time that one for the greatest takes."""

_DEFLATE_MEMORY = 5
_COMPRESSED = 0x40
_FLUSHED = b"\x00\x00\xff\xff"
_HEADER_BYTES = {126: 4, 127: 10}

_encode = msgspec.json.Encoder().encode


class PlainMessage(msgspec.Struct, frozen=True):
    """An update as JSON. ``cursor`` is what `after=` takes to go on behind this update."""

    status: str
    state: dict[str, Any]
    timestamp: int
    index: int
    previous: int
    cursor: str


def plain_message(log_id: str, update: Update) -> PlainMessage:
    """The message for an update of the log of that id."""
    return PlainMessage(
        update.status, update.state, update.timestamp, update.index, update.previous, update.cursor(log_id).token
    )


def plain_frame(log_id: str, update: Update) -> bytes:
    """An update as the whole bytes of a WebSocket frame, the same for every client of the plain endpoint."""
    return text_frame(_encode(plain_message(log_id, update)))


def text_frame(payload: bytes) -> bytes:
    """Frame a text message as servers send it: final, opcode 1, without a mask (RFC 6455, section 5.2)."""
    return _frame(b"\x81", payload)


def binary_frame(payload: bytes) -> bytes:
    """Frame a binary message as servers send it: final, opcode 2, without a mask."""
    return _frame(b"\x82", payload)


def payload_of(frame: bytes) -> bytes:
    """The message in a frame that `text_frame` or `binary_frame` made."""
    return frame[_HEADER_BYTES.get(frame[1], 2) :]


def deflated(frame: bytes) -> bytes:
    """A frame with its message compressed, or as it is where that is not shorter (RFC 7692, section 7.2.1).

    Nothing is taken over from one message to the next, so that every client can read it that has negotiated a window
    of DEFLATE_BITS or more, whatever it was sent before.
    """
    compressor = zlib.compressobj(wbits=-DEFLATE_BITS, memLevel=_DEFLATE_MEMORY)
    data = compressor.compress(payload_of(frame)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    compressed = _frame(bytes((frame[0] | _COMPRESSED,)), data[: -len(_FLUSHED)])
    return compressed if len(compressed) < len(frame) else frame


@dataclass(frozen=True)
class PlainDeflated:
    """The encoding of those who read plain frames compressed: each frame for itself."""

    def piece(self, frame: bytes) -> bytes:
        """The frame, compressed."""
        return deflated(frame)

    def join(self, pieces: bytes, count: int, last: Cursor) -> bytes:
        """The frames, one behind another."""
        return pieces


@dataclass(frozen=True)
class PlainOfNode:
    """The encoding of those who read a job's updates of all nodes: each is a plain frame, with the node's name."""

    node: str
    deflated: bool = False

    def piece(self, frame: bytes) -> bytes:
        """The frame with a ``node`` before the other fields, compressed if it is to be."""
        named = text_frame(b'{"node":' + _encode(self.node) + b"," + payload_of(frame)[1:])
        return deflated(named) if self.deflated else named

    def join(self, pieces: bytes, count: int, last: Cursor) -> bytes:
        """The frames, one behind another."""
        return pieces


def fitting_reason(reason: str) -> str:
    """As much of a reason as a close frame has room for (RFC 6455, section 5.5)."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def _frame(first: bytes, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return first + size.to_bytes(1, "big") + payload
    if size < 65536:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload
