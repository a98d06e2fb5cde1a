"""A v1 connection: its client's requests, answered in order, and the topics that it follows."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from streamer.core.errors import LogUnavailable
from streamer.core.messages import TOO_SLOW
from streamer.core.names import Fleet, JobAnywhere, Subject, Topic
from streamer.core.permissions import EVERYTHING, Permissions
from streamer.core.protocol import (
    FLEET,
    Answer,
    Code,
    Error,
    Format,
    Live,
    Ping,
    Pong,
    Request,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    error,
    named,
    refusal,
)
from streamer.core.rate import Rate, Verdict
from streamer.core.subscriptions import Event, State, Subscriptions
from streamer.fanout.closing import close_soon
from streamer.fanout.fleet_feed import FleetFeed
from streamer.fanout.fleet_watch import FleetWatch
from streamer.fanout.following import Failure
from streamer.fanout.hub import Hub
from streamer.fanout.job_nodes import JobNodes
from streamer.fanout.locating import Position
from streamer.gateway.http import UNAVAILABLE
from streamer.gateway.job_subscription import JobSubscription
from streamer.gateway.subscription import Subscription

WAITING_REQUESTS = 64
"""So many requests may wait for their answers; then nothing more is read until these are given."""

BURST_S = 10
"""A client may say at once what is allowed in so many seconds, and one message more for each topic it may have."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one client may do: topics at the same time, messages a second, seconds without taking anything."""

    topics: int
    messages_s: float
    stall_s: float


class _Waiting(NamedTuple):
    """A request, or what its client is told instead, and the search for where it joins, if that has begun."""

    request: Request | Error
    locating: asyncio.Task[Position] | None


Followed = Subscription | JobSubscription | FleetWatch


class Conversation:
    """A `websockets` server connection that speaks v1, for one event loop. Nobody else may close it while it is open.

    Where a topic is joined is looked up as soon as its request comes, for several at the same time; the answers are
    given in the order of the requests, by one task, which is there only while any is due.
    """

    def __init__(
        self,
        connection: ServerConnection,
        hub: Hub,
        format: Format,
        limits: Limits,
        permissions: Permissions = EVERYTHING,
    ) -> None:
        self._connection, self._hub, self._format, self._limits = connection, hub, format, limits
        self._permissions = permissions
        self._topics = Subscriptions(limits.topics)
        self._followed: dict[Subject, Followed] = {}
        self._waiting: deque[_Waiting] = deque()
        self._answering: asyncio.Task[None] | None = None
        self._ended = False
        burst = limits.topics + BURST_S * limits.messages_s
        self._rate = Rate(limits.messages_s, burst, asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Take in what the client says until the connection ends. Raises ConnectionClosed, which is how it does."""
        while True:
            self.receive(await self._connection.recv())
            if len(self._waiting) >= WAITING_REQUESTS and self._answering is not None:
                await asyncio.wait([self._answering])

    def receive(self, message: str | bytes) -> None:
        """Take in a message. What it asks for is done, or refused, behind what was asked for before."""
        if self._ended:
            return
        verdict = self._rate.take(asyncio.get_running_loop().time())
        if verdict is Verdict.GIVE_UP:
            self.close(CloseCode.POLICY_VIOLATION, f"too many messages: {self._limits.messages_s:g} a second are taken")
            return
        request = self._format.parse(message)
        if verdict is Verdict.REFUSE and not isinstance(request, Error):
            request = refusal(request, Code.RATE_LIMITED, f"{self._limits.messages_s:g} messages a second are taken")
        self._waiting.append(_Waiting(request, self._begin_to_locate(request)))
        if self._answering is None:
            self._answering = asyncio.get_running_loop().create_task(self._answer_all())

    def close(self, code: int, reason: str) -> None:
        """End, and close the connection in the background."""
        self.end()
        close_soon(self._connection, code, reason)

    def how_to_go_on(self) -> str:
        """Say to the client how it comes back."""
        return "come back, and go on with the last cursor of each topic"

    def end(self) -> None:
        """Follow and answer no longer. The connection stays as it is. Ending twice changes nothing."""
        self._ended = True
        for subscription in self._followed.values():
            subscription.end()
        self._followed.clear()
        while self._waiting:
            _drop(self._waiting.popleft().locating)
        if self._answering is not None and self._answering is not asyncio.current_task():
            self._answering.cancel()

    def _say(self, answer: Answer) -> None:
        if self._connection.protocol.state is OPEN:
            self._connection.transport.write(self._format.frame(answer))

    # Requests.

    def _begin_to_locate(self, request: Request | Error) -> asyncio.Task[Position] | None:
        """Begin to look up where a topic is joined, unless it is clear already that it is not going to be."""
        if not isinstance(request, Subscribe):
            return None
        topic = request.subject
        if not isinstance(topic, Topic) or self._topics.state(topic) is not State.IDLE:
            return None
        if self._refusal(request, topic) is not None:
            return None
        if len(self._topics) + len(self._waiting) >= self._limits.topics:
            return None
        return asyncio.get_running_loop().create_task(self._locate(request, topic))

    async def _locate(self, request: Subscribe, topic: Topic) -> Position:
        return await self._hub.locate(topic, request.cursor, request.records)

    def _refusal(self, request: Subscribe, subject: Subject) -> Error | None:
        """Why this client may not watch something, if it may not.

        Of a job on all nodes it is asked for the job as such, and then for the job on each node: a node that is refused
        is left out.
        """
        if self._permissions.may_watch(subject):
            return None
        return refusal(request, Code.FORBIDDEN, self._permissions.missing_for(subject))

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                if self._connection.paused:
                    # Who asks and does not take the answers must not have them pile up.
                    async with asyncio.timeout(self._limits.stall_s):
                        await self._connection.drain()
                await self._answer(self._waiting[0])
                if self._waiting:
                    self._waiting.popleft()
        except TimeoutError:
            self._too_slow()
        except OSError:
            pass  # the connection is lost, which ends it
        except Exception:
            _log.exception("a v1 connection failed")
            self.close(CloseCode.INTERNAL_ERROR, f"the gateway failed; {self.how_to_go_on()}")
        finally:
            self._answering = None

    async def _answer(self, waiting: _Waiting) -> None:
        match waiting.request:
            case Error() as refused:
                self._say(refused)
            case Ping(id=number):
                self._say(Pong(id=number))
            case Unsubscribe() as request:
                self._unsubscribe(request)
            case Subscribe() as request:
                try:
                    await self._subscribe(request, waiting.locating)
                finally:
                    _drop(waiting.locating)

    def _unsubscribe(self, request: Unsubscribe) -> None:
        subject = request.subject
        if self._topics.meet(subject, Event.UNSUBSCRIBE):
            self._say(refusal(request, Code.NOT_SUBSCRIBED, f"{subject} is not subscribed to"))
            return
        self._followed.pop(subject).end()
        self._say(Unsubscribed(id=request.id, node=request.node, job=request.job))

    async def _subscribe(self, request: Subscribe, locating: asyncio.Task[Position] | None) -> None:
        subject = request.subject
        if refused := self._refusal(request, subject):
            self._say(refused)
            return
        if code := self._topics.meet(subject, Event.SUBSCRIBE):
            self._say(refusal(request, code, self._why(code, subject)))
            return
        try:
            # Nothing is awaited once it has joined.
            followed = await self._join(request, subject, locating)
        except LogUnavailable:
            self._topics.meet(subject, Event.FAILED)
            self._say(refusal(request, Code.UNAVAILABLE, UNAVAILABLE))
        else:
            self._topics.meet(subject, Event.JOINED)
            self._followed[subject] = followed

    async def _join(self, request: Subscribe, subject: Subject, locating: asyncio.Task[Position] | None) -> Followed:
        """Begin to follow. Raises LogUnavailable."""
        match subject:
            case Topic():
                return await self._join_topic(request, subject, locating)
            case JobAnywhere(job):
                index = await self._hub.lookouts.job(job)
                return self._begin_job(request, subject, index)
            case Fleet():
                return self._begin_fleet(request, subject, await self._hub.lookouts.fleet())

    async def _join_topic(
        self, request: Subscribe, topic: Topic, locating: asyncio.Task[Position] | None
    ) -> Subscription:
        subscription = Subscription(
            self._connection, self._format, topic, request.cursor, self._limits.stall_s, self._topic_failed, request.id
        )
        try:
            position = await (locating or self._locate(request, topic))
            await self._hub.join(subscription, position)
        except BaseException:
            subscription.end()
            raise
        return subscription

    def _begin_job(self, request: Subscribe, subject: JobAnywhere, index: JobNodes) -> JobSubscription:
        subscription = JobSubscription(
            self._connection,
            self._hub,
            self._format,
            request,
            self._limits.stall_s,
            lambda topic: self._refusal(request, topic) is None,
            self._say,
            partial(self._failed, subject),
        )
        subscription.begin(index)
        return subscription

    def _begin_fleet(self, request: Subscribe, fleet: Fleet, feed: FleetFeed) -> FleetWatch:
        watch = FleetWatch(
            self._connection,
            self._format,
            self._limits.stall_s,
            lambda: self._say(Live(node=FLEET)),
            partial(self._failed, fleet),
        )
        self._say(Subscribed(id=request.id, node=FLEET))
        watch.join(feed)
        return watch

    def _why(self, code: Code, subject: Subject) -> str:
        if code is Code.TOO_MANY_TOPICS:
            return f"a connection may have {self._limits.topics:,} topics at the same time"
        if self._topics.state(subject) is State.IDLE:
            return "a job can be subscribed to on all nodes or on single ones: the other is subscribed to already"
        return f"{subject} is subscribed to already"

    # What becomes of subscriptions.

    def _topic_failed(self, subscription: Subscription, failure: Failure) -> None:
        self._failed(subscription.topic, failure)

    def _failed(self, subject: Subject, failure: Failure) -> None:
        if failure is Failure.TOO_SLOW:
            self._too_slow()
            return
        del self._followed[subject]
        self._topics.meet(subject, Event.ENDED)
        if failure is Failure.UNREADABLE:
            code, message = Code.UNAVAILABLE, UNAVAILABLE
        else:
            code, message = Code.INTERNAL, "the gateway failed; subscribe again, with the last cursor"
        self._say(error(code, message, **named(subject)))

    def _too_slow(self) -> None:
        self.close(TOO_SLOW, f"too slow: nothing was taken for {self._limits.stall_s:g} s; {self.how_to_go_on()}")


def _drop(locating: asyncio.Task[Position] | None) -> None:
    """Have no more interest in where a topic is joined."""
    if locating is not None and not locating.cancel():
        with suppress(asyncio.CancelledError):
            locating.exception()
