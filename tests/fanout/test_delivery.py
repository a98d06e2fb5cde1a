"""Delivery: whatever is lost, doubled or late, each watcher gets each record once, in order.

Two gateways' hubs with their feeds and sessions, on a log in memory, a pub/sub that loses and doubles, connections that
stall and break, and a clock that stands still unless it is told to go on. Hypothesis chooses what happens next, down to
how many turns the event loop makes in between.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

from hypothesis import Phase, currently_in_test_context, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode
from websockets.protocol import State

from streamer.core import window as window_module
from streamer.core.cursor import Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.messages import GAP, RESET, TOO_SLOW
from streamer.core.names import Topic
from streamer.fanout import feed as feed_module
from streamer.fanout import older as older_module
from streamer.fanout.hub import HubSettings
from streamer.fanout.session import Session
from streamer.log.keys import Keys
from streamer.log.scripts import PAGE_RECORDS
from tests.fanout.fakes import FakeConnection, FakeRedis, Gateway, Question, StillLoop, Subscription
from tests.fanout.model_log import ModelLog

T = TypeVar("T")

NODE = "n"
JOBS = (None, "a", "b", "c")
WATCHED: tuple[str | None, ...] = (None, "a", "b")
BLOCK_BYTES = 300
OPENED_RECORDS = 7
OLDER_BYTES = 1_000
GATEWAYS = 2
SETTINGS = HubSettings(keep_s=3, check_s=5, open_timeout_s=10, stall_s=30)


class Received(NamedTuple):
    """A record as a client got it."""

    log_id: str
    epoch: int
    index: int
    previous: int
    n: int


class Client:
    """A client of the plain endpoint. It resumes as README says, and checks what it gets.

    ``got`` is the topic's history as the client knows it: what comes again under a newer epoch replaces what was lost.
    """

    def __init__(self, log: ModelLog, job: str | None, history: int | None, compressed: bool) -> None:
        self.log, self.job, self.history, self.compressed = log, job, history, compressed
        self.after: str | None = None
        self.connection: FakeConnection | None = None
        self.session: Session | None = None
        self.joining: asyncio.Task[None] | None = None
        self.gave_up = False
        self.faults: list[AssertionError] = []
        self._forget()

    def _forget(self) -> None:
        self.after = None
        self.log_id = ""
        self.base: int | None = None
        self.promised = self.log.numbers
        self.got: list[Received] = []
        self._seen: set[tuple[int, int]] = set()

    def __str__(self) -> str:
        feed = self.session and self.session._feed
        if not self.session or not feed:
            return f"{self.job}: not joined, {self.connected=}, {self.session=}, {self.joining}"
        return f"{self.job}: at {self.session.index}, window from {feed.window.start} to {feed.window.cursor}"

    @property
    def connected(self) -> bool:
        return self.connection is not None and self.connection.protocol.state is State.OPEN

    @property
    def live(self) -> bool:
        feed = self.session and self.session._feed
        return feed is not None and feed.watchers.is_live(self.session)

    async def join(self, gateway: Gateway) -> None:
        """Connect: locate, then, when the handshake is through, join."""
        topic = Topic(NODE, self.job)
        after = None if self.after is None else Cursor.parse(self.after)
        connection = self.connection = FakeConnection(gateway.loop, self)
        if self.compressed:
            connection.protocol.extensions.append(PerMessageDeflate(True, True, 15, 15))
        try:
            position = await gateway.hub.locate(topic, after, None if after else self.history)
            await gateway.handshake()
            self.session = Session(cast(Any, connection), topic, SETTINGS.stall_s)
            await gateway.hub.join(self.session, position)
            if self.base is None:
                self.promised = self.log.numbers
        except LogUnavailable:
            connection.break_off()

    def receive(self, data: bytes) -> None:
        self._keep_faults(lambda: self._receive(data))

    def closed(self, code: int, reason: str) -> None:
        self._keep_faults(lambda: self._closed(code, reason))

    def _keep_faults(self, check: Callable[[], None]) -> None:
        try:
            check()
        except AssertionError as fault:
            tell(f"a fault: {fault}")
            self.faults.append(fault)

    def _receive(self, data: bytes) -> None:
        while data:
            size, head = data[1], 2
            if size == 126:
                size, head = int.from_bytes(data[2:4], "big"), 4
            first, payload, data = data[0], data[head : head + size], data[head + size :]
            if first == 0xC1:
                assert self.compressed
                payload = zlib.decompress(payload + b"\x00\x00\xff\xff\x01\x00\x00\xff\xff", wbits=-15)
            message = json.loads(payload)
            log_id, epoch, _ = message["cursor"].split(".")
            self.after = message["cursor"]
            self._take(Received(log_id, int(epoch), message["index"], message["previous"], message["state"]["n"]))

    def _take(self, record: Received) -> None:
        tell(f"{self.job} gets {record}")
        assert record.log_id == (self.log_id or record.log_id), "a record of another log, and no reset before it"
        assert (record.epoch, record.index) not in self._seen, "twice"
        self._seen.add((record.epoch, record.index))
        self.log_id = record.log_id
        before = record.index - 1 if self.job is None else record.previous
        if self.base is None:
            self.base = before
        while self.got and self.got[-1].index > before:
            assert self.got.pop().epoch < record.epoch, "out of order"
        if not self.got:
            self.base = min(self.base, before)
        assert (self.got[-1].index if self.got else self.base) == max(before, self.base), "a hole"
        self.got.append(record)

    def _closed(self, code: int, reason: str) -> None:
        tell(f"{self.job} is closed: {code} {reason}")
        assert code in (RESET, GAP, TOO_SLOW, CloseCode.TRY_AGAIN_LATER)
        if code == RESET:
            assert self.log.log_id != self.log_id or not self.log_id, "the log is the same"
            self._forget()
        elif code == GAP:
            first, last = map(int, re.findall(r"updates (\d+) to (\d+)", reason)[0])
            kept = [record for record in self.log.retained(self.job) if first <= record.index <= last]
            self.after = reason.partition("after=")[2]
            of_this_log = Cursor.parse(self.after).log_id == self.log.log_id
            assert not kept or not of_this_log or self.log.failovers, "it is kept"
            self.base, self.got = last, []

    def has_everything(self) -> None:
        """Nothing is missing, when all has come to rest, behind where the client joined."""
        if self.faults:
            raise self.faults[0]
        whole = [
            Received(self.log.log_id, record.epoch, record.index, record.previous, record.state["n"])
            for record in self.log.whole(self.job)
        ]
        if self.base is not None:
            # What was lost with a server stays seen until something else takes its place.
            last = whole[-1].index if whole else -1
            kept = [record for record in self.got if record.index <= last]
            assert kept == [record for record in whole if record.index > self.base]
        else:
            assert [record for record in whole if record.n >= self.promised] == []
        if self.history is None and not self.log.failovers:
            assert {record.index for record in self.log.retained(self.job)} <= {record.index for record in self.got}


def tell(sentence: str) -> None:
    if currently_in_test_context():
        note(sentence)


def pick(some: Iterable[T], place: int) -> T:
    things = list(some)
    return things[place % len(things)]


turns = st.sampled_from([0, 1, 2, 3, 40, 40])
places = st.integers(0, 30)
page_sizes = st.sampled_from([1, 2, 4, PAGE_RECORDS])
some_jobs = st.lists(st.sampled_from(JOBS), min_size=1, max_size=8)


class Delivery(RuleBasedStateMachine):
    """One log, two gateways, and any number of clients, of the node and of two of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.normal_sizes = window_module.BLOCK_BYTES, feed_module.OPENED_RECORDS, older_module.OLDER_BYTES
        self._use_sizes(BLOCK_BYTES, OPENED_RECORDS, OLDER_BYTES)
        self.loop = StillLoop()
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self.gateways: list[Gateway] = []
        self.clients: list[Client] = []
        self.delivered: list[tuple[str, bytes]] = []

    @staticmethod
    def _use_sizes(block_bytes: int, opened_records: int, older_bytes: int) -> None:
        window_module.BLOCK_BYTES, feed_module.OPENED_RECORDS = block_bytes, opened_records
        older_module.OLDER_BYTES = older_bytes

    @initialize(
        keep=st.sampled_from([5, 12, 1000]),
        memory_bytes=st.sampled_from([1, 700, 10_000]),
        history=st.lists(some_jobs, max_size=6),
        clients=st.integers(0, 4),
    )
    def open(self, keep: int, memory_bytes: int, history: list[list[str | None]], clients: int) -> None:
        self.log = ModelLog(keep)
        self.gateways = [
            Gateway(self.loop, self.log, replace(SETTINGS, memory_bytes=memory_bytes)) for _ in range(GATEWAYS)
        ]
        for jobs in history:
            self._publish(self.log.append(jobs))
        for number in range(clients):
            self.come(number, number, None, 1)
        for gateway in self.gateways:
            gateway.settle(rounds=6, most=PAGE_RECORDS)

    # The log.

    @rule(jobs=some_jobs, turns=turns)
    def append(self, jobs: list[str | None], turns: int) -> None:
        self._publish(self.log.append(jobs))
        self.loop.turn(turns)

    def _publish(self, messages: dict[str | None, bytes]) -> None:
        for job, message in messages.items():
            for gateway in self.gateways:
                gateway.redis.publish(Keys().records(Topic(NODE, job)), message)

    @rule(lost=st.integers(0, 6), turns=turns)
    def fail_over(self, lost: int, turns: int) -> None:
        self.log.fail_over(lost)
        # The connections to the server that was lost are lost with it, and nothing of it comes twice.
        self.delivered.clear()
        for gateway in self.gateways:
            self.loop.call_soon(gateway.redis.reconnect)
        self.loop.turn(turns)

    @rule(told=st.booleans(), turns=turns)
    def start_anew(self, told: bool, turns: int) -> None:
        if told:
            self._publish(self.log.clear())
        else:
            self.log.flush()
        self.loop.turn(turns)

    @rule(job=st.sampled_from(["a", "b"]))
    def expire(self, job: str) -> None:
        self.log.expire(job)

    # What comes from Redis, and when.

    @rule(place=places)
    def settle(self, place: int) -> None:
        pick(self.gateways, place).settle(rounds=6, most=3)

    def _channels(self, confirmed: bool) -> list[tuple[FakeRedis, str, Subscription]]:
        return [
            (gateway.redis, channel, subscription)
            for gateway in self.gateways
            for channel, subscription in gateway.redis.subscriptions.items()
            if subscription.confirmation.done() is confirmed and (subscription.in_flight or not confirmed)
        ]

    @precondition(lambda self: self._channels(confirmed=False))
    @rule(place=places, turns=turns)
    def confirm_a_subscription(self, place: int, turns: int) -> None:
        _, _, subscription = pick(self._channels(confirmed=False), place)
        subscription.confirmation.set_result(None)
        self.loop.turn(turns)

    @precondition(lambda self: self._channels(confirmed=True))
    @rule(place=places, count=st.integers(1, 4), turns=turns)
    def deliver(self, place: int, count: int, turns: int) -> None:
        redis, channel, subscription = pick(self._channels(confirmed=True), place)
        self.delivered += [(channel, message) for message in subscription.in_flight[:count]]
        self.loop.call_soon(redis.deliver, channel, count)
        self.loop.turn(max(1, turns))

    @precondition(lambda self: self._channels(confirmed=True))
    @rule(place=places)
    def lose_a_message(self, place: int) -> None:
        _, _, subscription = pick(self._channels(confirmed=True), place)
        subscription.in_flight.remove(pick(subscription.in_flight, place))

    @precondition(lambda self: self.delivered)
    @rule(place=places)
    def double_a_message(self, place: int) -> None:
        pick(self.gateways, place).redis.publish(*pick(self.delivered, place))

    @rule(place=places, turns=turns)
    def reconnect_to_pubsub(self, place: int, turns: int) -> None:
        self.loop.call_soon(pick(self.gateways, place).redis.reconnect)
        self.loop.turn(turns)

    def _questions(self, answered: bool) -> list[tuple[FakeRedis, Question]]:
        return [
            (gateway.redis, question)
            for gateway in self.gateways
            for question in gateway.redis.questions
            if (question.answer is not None) is answered
        ]

    @precondition(lambda self: self._questions(answered=False))
    @rule(place=places, most=page_sizes)
    def look_into_the_log(self, place: int, most: int) -> None:
        redis, question = pick(self._questions(answered=False), place)
        redis.look(question, most)

    @precondition(lambda self: any(gateway.redis.questions for gateway in self.gateways))
    @rule(place=places, turns=turns)
    def fail_a_read(self, place: int, turns: int) -> None:
        redis, question = pick(self._questions(answered=False) + self._questions(answered=True), place)
        redis.fail(question)
        self.loop.turn(turns)

    @precondition(lambda self: self._questions(answered=True))
    @rule(place=places, turns=turns)
    def answer(self, place: int, turns: int) -> None:
        redis, question = pick(self._questions(answered=True), place)
        redis.arrive(question)
        self.loop.turn(turns)

    # The clients.

    @rule(place=places, watched=places, history=st.sampled_from([None, None, 0, 2]), turns=turns)
    def come(self, place: int, watched: int, history: int | None, turns: int) -> None:
        client = self._client(pick(WATCHED, watched), history)
        self.clients.append(client)
        self._join(client, place)
        self.loop.turn(turns)

    def _client(self, job: str | None, history: int | None) -> Client:
        return Client(self.log, job, history, compressed=len(self.clients) % 3 == 2)

    def _join(self, client: Client, place: int) -> None:
        client.gave_up = False
        client.joining = self.loop.create_task(client.join(pick(self.gateways, place)))

    def _handshakes(self) -> list[tuple[Gateway, asyncio.Future[None]]]:
        return [(gateway, handshake) for gateway in self.gateways for handshake in gateway.handshakes]

    @precondition(lambda self: self._handshakes())
    @rule(place=places, turns=turns)
    def finish_a_handshake(self, place: int, turns: int) -> None:
        gateway, handshake = pick(self._handshakes(), place)
        gateway.finish(handshake)
        self.loop.turn(turns)

    @precondition(lambda self: self.clients)
    @rule(place=places, where=places, turns=turns)
    def break_a_connection_or_come_back(self, place: int, where: int, turns: int) -> None:
        client = pick(self.clients, place)
        if client.connected:
            assert client.connection is not None
            client.connection.break_off()
        else:
            self._come_back(client, where)
        self.loop.turn(turns)

    def _come_back(self, client: Client, where: int) -> None:
        assert client.joining is not None
        if not client.joining.done():
            client.gave_up = client.joining.cancel()
            return
        if not client.gave_up:
            client.joining.result()
        self._join(client, where)

    def _live(self) -> list[Client]:
        return [client for client in self.clients if client.live]

    @precondition(lambda self: self._live())
    @rule(place=places, jobs=some_jobs, turns=turns)
    def stall_while_updates_come(self, place: int, jobs: list[str | None], turns: int) -> None:
        connection = pick(self._live(), place).connection
        assert connection is not None
        connection.stall()
        self.append(jobs, turns)

    def _stalled(self) -> list[Client]:
        return [client for client in self.clients if client.connection is not None and client.connection.paused]

    @precondition(lambda self: self._stalled())
    @rule(place=places, turns=turns)
    def drain(self, place: int, turns: int) -> None:
        connection = pick(self._stalled(), place).connection
        assert connection is not None
        connection.resume()
        self.loop.turn(turns)

    @rule(seconds=st.sampled_from([1, 4, 11]), turns=turns)
    def let_time_pass(self, seconds: int, turns: int) -> None:
        self.loop.now += seconds
        self.loop.turn(turns)

    # The end.

    def teardown(self) -> None:
        try:
            if self.gateways:
                self._come_to_rest()
                for client in self.clients:
                    client.has_everything()
                self._leave()
        finally:
            self._use_sizes(*self.normal_sizes)
            self.loop.close()

    def _come_to_rest(self) -> None:
        """Go on until all clients have been live for long enough that lost messages have been looked for."""
        quiet = 0
        for _ in range(500):
            self._go_on()
            for client in self.clients:
                if not client.connected:
                    self._come_back(client, 0)
                elif client.connection and client.connection.paused:
                    client.connection.resume()
            quiet = quiet + 1 if all(client.live for client in self.clients) else 0
            if quiet > 4 * SETTINGS.check_s:
                return
        raise AssertionError(f"no rest: {[str(client) for client in self.clients if not client.live]}")

    def _go_on(self) -> None:
        self.loop.now += 1
        for gateway in self.gateways:
            gateway.settle(rounds=1, most=PAGE_RECORDS)

    def _leave(self) -> None:
        """Everybody leaves, and nothing of anybody stays."""
        for client in self.clients:
            assert client.connection is not None
            client.connection.break_off()
        for _ in range(10):
            self._go_on()
        for gateway in self.gateways:
            statistics = gateway.hub.statistics()
            assert (statistics.feeds, statistics.live, statistics.behind) == (0, 0, 0)
            assert not gateway.redis.subscriptions
            self.loop.run_until_complete(gateway.hub.aclose())
        assert not asyncio.all_tasks(self.loop)
        assert not self.faults


TestDelivery = Delivery.TestCase
# Shrinking takes minutes; what hypothesis prints can be run as it stands.
PHASES = [Phase.reuse, Phase.generate]
TestDelivery.settings = settings(max_examples=200, stateful_step_count=50, deadline=None, phases=PHASES)


def delivery(memory_bytes: int) -> Delivery:
    """One live client of the node at the first gateway, and twelve updates that it has got."""
    machine = Delivery()
    machine.open(keep=1000, memory_bytes=memory_bytes, history=[[None] * 12], clients=1)
    machine.settle(0)
    machine.settle(0)
    return machine


def test_a_client_far_behind_gets_from_the_log_only_what_its_feed_is_not_going_to_deliver() -> None:
    machine = delivery(memory_bytes=1)
    machine.stall_while_updates_come(0, [None] * 12, 40)
    machine.deliver(0, 1, 40)
    machine.append([None] * 3, 40)
    machine.drain(0, 40)
    machine.look_into_the_log(0, PAGE_RECORDS)
    machine.answer(0, 40)
    machine.teardown()


def test_a_client_behind_goes_back_to_where_the_log_has_lost_its_tail() -> None:
    machine = delivery(memory_bytes=10_000)
    machine.stall_while_updates_come(0, [None] * 3, 40)
    machine.deliver(0, 1, 40)
    machine.fail_over(6, 40)
    machine.append([None] * 2, 40)
    machine.settle(0)
    machine.drain(0, 40)
    machine.teardown()


def test_whoever_joins_after_a_failover_gets_all_that_the_log_has() -> None:
    machine = delivery(memory_bytes=10_000)
    machine.fail_over(3, 40)
    machine.append([None] * 2, 40)
    machine.settle(0)
    machine.come(0, 0, None, 40)
    machine.settle(0)
    machine.teardown()
    assert [record.index for record in machine.clients[-1].got] == list(range(11))


def test_a_client_that_knows_of_a_failover_before_the_gateway_to_which_it_comes_gets_nothing_twice() -> None:
    machine = delivery(memory_bytes=10_000)
    machine.come(1, 0, None, 40)
    machine.settle(1)
    machine.settle(1)
    machine.fail_over(6, 40)
    machine.append([None] * 3, 40)
    machine.settle(0)
    machine.fail_a_read(0, 40)  # of the other gateway, which waits before it tries again
    machine.break_a_connection_or_come_back(0, 0, 40)
    machine.break_a_connection_or_come_back(0, 1, 40)
    machine.gateways[1].settle(rounds=3, most=PAGE_RECORDS)
    machine.teardown()
