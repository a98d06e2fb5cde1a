"""The plain endpoint's messages, read by another implementation of WebSocket frames."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from streamer.core.cursor import Cursor
from streamer.core.messages import (
    DEFLATE_BITS,
    MAX_REASON_BYTES,
    PlainOfNode,
    deflated,
    fitting_reason,
    plain_frame,
    plain_message,
    text_frame,
)
from streamer.core.records import Update

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
updates = st.builds(
    Update,
    epoch=st.integers(1, 2**32 - 1),
    index=st.integers(0, 2**53 - 1),
    previous=st.integers(-1, 2**53 - 1),
    timestamp=st.integers(0, 2**53 - 1),
    status=st.text(min_size=1),
    state=st.dictionaries(st.text(), json_values, max_size=4),
)


def receive(data: bytes, *extensions: Extension) -> list[bytes]:
    """The payloads of unmasked text frames, as a client takes them in."""
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    client.extensions = list(extensions)
    client.receive_data(data)
    frames = client.events_received()
    assert client.close_expected() is False
    assert all(frame.opcode is Opcode.TEXT and frame.fin for frame in frames)
    return [bytes(frame.data) for frame in frames]


@given(payloads=st.lists(st.integers(0, 300) | st.sampled_from([125, 126, 65535, 65536]), max_size=4))
@example(payloads=[0, 125, 126, 65535, 65536, 100_000])
def test_frames_one_after_another_are_received_as_the_messages_they_hold(payloads: list[int]) -> None:
    messages = [b"x" * size for size in payloads]
    assert receive(b"".join(map(text_frame, messages))) == messages


@given(
    payloads=st.lists(st.text(alphabet="ab{}", max_size=500) | st.text(), max_size=4),
    bits=st.integers(DEFLATE_BITS, 15),
)
@example(payloads=["x" * 300, "", "x" * 70_000, "xy"], bits=DEFLATE_BITS)
def test_compressed_frames_are_received_as_the_messages_they_hold_in_any_order(payloads: list[str], bits: int) -> None:
    messages = [payload.encode() for payload in payloads]
    frames = [deflated(text_frame(message)) for message in messages]
    for received, sent in ((frames, messages), (frames[::-1], messages[::-1])):
        assert receive(b"".join(received), PerMessageDeflate(True, False, bits, bits)) == sent


@given(payload=st.binary(max_size=300))
@example(payload=b"x" * 100_000)
def test_a_compressed_frame_is_never_longer(payload: bytes) -> None:
    assert len(deflated(text_frame(payload))) <= len(text_frame(payload))


@pytest.mark.parametrize(("size", "header"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_a_frame_has_the_shortest_header_for_its_size(size: int, header: int) -> None:
    # RFC 6455, section 5.2: the minimal number of bytes must be used.
    assert len(text_frame(b"x" * size)) == header + size


@given(update=updates, log_id=st.text("0123456789abcdef", min_size=12, max_size=12))
def test_a_message_has_the_fields_of_the_update_and_the_cursor_behind_it(update: Update, log_id: str) -> None:
    (payload,) = receive(plain_frame(log_id, update))
    message: dict[str, Any] = json.loads(payload)
    assert message == {
        "status": update.status,
        "state": update.state,
        "timestamp": update.timestamp,
        "index": update.index,
        "previous": update.previous,
        "cursor": plain_message(log_id, update).cursor,
    }
    assert Cursor.parse(message["cursor"]) == Cursor(log_id, update.epoch, update.index)


def test_a_message_looks_like_this() -> None:
    update = Update(epoch=3, index=8, previous=5, timestamp=1700, status="started", state={"job": "j", "n": [1, None]})
    assert receive(plain_frame("ab12", update)) == [
        b'{"status":"started","state":{"job":"j","n":[1,null]},"timestamp":1700,'
        b'"index":8,"previous":5,"cursor":"ab12.3.8"}'
    ]


@given(update=updates, node=st.text(max_size=80), compressed=st.booleans())
def test_an_update_of_a_node_is_the_plain_message_with_the_node_before_it(
    update: Update, node: str, compressed: bool
) -> None:
    frame = plain_frame("ab12", update)
    encoding = PlainOfNode(node, compressed)
    extensions = [PerMessageDeflate(True, False, 12, 12)] if compressed else []
    [named] = receive(encoding.join(encoding.piece(frame), 1, update.cursor("ab12")), *extensions)
    [plain] = receive(frame)
    assert json.loads(named) == {"node": node, **json.loads(plain)}
    assert next(iter(json.loads(named))) == "node"


@given(st.text())
def test_a_reason_is_cut_where_a_close_frame_has_no_more_room(reason: str) -> None:
    fitting = fitting_reason(reason)
    assert reason.startswith(fitting)
    assert len(fitting.encode()) <= MAX_REASON_BYTES
    assert fitting == reason or len(fitting.encode()) > MAX_REASON_BYTES - 4
