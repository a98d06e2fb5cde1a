"""The client's side of v1 against the gateway's own: the same as `tests/gateway/test_v1_delivery.py`, with `Dialogue`s.

Whatever is lost, doubled, late, cut off or left and taken up again: each subscription hears each update once, in order.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from websockets.extensions.permessage_deflate import PerMessageDeflate

from streamer.client.dialogue import Dialogue, Heard, Joined, Outcome, Postponed, State, Subscription
from streamer.client.errors import AlreadyFollowed
from streamer.client.messages import Event, Update, read, write
from streamer.core.names import Topic
from streamer.core.protocol import Format
from tests.fanout.fakes import FakeConnection, Gateway
from tests.fanout.model_log import ModelLog
from tests.fanout.test_delivery import NODE, PHASES, WATCHED, Client, tell
from tests.gateway.test_v1_delivery import MultiClient, V1Delivery, messages


def _message(event: Event) -> dict[str, Any]:
    message: dict[str, Any] = msgspec.to_builtins(event)
    return {"op": "updates", "updates": [message], "cursor": event.cursor} if isinstance(event, Update) else message


class DialogueClient(MultiClient):
    """A client of v1 whose words are a Dialogue's."""

    def __init__(self, number: int, log: ModelLog, history: int | None) -> None:
        super().__init__(number, log, history)
        self.dialogue = Dialogue()
        everything = "all" if history is None else history
        self.subscriptions = {job: Subscription(Topic(NODE, job), None, everything) for job in WATCHED}
        for subscription in self.subscriptions.values():
            self.dialogue.want(subscription)

    async def join(self, gateway: Gateway) -> None:
        connection = self.connection = FakeConnection(gateway.loop, self)
        if self.compressed:
            connection.protocol.extensions.append(PerMessageDeflate(True, True, 15, 15))
        self.dialogue.disconnect()
        for view in self.views.values():
            view.subscribed = False
        await gateway.handshake()
        if connection.aborted or not self.connected:
            return
        self.converse(gateway.hub, connection)
        self.dialogue.connect()
        self._speak()

    def say(self, message: dict[str, Any]) -> None:
        """Leave a topic, or take it up again behind what was heard of it."""
        old = self.subscriptions[message.get("job")]
        if message["op"] == "unsubscribe":
            self.dialogue.leave(old)
            self.views[old.topic.job].subscribed = False
        else:
            new = Subscription(old.topic, old.cursor, old.history)
            if self.dialogue._is_wanted(old):
                with pytest.raises(AlreadyFollowed):
                    self.dialogue.want(new)
                return
            self.subscriptions[old.topic.job] = new
            self.dialogue.want(new)
        self._speak()

    def _speak(self) -> None:
        assert self.conversation is not None
        for request in self.dialogue.unsaid():
            tell(f"#{self.number} says {request}")
            self.conversation.receive(write(self.format, request))

    def _receive(self, data: bytes) -> None:
        for message in messages(data, self.format, self.compressed):
            tell(f"#{self.number} hears {message}")
            encoded = msgspec.json.encode(message) if self.format is Format.JSON else msgspec.msgpack.encode(message)
            told = read(self.format, encoded.decode() if self.format is Format.JSON else encoded)
            assert told is not None
            outcome = self.dialogue.receive(told)
            if outcome is not None:
                self._meet(outcome)

    def _meet(self, outcome: Outcome) -> None:
        assert isinstance(outcome, Joined | Heard | Postponed), outcome
        subscription = outcome.subscription
        view = self.views[subscription.topic.job]
        assert subscription is self.subscriptions[subscription.topic.job], "it was left"
        match outcome:
            case Joined(cursor=cursor):
                view.hear({"op": "subscribed", "cursor": cursor})
            case Heard(events=events):
                for event in events:
                    view.hear(_message(event))
                assert subscription.cursor == view.after
            case Postponed():
                view.subscribed = False
                asyncio.get_running_loop().call_soon(self._ask, self.connection, subscription)

    def _ask(self, connection: FakeConnection, subscription: Subscription) -> None:
        if self.connection is connection and self.connected:
            self.dialogue.ask(subscription)
            self._speak()


class DialogueDelivery(V1Delivery):
    """One log, two gateways, and any number of clients, each of all topics."""

    def _client(self, job: str | None, history: int | None) -> Client:
        return DialogueClient(len(self.clients), self.log, history)


TestDialogueDelivery = DialogueDelivery.TestCase
TestDialogueDelivery.settings = settings(max_examples=150, stateful_step_count=50, deadline=None, phases=PHASES)


def test_nothing_of_a_subscription_that_was_left_is_taken_for_one_of_the_same_topic() -> None:
    dialogue, topic = Dialogue(), Topic("n")
    dialogue.connect()
    old, new = Subscription(topic), Subscription(topic)
    dialogue.want(old)
    dialogue.leave(old)
    dialogue.want(new)
    first, leaving, second = [msgspec.to_builtins(request) for request in dialogue.unsaid()]
    assert [request["op"] for request in (first, leaving, second)] == ["subscribe", "unsubscribe", "subscribe"]

    def hear(op: str, **fields: Any) -> Outcome | None:
        told = read(Format.MSGPACK, msgspec.msgpack.encode({"op": op, "node": "n", **fields}))
        assert told is not None
        return dialogue.receive(told)

    facts = {"epoch": 1, "head": 3, "truncated": False}
    update = {"status": "s", "state": {}, "timestamp": 1, "index": 3, "previous": -1, "cursor": "ab.1.3"}
    assert hear("subscribed", id=first["id"], cursor="ab.1.2", **facts) is None
    assert hear("updates", updates=[update], cursor="ab.1.3") is None
    assert hear("unsubscribed") is None
    assert hear("subscribed", id=second["id"], cursor="ab.1.2", **facts) == Joined(new, "ab.1.2")
    heard = hear("updates", updates=[update], cursor="ab.1.3")
    assert isinstance(heard, Heard)
    assert (heard.subscription, new.cursor, new.state) == (new, "ab.1.3", State.FOLLOWED)
