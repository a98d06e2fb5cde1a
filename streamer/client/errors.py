"""What the client raises on purpose.

    StreamerError
    ├── InvalidInput                           what the caller gave cannot be used, as everywhere in the package
    │   └── AlreadyFollowed                    the client follows this topic already
    ├── GatewayRefused                         the gateway will not serve this, now or later
    │   └── Unauthorized                       it wants a token, or another one
    ├── GatewayUnreachable (a TimeoutError)    no gateway could be reached in the time given
    ├── ClientClosed                           used after its end
    └── Interrupted                            a follow cannot go on as if nothing had happened
        ├── Missed                             updates that were due are no longer kept
        ├── Rewound                            a failover has lost updates that were seen already
        └── LogReset                           the log was started anew

``temporary`` says whether the same call may succeed later without a change by the caller: after an `Interrupted`, the
next step of the same follow goes on.
"""

from __future__ import annotations

from streamer.core.errors import InvalidInput, StreamerError
from streamer.core.names import Topic
from streamer.core.protocol import Gap, Reset, Rewind


class AlreadyFollowed(InvalidInput):
    """The client follows this topic already; another client may do it, too."""

    def __init__(self, topic: Topic) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return f"this client follows {self.topic} already: close that follow first, or connect another client"


class GatewayRefused(StreamerError):
    """The gateway will not serve this, now or later; the text is its reason.

    ``code`` is the HTTP status, the code that the connection was closed with, or the protocol's error's, as text.
    """

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason, code)
        self.reason, self.code = reason, code

    def __str__(self) -> str:
        return self.reason


class Unauthorized(GatewayRefused):
    """The gateway wants a token, or another one, or the token's holder may not do this."""


class GatewayUnreachable(StreamerError, TimeoutError):
    """No gateway could be reached in the time given; ``reason`` is why the last try failed."""

    temporary = True

    def __init__(self, timeout_s: float, reason: str) -> None:
        super().__init__(timeout_s, reason)
        self.timeout_s, self.reason = timeout_s, reason

    def __str__(self) -> str:
        return f"not connected within {self.timeout_s:g} s: {self.reason}"


class ClientClosed(StreamerError):
    """The client was closed, or not entered yet; `connect` gives a new one."""


class Interrupted(StreamerError):
    """A follow cannot go on as if nothing had happened. Its next step goes on all the same, from ``cursor``.

    Raised where a follow was not asked for events. Until that step its own `cursor` stays behind the last update.
    """

    temporary = True

    def __init__(self, topic: Topic, cursor: str) -> None:
        super().__init__(topic, cursor)
        self.topic, self.cursor = topic, cursor


class Missed(Interrupted):
    """Updates that were due are no longer kept: those of the topic among the indexes ``first`` to ``last``."""

    def __init__(self, topic: Topic, cursor: str, first: int, last: int) -> None:
        super().__init__(topic, cursor)
        self.args = topic, cursor, first, last
        self.first, self.last = first, last

    def __str__(self) -> str:
        return f"{self.topic}: gap: updates {self.first} to {self.last} are no longer kept"


class Rewound(Interrupted):
    """A failover has lost the updates behind ``index``. What the log has instead follows, often the same again."""

    def __init__(self, topic: Topic, cursor: str, index: int) -> None:
        super().__init__(topic, cursor)
        self.args = topic, cursor, index
        self.index = index

    def __str__(self) -> str:
        lost = f"a failover has lost the updates behind {self.index}"
        return f"{self.topic}: rewind: {lost}; what the log has instead follows"


class LogReset(Interrupted):
    """The log was started anew, or never had the cursor; it goes on with the first update that there is."""

    def __str__(self) -> str:
        return f"{self.topic}: reset: the log was started anew; it goes on with its first update"


def interruption(event: Gap | Rewind | Reset) -> Interrupted:
    """An event as an exception."""
    topic = Topic(event.node, event.job)
    match event:
        case Gap():
            return Missed(topic, event.cursor, event.first, event.last)
        case Rewind():
            return Rewound(topic, event.cursor, event.index)
        case Reset():
            return LogReset(topic, event.cursor)
