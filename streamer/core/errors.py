"""Every error that the package raises on purpose; `streamer/client/errors.py` has those of the client alone.

    StreamerError
    ├── InvalidInput (also a ValueError)      what the caller gave cannot be used
    │   ├── InvalidName                       a node's or a job's name
    │   ├── InvalidUpdate                     a status, state or timestamp
    │   ├── InvalidCursor                     a cursor's token
    │   └── InvalidSetting                    an option or an environment variable
    ├── OutboxFull                            too many updates wait for Redis
    ├── OutboxNotWritable                     the durable outbox cannot be written: a full disk, a missing right
    ├── NodeFencedError                       another has the node for itself
    ├── NotAcknowledged (also a TimeoutError) Redis did not confirm in time
    ├── LogUnavailable                        Redis cannot be reached or refuses
    └── StreamerClosed                        used after close()

``temporary`` says whether the same call may succeed later without a change by the caller.
"""

from __future__ import annotations


class StreamerError(Exception):
    """The root of the package's errors."""

    temporary = False


class InvalidInput(StreamerError, ValueError):
    """What the caller gave cannot be used; the text says what is wrong with it."""


class InvalidName(InvalidInput):
    """A name that is empty, too long, or holds what names may not hold."""


class InvalidUpdate(InvalidInput):
    """An update that cannot be stored: its status, state or timestamp."""


class InvalidCursor(InvalidInput):
    """Text that is no cursor."""


class InvalidSetting(InvalidInput):
    """A setting outside its range or of the wrong kind."""


def counted(number: int) -> str:
    """So many updates, in words: `1 update`, `2,000 updates`."""
    return f"{number:,} update{'' if number == 1 else 's'}"


STORED = " (stored on the disk, and sent at the node's next start at the latest)"


class OutboxFull(StreamerError):
    """The outbox is at its bound because Redis does not take updates fast enough, or not at all."""

    temporary = True

    def __init__(self, node: str, pending: int, reason: str | None) -> None:
        super().__init__(node, pending, reason)
        self.node, self.pending, self.reason = node, pending, reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        waiting = f"{counted(self.pending)} {'waits' if self.pending == 1 else 'wait'} for Redis"
        return f"the outbox of node {self.node!r} is full: {waiting}{why}; try again later"


class OutboxNotWritable(StreamerError):
    """The durable outbox's file cannot be read or written; the text says which and why.

    From `update` it means that the update was not accepted; those before it are as safe as they were.
    """

    temporary = True

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"the durable outbox {self.path!r} cannot be used: {self.reason}"


class NodeFencedError(StreamerError):
    """Another process has the node for itself, or this one's claim on it has ended.

    ``final`` says that this streamer will publish no more; else it goes on once the other's claim is over. ``pending``
    updates were accepted and are not sent; ``stored`` says that they are in a durable outbox, and so go out when the
    node is next started on this machine.
    """

    def __init__(self, node: str, reason: str, final: bool, pending: int = 0, stored: bool = False) -> None:
        super().__init__(node, reason, final, pending, stored)
        self.node, self.reason, self.final, self.pending, self.stored = node, reason, final, pending, stored
        self.temporary = not final

    def __str__(self) -> str:
        waiting = f"; {counted(self.pending)} {'is' if self.pending == 1 else 'are'} not sent" if self.pending else ""
        stored = STORED if self.pending and self.stored else ""
        return f"node {self.node!r} is not this process's to write: {self.reason}{waiting}{stored}"


class NotAcknowledged(StreamerError, TimeoutError):
    """Redis did not confirm all updates within the time allowed.

    They stay in the outbox and go out later, unless it was `close` that raised. ``stored`` says that they are in a
    durable outbox: then they go out in any case, at the next start of the node at the latest.
    """

    temporary = True

    def __init__(self, node: str, pending: int, timeout_s: float, reason: str | None, stored: bool = False) -> None:
        super().__init__(node, pending, timeout_s, reason, stored)
        self.node, self.pending, self.timeout_s, self.reason = node, pending, timeout_s, reason
        self.stored = stored

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        were = "was" if self.pending == 1 else "were"
        what = f"{counted(self.pending)} of node {self.node!r} {were}"
        return f"{what} not acknowledged within {self.timeout_s:g} s{why}{STORED if self.stored else ''}"


class LogUnavailable(StreamerError):
    """Redis cannot be reached, or answered with an error."""

    temporary = True


class StreamerClosed(StreamerError):
    """The streamer was closed; ask `state_streaming` for a new one."""
