"""What a v1 connection may do with which topic: a table.

Theory of operation: of each topic, a connection is in one state. What a client asks for and what becomes of it are
events, and each has in each state one outcome, another state or a refusal. Since requests are answered in order, one
after another, a client's next request never meets a topic that is joining; the table says all the same what is then.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from streamer.core.names import Topic
from streamer.core.protocol import Code


class State(Enum):
    """Where a connection stands with a topic."""

    IDLE = "not subscribed"
    JOINING = "asked for, and not answered yet"
    WATCHING = "subscribed"


class Event(Enum):
    """What happens to a topic on a connection."""

    SUBSCRIBE = "the client asks for it"
    JOINED = "it follows from here on"
    FAILED = "it could not be joined"
    UNSUBSCRIBE = "the client has enough of it"
    ENDED = "it cannot be followed any further"


TABLE: dict[tuple[State, Event], State | Code] = {
    (State.IDLE, Event.SUBSCRIBE): State.JOINING,
    (State.IDLE, Event.UNSUBSCRIBE): Code.NOT_SUBSCRIBED,
    (State.JOINING, Event.SUBSCRIBE): Code.ALREADY_SUBSCRIBED,
    (State.JOINING, Event.UNSUBSCRIBE): State.IDLE,
    (State.JOINING, Event.JOINED): State.WATCHING,
    (State.JOINING, Event.FAILED): State.IDLE,
    (State.WATCHING, Event.SUBSCRIBE): Code.ALREADY_SUBSCRIBED,
    (State.WATCHING, Event.UNSUBSCRIBE): State.IDLE,
    (State.WATCHING, Event.ENDED): State.IDLE,
}
"""What is not here cannot happen, and is a fault of the gateway's: KeyError."""


class Subscriptions:
    """The topics of one connection, ``most`` of them at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._states: dict[Topic, State] = {}

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[Topic]:
        return iter(self._states)

    def state(self, topic: Topic) -> State:
        """Where it stands with a topic."""
        return self._states.get(topic, State.IDLE)

    def meet(self, topic: Topic, event: Event) -> Code | None:
        """Have something happen to a topic; return why it is refused, if it is: then it has no effect."""
        outcome = TABLE[self.state(topic), event]
        if isinstance(outcome, Code):
            return outcome
        if outcome is State.IDLE:
            del self._states[topic]
        elif topic not in self._states and len(self._states) >= self._most:
            return Code.TOO_MANY_TOPICS
        else:
            self._states[topic] = outcome
        return None
