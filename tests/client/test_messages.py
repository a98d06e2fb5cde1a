"""What a client reads of what gateways say, whatever that is, and how it writes requests."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.client.messages import Message, Update, Updates, read, write
from streamer.core.cursor import Cursor
from streamer.core.messages import payload_of, plain_frame
from streamer.core.names import Topic
from streamer.core.protocol import (
    Answer,
    Code,
    Format,
    Gap,
    Live,
    Ping,
    Pong,
    Request,
    Reset,
    Rewind,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    error,
)
from streamer.core.protocol import Updates as Encoding
from tests.core.test_messages import json_values, updates

formats = st.sampled_from(list(Format))
fields = {
    "op": st.sampled_from(["subscribed", "updates", "live", "gap", "rewind", "reset", "pong", "error", "weather"]),
    "id": st.integers() | json_values,
    "node": st.text() | json_values,
    "job": st.text() | json_values,
    "cursor": st.just("ab.1.2") | json_values,
    "updates": st.lists(json_values) | json_values,
    "index": st.integers() | json_values,
    "more": json_values,
}


def text(format: Format, data: bytes) -> str | bytes:
    """A message's payload as websockets gives it."""
    return data.decode() if format is Format.JSON else data


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize(
    "answer",
    [
        Subscribed(id=1, node="n", job="j", log="ab", epoch=1, head=2, cursor="ab.1.2", truncated=True),
        Subscribed(node="n", epoch=0, head=-1, cursor="-1", truncated=False),
        Live(node="n", cursor="ab.1.2"),
        Gap(node="n", job="j", first=1, last=2, cursor="ab.1.2"),
        Rewind(node="n", index=4, cursor="ab.2.4"),
        Reset(node="n", cursor="-1"),
        Unsubscribed(id="a", node="n"),
        Pong(),
        error(Code.UNAVAILABLE, "no", node="n"),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_it_reads_what_the_gateway_writes(format: Format, answer: Answer) -> None:
    assert read(format, text(format, payload_of(format.frame(answer)))) == answer


@given(format=formats, records=st.lists(updates, min_size=1, max_size=20), job=st.none() | st.just("j"))
def test_it_reads_updates_as_they_were_published(format: Format, records: list[Any], job: str | None) -> None:
    encoding = Encoding(Topic("n", job), format)
    pieces = b"".join(encoding.piece(plain_frame("ab", record)) for record in records)
    last = Cursor("ab", 1, records[-1].index)
    told = read(format, text(format, payload_of(encoding.join(pieces, len(records), last))))
    assert isinstance(told, Updates)
    assert (told.node, told.job, told.cursor) == ("n", job, last.token)
    assert told.updates == [
        Update(record.status, record.state, record.timestamp, record.index, record.previous, record.cursor("ab").token)
        for record in records
    ]


@given(format=formats, data=st.text(max_size=60) | st.binary(max_size=60))
def test_whatever_comes_is_a_message_or_a_value_error(format: Format, data: str | bytes) -> None:
    try:
        told = read(format, data)
    except ValueError:
        return
    assert told is None or isinstance(told, Message)


@given(format=formats, content=st.fixed_dictionaries({}, optional=fields))
def test_whatever_map_comes_is_a_message_or_a_value_error_or_unknown(format: Format, content: Any) -> None:
    encode: Any = msgspec.json.encode if format is Format.JSON else msgspec.msgpack.encode
    try:
        data = text(format, encode(content))
    except (OverflowError, ValueError):
        return
    try:
        told = read(format, data)
    except ValueError:
        assert content.get("op") != "weather"
        return
    assert (told is None) is (content["op"] == "weather")


@pytest.mark.parametrize("format", list(Format))
def test_what_is_nested_too_deep_is_a_value_error(format: Format) -> None:
    deep = "[" * 100_000 if format is Format.JSON else b"\x91" * 100_000
    with pytest.raises(ValueError, match=r"\w"):
        read(format, deep)


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize(
    "request_",
    [
        Subscribe(id=1, node="ü", job="j", after="ab.1.2"),
        Subscribe(node="n", history=3),
        Unsubscribe(node="n"),
        Ping(id="x"),
    ],
)
def test_the_gateway_reads_what_it_writes(format: Format, request_: Request) -> None:
    assert format.parse(write(format, request_)) == request_
