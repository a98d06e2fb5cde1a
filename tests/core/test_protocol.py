"""What v1 makes of what clients say, whatever that is, and how it writes updates."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from streamer.core.cursor import Cursor
from streamer.core.fleet_view import NodeSummary
from streamer.core.messages import plain_frame
from streamer.core.names import Fleet, JobAnywhere, Subject, Topic
from streamer.core.protocol import (
    MAX_NODES,
    Code,
    Error,
    Format,
    Ping,
    Pong,
    Request,
    Subscribe,
    Unsubscribe,
    Updates,
    named,
    nodes_frame,
)
from streamer.core.records import Update
from tests.core.test_messages import json_values, receive, updates

formats = st.sampled_from(list(Format))
names = st.text(min_size=1, max_size=20)
fields = {
    "op": st.sampled_from(["subscribe", "unsubscribe", "ping", "updates", "authenticate"]) | json_values,
    "id": names | st.integers() | json_values,
    "node": names | json_values,
    "job": names | json_values,
    "after": st.integers(-2, 9) | st.just("ab12.1.7") | json_values,
    "history": st.sampled_from(["all", "none", 0, 3]) | json_values,
    "more": json_values,
}
maps = st.fixed_dictionaries({}, optional=fields)


def write(format: Format, content: object) -> str | bytes:
    """A message as a client sends it."""
    return json.dumps(content) if format is Format.JSON else bytes(msgspec.msgpack.encode(content))


def read(format: Format, frame: bytes, *, deflated: bool = False) -> Any:
    """The message in a frame, as a client takes it in."""
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    client.extensions = [PerMessageDeflate(True, False, 12, 12)] if deflated else []
    client.receive_data(frame)
    [event] = client.events_received()
    assert event.opcode is (Opcode.TEXT if format is Format.JSON else Opcode.BINARY)
    data = bytes(event.data)
    return json.loads(data) if format is Format.JSON else msgspec.msgpack.decode(data)


def understood(format: Format, message: str | bytes) -> Request | Error:
    """What becomes of a message; an error can be written in any format."""
    found = format.parse(message)
    if isinstance(found, Error):
        for each in Format:
            assert read(each, each.frame(found))["code"] == found.code
        assert found.temporary is Code(found.code).temporary
    return found


@given(format=formats, message=st.text(max_size=60) | st.binary(max_size=60))
def test_whatever_comes_is_understood_or_gets_an_error(format: Format, message: str | bytes) -> None:
    understood(format, message)


@given(format=formats, content=maps | json_values)
def test_whatever_map_comes_is_understood_or_gets_an_error_that_says_what_it_answers(
    format: Format, content: Any
) -> None:
    try:
        message = write(format, content)
    except (OverflowError, ValueError):
        return
    found = understood(format, message)
    if isinstance(found, Error):
        for name, told in (("op", found.re), ("id", found.id), ("node", found.node), ("job", found.job)):
            assert told is None or told == content[name]
        if isinstance(content.get("id") if isinstance(content, dict) else None, str) and len(content["id"]) <= 64:
            assert found.id == content["id"]
    else:
        given = msgspec.to_builtins(found)
        assert given == {name: value for name, value in content.items() if value is not None}


@given(format=formats, node=names, job=st.none() | names, id=st.none() | names | st.integers(-9, 9))
def test_a_request_in_either_format_is_the_same(
    format: Format, node: str, job: str | None, id: str | int | None
) -> None:
    requests = (
        Subscribe(node=node, job=job, id=id, after=5),
        Subscribe(job=job or node, id=id, after={node: 5, "n": "ab12.1.7"}),
        Subscribe(node="*", id=id),
        Unsubscribe(node=node, job=job, id=id),
        Unsubscribe(job=job or node, id=id),
        Ping(id=id),
    )
    for request in requests:
        found = understood(format, write(format, msgspec.to_builtins(request)))
        assert found == request or (isinstance(found, Error) and found.code == "invalid_name")


@pytest.mark.parametrize(
    ("said", "subject"),
    [
        ({"node": "n"}, Topic("n")),
        ({"node": "n", "job": "j"}, Topic("n", "j")),
        ({"job": "j"}, JobAnywhere("j")),
        ({"node": "*"}, Fleet()),
    ],
)
def test_node_and_job_say_what_a_request_is_about(said: dict[str, str], subject: Subject) -> None:
    for kind in (Subscribe, Unsubscribe):
        assert kind(**said).subject == subject
    assert {name: value for name, value in named(subject).items() if value is not None} == said


def test_cursors_of_too_many_nodes_are_refused() -> None:
    for many, refused in ((MAX_NODES, False), (MAX_NODES + 1, True)):
        said = {"op": "subscribe", "job": "j", "after": {str(n): n for n in range(many)}}
        assert isinstance(Format.JSON.parse(json.dumps(said)), Error) is refused


@pytest.mark.parametrize("deflated", [False, True])
def test_summaries_are_one_message_of_v1_and_many_of_the_plain_endpoint(deflated: bool) -> None:
    nodes = [NodeSummary(node=str(n), last_seen=n, status="s" * 200, index=n) for n in range(3)]
    told = [{"node": str(n), "last_seen": n, "status": "s" * 200, "index": n} for n in range(3)]
    for format in Format:
        frame = nodes_frame(nodes, format, deflated)
        assert read(format, frame, deflated=deflated) == {"op": "nodes", "node": "*", "nodes": told}
    plain = nodes_frame(nodes[:1], None, deflated)
    assert read(Format.JSON, plain, deflated=deflated) == told[0]
    assert nodes_frame(nodes, None, deflated) == b"".join(nodes_frame([node], None, deflated) for node in nodes)


@pytest.mark.parametrize(
    ("history", "records"), [(None, None), ("all", None), ("none", 0), (0, 0), (7, 7), (2**53 - 1, 2**53 - 1)]
)
def test_history_is_so_many_records(history: str | int | None, records: int | None) -> None:
    assert Subscribe(node="n", history=history).records == records


@pytest.mark.parametrize("history", ["", "some", "7", -1, 2**53])
def test_what_is_no_history_is_refused(history: str | int) -> None:
    found = Format.JSON.parse(json.dumps({"op": "subscribe", "node": "n", "history": history}))
    assert isinstance(found, Error)
    assert (found.code, found.re, found.node) == ("invalid_message", "subscribe", "n")


def test_what_is_none_is_left_out() -> None:
    assert read(Format.JSON, Format.JSON.frame(Pong())) == {"op": "pong"}


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("count", [1, 15, 16, 300, 70_000])
def test_an_updates_message_counts_what_is_in_it(format: Format, deflated: bool, count: int) -> None:
    encoding = Updates(Topic("n"), format, deflated)
    frame = plain_frame("ab12", Update(epoch=1, index=0, previous=-1, timestamp=0, status="s", state={}))
    message = read(format, encoding.join(encoding.piece(frame) * count, count, Cursor("ab12", 1, 0)), deflated=deflated)
    assert len(message["updates"]) == count


@given(
    some=st.lists(updates, min_size=1, max_size=4),
    format=formats,
    deflated=st.booleans(),
    topic=st.builds(Topic, names, st.none() | names),
)
def test_an_updates_message_holds_what_the_plain_endpoint_sends(
    some: list[Any], format: Format, deflated: bool, topic: Topic
) -> None:
    frames = [plain_frame("ab12", update) for update in some]
    encoding = Updates(topic, format, deflated)
    cursor = some[-1].cursor("ab12")
    message = read(format, encoding.join(b"".join(map(encoding.piece, frames)), len(frames), cursor), deflated=deflated)
    assert message.pop("updates") == [json.loads(payload) for payload in receive(b"".join(frames))]
    job = {} if topic.job is None else {"job": topic.job}
    assert message == {"op": "updates", "node": topic.node, **job, "cursor": cursor.token}


def test_encodings_of_the_same_topic_and_form_are_one() -> None:
    assert Updates(Topic("n"), Format.JSON) == Updates(Topic("n"), Format.JSON)
    forms = product((None, "j"), Format, (False, True))
    assert len({Updates(Topic("n", job), format, deflated) for job, format, deflated in forms}) == 8
