"""A v1 conversation, whatever its client says: each message has one answer, in order, and is understood or refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.protocol import State

from streamer.core.names import JobAnywhere, Subject, Topic
from streamer.core.protocol import Format
from streamer.gateway import conversation as conversation_module
from streamer.gateway.conversation import Conversation, Limits
from tests.core.test_messages import json_values
from tests.fanout.fakes import FakeConnection
from tests.fanout.house import SETTINGS, House, built
from tests.gateway.test_v1_delivery import messages
from tests.gateway.v1 import check

TOPICS = 2
subjects = st.sampled_from(
    [{"node": "n"}, {"node": "n", "job": "a"}, {"node": "n", "job": "b"}, {"job": "a"}, {"job": "c"}]
)


@dataclass
class Client:
    """Takes whatever comes."""

    heard: list[dict[str, Any]] = field(default_factory=list)
    ends: list[tuple[int, str]] = field(default_factory=list)

    def receive(self, data: bytes) -> None:
        self.heard += map(check, messages(data, Format.JSON, compressed=False))

    def closed(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))

    @property
    def answers(self) -> list[dict[str, Any]]:
        """What answers requests."""
        return [
            message
            for message in self.heard
            if message["op"] in ("subscribed", "unsubscribed", "pong")
            or (message["op"] == "error" and not ("node" in message and "re" not in message))
        ]


def conversing(house: House, messages_s: float = 1e6) -> tuple[Conversation, FakeConnection, Client]:
    async def begin() -> Conversation:
        return Conversation(cast(Any, connection), house.hub, Format.JSON, Limits(TOPICS, messages_s, stall_s=30))

    client = Client()
    connection = FakeConnection(house.loop, client)
    conversation = house.loop.run_until_complete(begin())
    connection.connection_lost_waiter.add_done_callback(lambda _: conversation.end())
    return conversation, connection, client


said = st.one_of(
    st.builds(
        lambda op, about, id: {"op": op, "id": id, **about},
        st.sampled_from(["subscribe", "unsubscribe"]),
        subjects,
        st.integers(0, 99),
    ),
    st.builds(lambda id: {"op": "ping", "id": id}, st.integers(0, 99)),
    json_values,
)


@settings(max_examples=150, deadline=None)
@given(said=st.lists(st.tuples(said, st.sampled_from([0, 0, 1, 3, 40])), max_size=25))
def test_each_message_has_its_answer_in_order(said: list[tuple[Any, int]]) -> None:
    with built() as house:
        house.append("a", 3)
        house.redis.index = ["n"]
        conversation, _, client = conversing(house)
        watched: set[Subject] = set()
        expected = []
        for message, turns in said:
            house.loop.call_soon(conversation.receive, msgspec.json.encode(message).decode())
            house.loop.turn(max(1, turns))
            expected.append(_expected(message, watched))
        house.settle(60)
        house.loop.turn(40)
        answers = [(answer["op"], answer.get("id"), answer.get("code")) for answer in client.answers]
        for answer, (op, id, codes) in zip(answers, expected, strict=True):
            assert answer[0] == op
            assert answer[2] in codes
            assert id is None or answer[1] == id
        assert set(conversation._followed) == watched
        conversation.end()
        assert house.hub.statistics().live == house.hub.statistics().behind == 0
        assert not client.ends


def _expected(message: Any, watched: set[Subject]) -> tuple[str, int | None, set[str | None]]:
    """The answer's op, id and possible codes, of a client that follows so much."""
    if not isinstance(message, dict) or message.get("op") not in ("subscribe", "unsubscribe", "ping"):
        return "error", None, {"invalid_message", "unknown_op"}
    op, id, job = message["op"], message.get("id"), message.get("job")
    if op == "ping":
        return "pong", id, {None}
    subject = Topic("n", job) if "node" in message else JobAnywhere(job)
    if op == "unsubscribe":
        if subject not in watched:
            return "error", id, {"not_subscribed"}
        watched.remove(subject)
        return "unsubscribed", id, {None}
    crossing = {Topic("n", job), JobAnywhere(job)} if job is not None else {subject}
    if crossing & watched:
        return "error", id, {"already_subscribed"}
    if len(watched) == TOPICS:
        return "error", id, {"too_many_topics"}
    watched.add(subject)
    return "subscribed", id, {None}


def following(house: House) -> tuple[Conversation, Client]:
    """A client that follows job a on all nodes, and has been told that it does."""
    house.redis.index = ["n"]
    conversation, _, client = conversing(house)
    house.loop.call_soon(conversation.receive, '{"op":"subscribe","job":"a"}')
    house.loop.turn(10)
    while not client.heard:
        house.settle(1)
    return conversation, client


def test_a_node_that_cannot_be_read_on_ends_its_job_which_can_be_subscribed_to_again() -> None:
    with built() as house:
        house.use(replace(SETTINGS, memory_bytes=1))
        house.append("a", 50)
        conversation, client = following(house)
        while client.heard[-1]["op"] != "joined":
            house.settle(1)
        house.redis.fail_all()
        house.loop.turn(10)
        ended = client.heard[-1]
        assert (ended["op"], ended["code"], ended["job"]) == ("error", "unavailable", "a")
        assert not {"node", "re"} & set(ended)
        house.loop.call_soon(conversation.receive, '{"op":"subscribe","job":"a","id":2}')
        house.loop.turn(10)
        house.settle(10)
        assert [message["op"] for message in client.heard[3:]] == ["subscribed", "joined", "updates", "live"]
        conversation.end()
        assert not house.hub.lookouts._kept[JobAnywhere("a")].followed


def test_a_node_that_cannot_be_joined_is_tried_again_and_only_then_it_is_live() -> None:
    with built() as house:
        house.append("a", 3)
        conversation, client = following(house)
        for _ in range(3):
            house.loop.turn(10)
            house.pass_time(6)
        assert [message["op"] for message in client.heard] == ["subscribed"]
        house.pass_time(10)
        house.settle(10)
        house.pass_time(10)
        house.settle(10)
        assert [message["op"] for message in client.heard] == ["subscribed", "joined", "updates", "live"]
        conversation.end()


def test_several_topics_are_looked_up_at_the_same_time() -> None:
    with built() as house:
        conversation, _, client = conversing(house)
        house.loop.call_soon(conversation.receive, '{"op":"subscribe","node":"n","job":"a","id":1}')
        house.loop.call_soon(conversation.receive, '{"op":"subscribe","node":"n","job":"b","id":2}')
        house.loop.turn(10)
        assert len(house.redis.subscriptions) == 2
        assert not client.heard
        house.settle()
        assert [answer["id"] for answer in client.answers] == [1, 2]
        conversation.end()


def test_what_is_beyond_the_bound_or_there_already_is_not_even_looked_up() -> None:
    with built() as house:
        conversation, _, client = conversing(house)
        for job in ("a", "b", "c", "d"):
            house.loop.call_soon(conversation.receive, f'{{"op":"subscribe","node":"n","job":"{job}"}}')
        house.loop.turn(10)
        house.settle()
        assert len(house.redis.subscriptions) == TOPICS
        assert [answer.get("code") for answer in client.answers] == [None, None, *["too_many_topics"] * 2]
        conversation.end()


def test_a_topic_that_cannot_be_read_on_ends_and_can_be_subscribed_to_again() -> None:
    with built() as house:
        house.use(replace(SETTINGS, memory_bytes=1))
        house.append(None, 50)
        conversation, _, client = conversing(house)
        house.loop.call_soon(conversation.receive, '{"op":"subscribe","node":"n","id":1}')
        house.loop.turn(10)
        while not client.heard:
            house.settle(1)
        house.redis.fail_all()
        house.loop.turn(10)
        ended = client.heard[-1]
        assert (ended["op"], ended["code"], ended["node"], "re" in ended) == ("error", "unavailable", "n", False)
        house.loop.call_soon(conversation.receive, '{"op":"subscribe","node":"n","id":2}')
        house.loop.turn(10)
        house.settle()
        assert [answer["id"] for answer in client.answers] == [1, 2]
        assert [message["op"] for message in client.heard[2:]] == ["subscribed", "updates", "live"]
        conversation.end()


def test_a_fault_of_the_gateway_closes_this_connection_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    with built() as house:
        conversation, _, client = conversing(house)
        other, _, beside = conversing(house)
        monkeypatch.setattr(conversation_module, "Pong", fail)
        house.loop.call_soon(conversation.receive, '{"op":"ping"}')
        house.loop.call_soon(other.receive, '{"op":"subscribe","node":"n"}')
        house.loop.turn(40)
        house.settle()
        assert [code for code, _ in client.ends] == [1011]
        assert [message["op"] for message in beside.heard] == ["subscribed", "live"]
        assert "a v1 connection failed" in caplog.text
        other.end()


def test_nothing_is_said_behind_the_end() -> None:
    with built() as house:
        conversation, _, client = conversing(house)
        house.loop.call_soon(conversation.receive, '{"op":"subscribe","node":"n"}')
        house.loop.turn(5)
        house.loop.call_soon(conversation.close, 1012, "bye")
        house.loop.call_soon(conversation.receive, '{"op":"ping"}')
        house.settle()
        assert client.heard == []
        assert client.ends == [(1012, "bye")]


def test_no_update_is_written_behind_a_close_and_others_get_it() -> None:
    with built() as house:
        leaving, connection, client = conversing(house)
        staying, _, beside = conversing(house)
        for conversation in (leaving, staying):
            house.loop.call_soon(conversation.receive, '{"op":"subscribe","node":"n"}')
        house.loop.turn(10)
        house.settle()
        connection.protocol.state = State.CLOSING
        house.append(None, 1)
        house.settle()
        assert [message["op"] for message in client.heard] == ["subscribed", "live"]
        assert [message["op"] for message in beside.heard] == ["subscribed", "live", "updates"]
        for conversation in (leaving, staying):
            conversation.end()
