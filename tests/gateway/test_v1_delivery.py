"""Delivery by v1: the same as `tests/fanout/test_delivery.py`, with several topics on each connection.

What a client of the plain endpoint is told by a close, one of v1 is told in messages, and goes on; hypothesis has it
leave topics and come back to them, too.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import deque
from typing import Any, cast

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from websockets.extensions.permessage_deflate import PerMessageDeflate

from streamer.core.cursor import Cursor
from streamer.core.messages import TOO_SLOW
from streamer.core.protocol import Format
from streamer.fanout.hub import Hub
from streamer.gateway import subscription as subscription_module
from streamer.gateway.conversation import Conversation, Limits
from tests.fanout.fakes import FakeConnection, Gateway
from tests.fanout.model_log import ModelLog
from tests.fanout.test_delivery import (
    NODE,
    PHASES,
    SETTINGS,
    WATCHED,
    Client,
    Delivery,
    Received,
    pick,
    places,
    tell,
    turns,
)

ANSWERED = {"subscribed": "subscribe", "unsubscribed": "unsubscribe"}
LIMITS = Limits(topics=3, messages_s=1e6, stall_s=SETTINGS.stall_s)


def messages(data: bytes, format: Format, compressed: bool) -> list[dict[str, Any]]:
    """What stands in frames one behind another."""
    found = []
    while data:
        size, head = data[1], 2
        if size == 126:
            size, head = int.from_bytes(data[2:4], "big"), 4
        first, payload, data = data[0], data[head : head + size], data[head + size :]
        assert first & 0xBF == (0x81 if format is Format.JSON else 0x82)
        if first & 0x40:
            assert compressed
            payload = zlib.decompress(payload + b"\x00\x00\xff\xff\x01\x00\x00\xff\xff", wbits=-15)
        found.append(json.loads(payload) if format is Format.JSON else msgspec.msgpack.decode(payload))
    return found


class View(Client):
    """One topic, as a client of v1 sees it: `PROTOCOL.md`, "to know what there is"."""

    def __init__(self, log: ModelLog, job: str | None, history: int | None) -> None:
        super().__init__(log, job, history, compressed=False)
        self.subscribed = False
        self.told_live = False

    def asks(self) -> dict[str, Any]:
        """The request that brings it back."""
        job = {} if self.job is None else {"job": self.job}
        if self.after is not None:
            return {"op": "subscribe", "node": NODE, **job, "after": self.after}
        return {"op": "subscribe", "node": NODE, **job, "history": "all" if self.history is None else self.history}

    def hear(self, message: dict[str, Any]) -> None:
        """Take in a message about it."""
        op = message["op"]
        assert self.subscribed is (op not in ("subscribed",)) or message.get("re"), f"{op} out of its place"
        getattr(self, f"_{op}")(message)
        if op != "subscribed" or self.after is None:
            self.after = message.get("cursor", self.after)

    def _subscribed(self, message: dict[str, Any]) -> None:
        self.subscribed, self.told_live = True, False
        if self.base is None:
            self.base = Cursor.parse(message["cursor"]).index

    def ask_from(self, after: str | None) -> None:
        """Forget what stands behind where it asked to go on, maybe before more came: that comes again."""
        cursor = None if after is None else Cursor.parse(after)
        if cursor is None or cursor.log_id != self.log_id:
            self._forget()
            return
        behind = [record for record in self.got if record.index > cursor.index]
        self.got = self.got[: len(self.got) - len(behind)]
        self._seen -= {(record.epoch, record.index) for record in behind}

    def _unsubscribed(self, message: dict[str, Any]) -> None:
        self.subscribed = False

    def _live(self, message: dict[str, Any]) -> None:
        assert not self.told_live
        self.told_live = True

    def _updates(self, message: dict[str, Any]) -> None:
        assert message["updates"]
        for update in message["updates"]:
            log_id, epoch, _ = update["cursor"].split(".")
            assert not self.got or self.got[-1].index < update["index"], "it goes back, and no rewind before it"
            self._take(Received(log_id, int(epoch), update["index"], update["previous"], update["state"]["n"]))
        assert message["cursor"] == message["updates"][-1]["cursor"]

    def _rewind(self, message: dict[str, Any]) -> None:
        assert self.log.failovers
        index = message["index"]
        assert Cursor.parse(message["cursor"]).index == index
        assert self.base is not None
        self.got = [record for record in self.got if record.index <= index]
        self.base = min(self.base, index)

    def _gap(self, message: dict[str, Any]) -> None:
        first, last = message["from"], message["to"]
        kept = [record for record in self.log.retained(self.job) if first <= record.index <= last]
        of_this_log = Cursor.parse(message["cursor"]).log_id == self.log.log_id
        assert not kept or not of_this_log or self.log.failovers, "it is kept"
        self.base, self.got = last, []

    def _reset(self, message: dict[str, Any]) -> None:
        assert self.log.log_id != self.log_id or not self.log_id, "the log is the same"
        self._forget()
        self.base = -1

    def _error(self, message: dict[str, Any]) -> None:
        assert message["code"] == "unavailable"
        assert message["temporary"]
        assert ("re" in message) is not self.subscribed
        self.subscribed = False


class MultiClient(Client):
    """A client of v1 that follows all topics on one connection."""

    def __init__(self, number: int, log: ModelLog, history: int | None) -> None:
        super().__init__(log, None, history, compressed=number % 3 == 2)
        self.number = number
        self.format = list(Format)[number % 2]
        self.views = {job: View(log, job, history) for job in WATCHED}
        self.conversation: Conversation | None = None
        self.asked: deque[dict[str, Any]] = deque()
        self.unwanted: set[str | None] = set()

    def __str__(self) -> str:
        return f"{self.connected=} {[(str(job), view.subscribed, view.after) for job, view in self.views.items()]}"

    @property
    def live(self) -> bool:
        followed = self.conversation._followed if self.conversation else {}
        feeds = {subscription.topic.job: (subscription, subscription._feed) for subscription in followed.values()}
        return len(feeds) == len(WATCHED) and all(
            feed is not None and feed.watchers.is_live(subscription) for subscription, feed in feeds.values()
        )

    async def join(self, gateway: Gateway) -> None:
        connection = self.connection = FakeConnection(gateway.loop, self)
        if self.compressed:
            connection.protocol.extensions.append(PerMessageDeflate(True, True, 15, 15))
        self.asked.clear()
        await gateway.handshake()
        if connection.aborted or not self.connected:
            return
        self.converse(gateway.hub, connection)
        for view in self.views.values():
            view.subscribed = False
            self.say(view.asks())

    def converse(self, hub: Hub, connection: FakeConnection) -> None:
        conversation = self.conversation = Conversation(cast(Any, connection), hub, self.format, LIMITS)
        connection.connection_lost_waiter.add_done_callback(lambda _: conversation.end())

    def say(self, message: dict[str, Any]) -> None:
        """Ask for something."""
        assert self.conversation is not None
        self.asked.append(message)
        encode: Any = msgspec.json.encode if self.format is Format.JSON else msgspec.msgpack.encode
        data = encode(message)
        self.conversation.receive(data.decode() if self.format is Format.JSON else data)

    def _receive(self, data: bytes) -> None:
        for message in messages(data, self.format, self.compressed):
            tell(f"#{self.number} hears {message}")
            op, job = message["op"], message.get("job")
            if op in ("subscribed", "unsubscribed") or "re" in message:
                asked = self.asked.popleft()
                assert (asked["op"], asked.get("job")) == (message.get("re", ANSWERED.get(op)), job), "out of order"
                if op == "subscribed":
                    self.views[job].ask_from(asked.get("after"))
            if message.get("code") in ("already_subscribed", "not_subscribed"):
                continue
            self.views[job].hear(message)
            if op == "error" and self.connected:
                asyncio.get_running_loop().call_soon(self._ask_again, self.connection, self.views[job])

    def _ask_again(self, connection: FakeConnection, view: View) -> None:
        if self.connection is connection and self.connected:
            self.say(view.asks())

    def _closed(self, code: int, reason: str) -> None:
        assert code == TOO_SLOW

    def has_everything(self) -> None:
        if self.faults:
            raise self.faults[0]
        for view in self.views.values():
            view.has_everything()


class V1Delivery(Delivery):
    """One log, two gateways, and any number of clients, each of all topics."""

    def _use_sizes(self, block_bytes: int, opened_records: int, older_bytes: int) -> None:  # type: ignore[override]
        Delivery._use_sizes(block_bytes, opened_records, older_bytes)
        # A connection that is paused takes nothing.
        subscription_module.PUSH_BYTES = 0 if block_bytes < 1000 else 64 * 1024

    def _client(self, job: str | None, history: int | None) -> Client:
        return MultiClient(len(self.clients), self.log, history)

    def _conversing(self) -> list[MultiClient]:
        return [
            client
            for client in self.clients
            if isinstance(client, MultiClient) and client.connected and client.conversation and client.joining.done()
        ]

    @precondition(lambda self: self._conversing())
    @rule(place=places, job=st.sampled_from(WATCHED), turns=turns)
    def leave_a_topic(self, place: int, job: str | None, turns: int) -> None:
        def leave() -> None:
            client.say({"op": "unsubscribe", "node": NODE} | ({} if job is None else {"job": job}))

        client = pick(self._conversing(), place)
        self.loop.call_soon(leave)
        self.loop.turn(max(1, turns))

    @precondition(lambda self: self._conversing())
    @rule(place=places, job=st.sampled_from(WATCHED), turns=turns)
    def come_back_to_a_topic(self, place: int, job: str | None, turns: int) -> None:
        client = pick(self._conversing(), place)
        self.loop.call_soon(lambda: client.say(client.views[job].asks()))
        self.loop.turn(max(1, turns))

    def _go_on(self) -> None:
        super()._go_on()
        for client in self._conversing():
            if not client.live and not client.asked:
                for view in client.views.values():
                    if not view.subscribed:
                        self.loop.call_soon(client.say, view.asks())


TestV1Delivery = V1Delivery.TestCase
TestV1Delivery.settings = settings(max_examples=150, stateful_step_count=50, deadline=None, phases=PHASES)


def test_a_client_behind_is_told_of_a_rewind_before_it_gets_again_what_follows() -> None:
    machine = V1Delivery()
    machine.open(keep=1000, memory_bytes=10_000, history=[[None] * 12], clients=1)
    machine.settle(0)
    machine.settle(0)
    machine.stall_while_updates_come(0, [None] * 3, 40)
    machine.deliver(0, 1, 40)
    machine.fail_over(6, 40)
    machine.append([None] * 2, 40)
    machine.settle(0)
    machine.drain(0, 40)
    machine.teardown()
    [client] = machine.clients
    assert isinstance(client, MultiClient)
    assert [record.epoch for record in client.views[None].got] == [1] * 9 + [2] * 2


def test_a_client_that_comes_back_after_a_failover_is_told_where_it_goes_back_to() -> None:
    machine = V1Delivery()
    machine.open(keep=1000, memory_bytes=10_000, history=[[None] * 12], clients=1)
    machine.settle(0)
    machine.settle(0)
    machine.break_a_connection_or_come_back(0, 0, 40)
    machine.fail_over(6, 40)
    machine.append([None] * 2, 40)
    machine.settle(0)
    machine.break_a_connection_or_come_back(0, 0, 40)
    machine.teardown()
    [client] = machine.clients
    assert isinstance(client, MultiClient)
    assert [record.epoch for record in client.views[None].got] == [1] * 6 + [2] * 2
