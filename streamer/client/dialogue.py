"""The client's side of v1, without I/O: what is wanted, what to say for it, and what comes of what is heard.

Theory of operation: a subscription lives as long as somebody follows its topic, over any number of connections. On each
it is asked for, then followed; and it is idle where that failed or has ended. Its cursor is behind all that was heard
of it, so asking anew goes on exactly there. Requests carry numbers and are answered in order: what is heard of a topic
belongs to the subscription that was last said to be subscribed, so nothing of an old one is taken for a new one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count

from streamer.client.errors import AlreadyFollowed, GatewayRefused, Unauthorized
from streamer.client.messages import Event, Message, Updates
from streamer.core.errors import InvalidCursor, InvalidName, StreamerError
from streamer.core.names import Topic
from streamer.core.protocol import (
    Code,
    Error,
    Gap,
    Live,
    Pong,
    Request,
    Reset,
    Rewind,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)


class State(Enum):
    """Where a subscription stands on the connection."""

    IDLE = "not asked for"
    ASKED = "asked for, and not answered yet"
    FOLLOWED = "subscribed"


@dataclass(eq=False)
class Subscription:
    """A topic that somebody follows. ``cursor`` is behind all that was heard of it, None before anything was."""

    topic: Topic
    cursor: str | None = None
    history: str | int = "all"
    state: State = field(default=State.IDLE, init=False)


# What comes of a message.


@dataclass(frozen=True)
class Joined:
    """It is followed from the cursor on."""

    subscription: Subscription
    cursor: str


@dataclass(frozen=True)
class Heard:
    """The next that happened to a topic, in order."""

    subscription: Subscription
    events: Sequence[Event]


@dataclass(frozen=True)
class Postponed:
    """It is not followed now: `Dialogue.ask` again, a little later."""

    subscription: Subscription
    reason: str


@dataclass(frozen=True)
class Refused:
    """It will never be followed."""

    subscription: Subscription
    error: StreamerError


@dataclass(frozen=True)
class Restart:
    """The gateway does not have what is wanted here; a new connection will."""

    reason: str


Outcome = Joined | Heard | Postponed | Refused | Restart


class Dialogue:
    """What a client wants of a gateway, over one connection after another."""

    def __init__(self) -> None:
        self._wanted: dict[Topic, Subscription] = {}
        self._numbers = count(1)
        self._connected = False
        self._asked: dict[int, Subscription] = {}
        self._followed: dict[Topic, Subscription] = {}
        self._unsaid: list[Request] = []

    def __len__(self) -> int:
        """How many topics are wanted."""
        return len(self._wanted)

    def want(self, subscription: Subscription) -> None:
        """Follow a topic from now on. Raises AlreadyFollowed."""
        if subscription.topic in self._wanted:
            raise AlreadyFollowed(subscription.topic)
        self._wanted[subscription.topic] = subscription
        self.ask(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Follow it no longer: nothing more is heard of it. Leaving twice changes nothing."""
        if self._wanted.get(subscription.topic) is not subscription:
            return
        del self._wanted[subscription.topic]
        if subscription.state is not State.IDLE:
            self._unsaid.append(Unsubscribe(node=subscription.topic.node, job=subscription.topic.job))

    def ask(self, subscription: Subscription) -> None:
        """Ask for a topic that is wanted, unless there is no connection or it is done already."""
        wanted = self._wanted.get(subscription.topic) is subscription
        if not (self._connected and wanted and subscription.state is State.IDLE):
            return
        subscription.state = State.ASKED
        number, topic, cursor = next(self._numbers), subscription.topic, subscription.cursor
        self._asked[number] = subscription
        history = subscription.history if cursor is None else None
        self._unsaid.append(Subscribe(id=number, node=topic.node, job=topic.job, after=cursor, history=history))

    def connect(self) -> None:
        """A new connection is there: ask for all that is wanted."""
        self.disconnect()
        self._connected = True
        for subscription in self._wanted.values():
            self.ask(subscription)

    def disconnect(self) -> None:
        """The connection is no more, and nothing that was said or heard on it counts."""
        self._connected = False
        self._asked.clear()
        self._followed.clear()
        self._unsaid.clear()
        for subscription in self._wanted.values():
            subscription.state = State.IDLE

    def unsaid(self) -> list[Request]:
        """What is to be sent, in order; it counts as said."""
        requests, self._unsaid = self._unsaid, []
        return requests

    def receive(self, message: Message) -> Outcome | None:
        """Take in what the gateway says; return what comes of it, None where that is nothing.

        Raises GatewayRefused where the gateway has not understood what was said.
        """
        match message:
            case Pong():
                return None
            case Error():
                return self._fail(message)
            case Subscribed():
                return self._join(message)
            case Unsubscribed(node=str(node), job=job):
                self._followed.pop(Topic(node, job), None)
                return None
            case Updates(node=node, job=job, updates=updates):
                return self._hear(Topic(node, job), message.cursor, updates)
            case Gap(node=node, job=job) | Rewind(node=node, job=job) | Reset(node=node, job=job):
                return self._hear(Topic(node, job), message.cursor, [message])
            case Live(node=str(node), job=job, cursor=str(cursor)):
                return self._hear(Topic(node, job), cursor, [message])
        return None  # of what this client does not ask for

    def _join(self, message: Subscribed) -> Joined | None:
        subscription = self._asked.pop(message.id, None) if isinstance(message.id, int) else None
        if subscription is None or message.cursor is None:
            return None
        self._followed[subscription.topic] = subscription
        if not self._is_wanted(subscription):
            return None
        subscription.state = State.FOLLOWED
        if subscription.cursor is None:
            subscription.cursor = message.cursor
        return Joined(subscription, message.cursor)

    def _hear(self, topic: Topic, cursor: str, events: Sequence[Event]) -> Heard | None:
        subscription = self._followed.get(topic)
        if subscription is None or not self._is_wanted(subscription):
            return None
        subscription.cursor = cursor
        return Heard(subscription, events)

    def _fail(self, error: Error) -> Outcome | None:
        if error.re == "subscribe" and isinstance(error.id, int):
            return self._not_joined(error, error.id)
        if error.re == "unsubscribe":
            # It is followed still, which a request for the same topic would meet.
            return Restart(error.message) if error.temporary else None
        if error.re is None and error.node is not None:
            return self._ended(error, Topic(error.node, error.job))
        if error.temporary:
            return None
        raise GatewayRefused(error.message, error.code)

    def _not_joined(self, error: Error, number: int) -> Outcome | None:
        subscription = self._asked.pop(number, None)
        if subscription is None or not self._is_wanted(subscription):
            return None
        subscription.state = State.IDLE
        if error.temporary:
            return Postponed(subscription, error.message)
        if error.code == Code.ALREADY_SUBSCRIBED.value:
            return Restart(error.message)
        del self._wanted[subscription.topic]
        return Refused(subscription, _refusal(error))

    def _ended(self, error: Error, topic: Topic) -> Postponed | None:
        subscription = self._followed.pop(topic, None)
        if subscription is None or not self._is_wanted(subscription):
            return None
        subscription.state = State.IDLE
        return Postponed(subscription, error.message)

    def _is_wanted(self, subscription: Subscription) -> bool:
        return self._wanted.get(subscription.topic) is subscription


def _refusal(error: Error) -> StreamerError:
    match error.code:
        case Code.INVALID_NAME.value:
            return InvalidName(error.message)
        case Code.INVALID_CURSOR.value:
            return InvalidCursor(error.message)
        case "unauthorized" | "forbidden":
            return Unauthorized(error.message, error.code)
    return GatewayRefused(error.message, error.code)
