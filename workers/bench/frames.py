"""WebSocket as a client speaks it (RFC 6455), as far as a load client needs it. Pure: bytes in, bytes out."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

import msgspec
from websockets.utils import accept_key, apply_mask

CONTINUATION, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA
"""Opcodes (section 5.2)."""

NORMAL_CLOSURE = 1000
MAX_PAYLOAD_BYTES = 16 << 20
MAX_HEAD_BYTES = 64 << 10

_FINAL, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F


class Malformed(Exception):
    """What the server sent is no WebSocket; the text says why."""


class Refused(Exception):
    """The server did not open the WebSocket; the text gives its status and its words."""


class Frame(NamedTuple):
    """A frame, and where in the data it ends."""

    opcode: int
    final: bool
    payload: bytes
    end: int


def next_frame(data: bytes, start: int) -> Frame | None:
    """The server's frame that begins there; None where it is not whole yet. Raises Malformed."""
    head = start + 2
    if len(data) < head:
        return None
    first, second = data[start], data[start + 1]
    if first & _RESERVED or second & _MASKED:
        raise Malformed(f"a frame begins with the bytes {data[start:head].hex()}, as no server's may")
    length = second & _LENGTH
    if length >= 126:
        wide = 2 if length == 126 else 8
        if len(data) < head + wide:
            return None
        length = int.from_bytes(data[head : head + wide], "big")
        head += wide
    if length > MAX_PAYLOAD_BYTES:
        raise Malformed(f"a frame announces {length:,} bytes")
    if len(data) < head + length:
        return None
    return Frame(first & _OPCODE, bool(first & _FINAL), data[head : head + length], head + length)


def client_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A final control frame as clients send it, with a mask of four bytes."""
    return bytes((_FINAL | opcode, _MASKED | len(payload))) + mask + apply_mask(payload, mask)


def close_reason(payload: bytes) -> tuple[int, str]:
    """A close frame's code, 1005 where it has none, and its reason (section 7.1.5)."""
    return (int.from_bytes(payload[:2], "big") if len(payload) > 1 else 1005), payload[2:].decode(errors="replace")


def request(host: str, path: str, key: str) -> bytes:
    """The request that opens a WebSocket (section 4.1)."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def check_answer(head: bytes, body: bytes, key: str) -> None:
    """Return where the answer's head opens the WebSocket that was asked for. Raises Refused.

    ``body`` is what has come behind it, which tells why where it does not.
    """
    status, *lines = head.decode("latin-1").split("\r\n")
    words = status.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/"):
        raise Refused(f"what answers is no HTTP server: {status[:60]!r}")
    if words[1] != str(int(HTTPStatus.SWITCHING_PROTOCOLS)):
        raise Refused(f"HTTP status {words[1]}{_error(body)}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("sec-websocket-accept") != accept_key(key):
        raise Refused("the answer is to another request")


def _error(body: bytes) -> str:
    """What a gateway of ours says in an answer's body."""
    try:
        return f" ({msgspec.json.decode(body)['error']})"
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
