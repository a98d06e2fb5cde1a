"""What the plain endpoint sends: one update, one JSON message, one WebSocket frame; and why it closes."""

from __future__ import annotations

from typing import Any

import msgspec

from streamer.core.records import Update

RESET = 4001
GAP = 4002
TOO_SLOW = 4003
"""Close codes of our own (RFC 6455, section 7.4.2). After all of them a client may come back at once."""

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
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload
