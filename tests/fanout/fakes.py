"""What the fan-out stands on, made so that a test says what happens next: an event loop, a Redis, connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, Protocol, cast

from websockets.protocol import State

from streamer.core.cursor import Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.fanout.hub import Hub, HubSettings
from streamer.log.keys import Keys
from streamer.log.listening import Listener
from streamer.log.reading import Head, Reader
from streamer.log.scripts import PAGE_RECORDS, Page
from streamer.log.subscribing import Subscriber
from tests.fanout.model_log import ModelLog


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop that runs only when told, so many turns, with a clock that goes on only when told."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def turn(self, times: int) -> None:
        for _ in range(times):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass(eq=False)
class Question:
    """What a gateway asked the log. A look gives the answer of that moment, which may arrive later."""

    look: Callable[[int], Any]
    arrival: asyncio.Future[Any]
    answer: Any = None


@dataclass(eq=False)
class Subscription:
    """A channel that a gateway listens to, and what is under way on it."""

    listener: Listener
    confirmation: asyncio.Future[None]
    in_flight: list[bytes] = field(default_factory=list)


class FakeRedis:
    """One gateway's reader and subscriber: nothing arrives unless it is told to."""

    connected = True
    deaf_periods, deaf_s = 0, 0.0

    def __init__(self, log: ModelLog) -> None:
        self.log = log
        self.index: list[str] = []
        """The nodes that run any job."""
        self.reads = 0
        self.questions: list[Question] = []
        self.subscriptions: dict[str, Subscription] = {}

    # The reader.

    async def read(self, topic: Topic, cursor: Cursor, limit: int = PAGE_RECORDS) -> Page:
        return cast(Page, await self._ask(lambda most: self.log.read(topic, cursor, min(limit, most))))

    async def before_last(self, topic: Topic, count: int) -> int | None:
        return cast(int | None, await self._ask(lambda _: self.log.before_last(topic, count)))

    async def heads(self, topics: Sequence[Topic]) -> list[Head | None]:
        return cast(list[Head | None], await self._ask(lambda _: [self.log.look(topic) for topic in topics]))

    async def nodes_of(self, job: str) -> list[str]:
        return cast(list[str], await self._ask(lambda _: list(self.index)))

    def _ask(self, look: Callable[[int], Any]) -> asyncio.Future[Any]:
        self.reads += 1
        arrival = asyncio.get_running_loop().create_future()
        self.questions.append(Question(look, arrival))
        return arrival

    def look(self, question: Question, most: int) -> None:
        question.answer = question.look(most)

    def arrive(self, question: Question) -> None:
        self.questions.remove(question)
        if not question.arrival.done():
            question.arrival.set_result(question.answer)

    def fail(self, question: Question) -> None:
        self.questions.remove(question)
        if not question.arrival.done():
            question.arrival.set_exception(LogUnavailable("it is down"))

    def fail_all(self) -> None:
        for question in list(self.questions):
            self.fail(question)

    # The subscriber.

    def start(self) -> None:
        pass

    async def subscribe(self, channel: str, listener: Listener) -> None:
        assert channel not in self.subscriptions
        confirmation = asyncio.get_running_loop().create_future()
        self.subscriptions[channel] = Subscription(listener, confirmation)
        await confirmation

    def unsubscribe(self, channel: str) -> None:
        self.subscriptions.pop(channel).confirmation.cancel()

    def publish(self, channel: str, message: bytes) -> None:
        subscription = self.subscriptions.get(channel)
        if subscription is not None and subscription.confirmation.done():
            subscription.in_flight.append(message)

    def deliver(self, channel: str, count: int) -> None:
        subscription = self.subscriptions.get(channel)
        if subscription is not None and subscription.in_flight:
            messages, subscription.in_flight = subscription.in_flight[:count], subscription.in_flight[count:]
            subscription.listener.take(messages)

    def reconnect(self) -> None:
        """Lose the connection and all that was under way on it, and make it again."""
        for subscription in self.subscriptions.values():
            subscription.in_flight.clear()
            if subscription.confirmation.done():
                subscription.listener.interrupted()

    # Both.

    def settle(self, most: int) -> None:
        """Have everything happen that can, with at most so many records a page."""
        for channel, subscription in list(self.subscriptions.items()):
            if subscription.confirmation.done():
                self.deliver(channel, len(subscription.in_flight))
            else:
                subscription.confirmation.set_result(None)
        for question in list(self.questions):
            self.look(question, most)
            self.arrive(question)

    async def aclose(self) -> None:
        pass


class Gateway:
    """A hub on a Redis, and the handshakes that its clients have not finished."""

    def __init__(self, loop: StillLoop, log: ModelLog, settings: HubSettings) -> None:
        self.loop = loop
        self.redis = FakeRedis(log)
        self.hub = Hub(cast(Reader, self.redis), cast(Subscriber, self.redis), Keys(), settings, Random(0))
        self.handshakes: list[asyncio.Future[None]] = []

    def handshake(self) -> asyncio.Future[None]:
        self.handshakes.append(self.loop.create_future())
        return self.handshakes[-1]

    def finish(self, handshake: asyncio.Future[None]) -> None:
        self.handshakes.remove(handshake)
        if not handshake.done():
            handshake.set_result(None)

    def settle(self, rounds: int, most: int) -> None:
        """Bring all who are joining or behind on, so many times."""
        for _ in range(rounds):
            self.loop.call_soon(self.redis.settle, most)
            for handshake in list(self.handshakes):
                self.finish(handshake)
            self.loop.turn(40)


class Receiver(Protocol):
    """Whoever is at the other end of a connection. It must not raise: that would be a fault of whoever is sending."""

    def receive(self, data: bytes) -> None: ...

    def closed(self, code: int, reason: str) -> None: ...


class FakeConnection:
    """What a session needs of a `websockets` server connection; what comes goes to a client."""

    def __init__(self, loop: StillLoop, client: Receiver) -> None:
        self.client = client
        self.paused = False
        self.protocol = SimpleNamespace(state=State.OPEN, extensions=[])
        self.transport = SimpleNamespace(
            write=self._write, abort=self._abort, get_write_buffer_size=lambda: 1 if self.paused else 0
        )
        self.aborted = False
        self.answers_close = True
        self.connection_lost_waiter: asyncio.Future[None] = loop.create_future()
        self._drained = asyncio.Event()

    def _write(self, data: bytes) -> None:
        if self.protocol.state is not State.OPEN:
            raise RuntimeError("the end of the stream is written")
        self.client.receive(data)

    def stall(self) -> None:
        self.paused = True
        self._drained.clear()

    def resume(self) -> None:
        self.paused = False
        self._drained.set()

    async def drain(self) -> None:
        if self.paused:
            await self._drained.wait()
        if self.protocol.state is not State.OPEN:
            raise ConnectionResetError

    async def close(self, code: int, reason: str) -> None:
        self.client.closed(code, reason)
        if not self.answers_close:
            await asyncio.shield(self.connection_lost_waiter)
        self.break_off()

    def _abort(self) -> None:
        self.aborted = True
        self.break_off()

    def break_off(self) -> None:
        if self.protocol.state is State.OPEN:
            self.protocol.state = State.CLOSED
            self.connection_lost_waiter.set_result(None)
            self._drained.set()
