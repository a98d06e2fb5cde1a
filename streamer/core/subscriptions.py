"""What a v1 connection may do with which topic, job on all nodes, or fleet: a table.

Theory of operation: of each subject, a connection is in one state. What a client asks for and what becomes of it are
events, and each has in each state one outcome, another state or a refusal. Since requests are answered in order, one
after another, a client's next request never meets a subject that is joining; the table says all the same what is then.
One thing lies across it: a job is followed either on all nodes or on single ones, so that each message about a job of a
node belongs to one subscription.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum

from streamer.core.names import JobAnywhere, Subject, Topic
from streamer.core.protocol import Code


class State(Enum):
    """Where a connection stands with a subject."""

    IDLE = "not subscribed"
    JOINING = "asked for, and not answered yet"
    WATCHING = "subscribed"


class Event(Enum):
    """What happens to a subject on a connection."""

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
    """The subjects of one connection, ``most`` of them at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._states: dict[Subject, State] = {}
        self._jobs: Counter[str] = Counter()
        """Of how many nodes a job is followed, each for itself."""

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self._states)

    def state(self, subject: Subject) -> State:
        """Where it stands with a subject."""
        return self._states.get(subject, State.IDLE)

    def meet(self, subject: Subject, event: Event) -> Code | None:
        """Have something happen to a subject; return why it is refused, if it is: then it has no effect."""
        outcome = TABLE[self.state(subject), event]
        if isinstance(outcome, Code):
            return outcome
        if outcome is State.IDLE:
            del self._states[subject]
            self._count(subject, -1)
        elif subject in self._states:
            self._states[subject] = outcome
        elif self._crossed(subject):
            return Code.ALREADY_SUBSCRIBED
        elif len(self._states) >= self._most:
            return Code.TOO_MANY_TOPICS
        else:
            self._states[subject] = outcome
            self._count(subject, 1)
        return None

    def _crossed(self, subject: Subject) -> bool:
        """Whether a job is followed the other way already."""
        match subject:
            case Topic(_, str(job)):
                return JobAnywhere(job) in self._states
            case JobAnywhere(job):
                return self._jobs[job] > 0
        return False

    def _count(self, subject: Subject, more: int) -> None:
        match subject:
            case Topic(_, str(job)):
                self._jobs[job] += more
                if not self._jobs[job]:
                    del self._jobs[job]
