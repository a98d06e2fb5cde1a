"""WebSocket as the load clients speak it, held against what websockets makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from workers.bench.frames import (
    MAX_PAYLOAD_BYTES,
    PONG,
    TEXT,
    Frame,
    Malformed,
    Refused,
    check_answer,
    client_frame,
    close_reason,
    next_frame,
    request,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_frame_of_any_size_is_found_and_one_that_is_not_whole_is_not(size: int) -> None:
    payload = b"x" * size
    data = b"before" + TheirFrame(Opcode.TEXT, payload).serialize(mask=False)
    assert next_frame(data + b"after", 6) == Frame(TEXT, True, payload, len(data))
    for end in {6, 7, 8, 9, 10, 15, len(data) - 1}:
        if end < len(data):
            assert next_frame(data[:end], 6) is None


@pytest.mark.parametrize(
    "data", [b"\xc1\x00", b"\x81\x80....", b"\x81\x7f" + (MAX_PAYLOAD_BYTES + 1).to_bytes(8, "big")]
)
def test_what_no_server_may_send_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        next_frame(data, 0)


@given(st.binary(max_size=125), st.binary(min_size=4, max_size=4))
def test_a_servers_end_reads_what_we_send(payload: bytes, mask: bytes) -> None:
    reader = StreamReader()
    reader.feed_data(client_frame(PONG, payload, mask))
    parsing = TheirFrame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert (done.value.value.opcode, done.value.value.data) == (Opcode.PONG, payload)


def test_a_server_accepts_our_request_and_we_its_answer() -> None:
    server = ServerProtocol()
    server.receive_data(request("h:1", "/nodes/n?history=all", KEY))
    [event] = server.events_received()
    assert isinstance(event, Request)
    assert event.path == "/nodes/n?history=all"
    head, _, rest = server.accept(event).serialize().partition(b"\r\n\r\n")
    check_answer(head, rest, KEY)


@pytest.mark.parametrize(
    ("head", "body", "says"),
    [
        (b"HTTP/1.1 503 Busy", b'{"error": "come later"}', "HTTP status 503 (come later)"),
        (b"HTTP/1.1 404 Not Found", b"<html>", "HTTP status 404"),
        (b"SSH-2.0-x", b"", "no HTTP server"),
        (b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: other", b"", "to another request"),
        (b"HTTP/1.1 101 Yes", b"", "to another request"),
    ],
)
def test_a_refusal_tells_why(head: bytes, body: bytes, says: str) -> None:
    with pytest.raises(Refused) as refused:
        check_answer(head, body, KEY)
    assert says in str(refused.value)
    check_answer(f"HTTP/1.1 101 Yes\r\nsec-websocket-accept:  {ACCEPT}".encode(), b"", KEY)


def test_a_close_tells_its_code_and_reason() -> None:
    assert close_reason((4002).to_bytes(2, "big") + b"gap") == (4002, "gap")
    assert close_reason(b"") == (1005, "")
