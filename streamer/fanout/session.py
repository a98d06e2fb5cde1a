"""One connection that watches one topic: a cursor, and how it is told that it has missed something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.frames import CloseCode
from websockets.protocol import OPEN

from streamer.core.messages import GAP, RESET, TOO_SLOW, PlainDeflated
from streamer.core.names import Topic
from streamer.fanout.closing import close_soon
from streamer.fanout.following import Failure, Follower, takes_deflated

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.fanout.feed import Feed
    from streamer.fanout.locating import Position

_FAILURES = {
    Failure.TOO_SLOW: (TOO_SLOW, "too slow: nothing was taken for {stall_s:g} s"),
    Failure.UNREADABLE: (CloseCode.TRY_AGAIN_LATER, "the history cannot be read now"),
    Failure.FAULT: (CloseCode.INTERNAL_ERROR, "the gateway failed"),
}


def closing_of(failure: Failure, stall_s: float) -> tuple[int, str]:
    """With which code a connection is closed where nothing more can be sent, and what is said of why."""
    code, why = _FAILURES[failure]
    return code, why.format(stall_s=stall_s)


class Session(Follower):
    """A connection of the plain endpoint, or like one: whatever a client must be told is said by closing it.

    Nobody but the session may close the connection while it is open and followed; for others' there is `GuestSession`.
    A client that has negotiated compression without context takeover gets compressed frames, the same for all of them.

    ``on_end`` is called once, when the session ends, for whatever reason. A connection that takes nothing for
    ``stall_s`` seconds is closed.
    """

    __slots__ = ("on_end",)

    def __init__(self, connection: ServerConnection, topic: Topic, stall_s: float) -> None:
        super().__init__(connection, topic, PlainDeflated() if takes_deflated(connection) else None, stall_s)
        self.on_end: Callable[[Session], None] | None = None
        # However the connection ends, and whoever sees it first: nothing of the session stays.
        connection.connection_lost_waiter.add_done_callback(self._connection_lost)

    def begin(self, feed: Feed, position: Position) -> None:
        """Follow from a position, or close the connection where its client must know better first."""
        if position.reset:
            feed.tell_reset(self)
        elif position.missing:
            feed.tell_gap(self, *position.missing)
        else:
            self.follow(position.cursor.index)

    def push(self, data: bytes) -> bool:
        """Write live frames, unless the connection takes no more."""
        # As often as there are clients, for each update: it touches nothing but the transport.
        if self._unsent_bytes():
            return False
        try:  # noqa: SIM105 - a context manager takes as long as all the rest
            self._send(data)
        except RuntimeError:
            pass  # the end of the stream is written already: the connection is closing
        return True

    def reached_head(self) -> None:
        """Say nothing: a client of the plain endpoint cannot be told."""

    def gap(self, first: int, last: int) -> None:
        """Tell the client which updates it has missed for good, and where it can go on."""
        self.close(GAP, f"gap: updates {first} to {last} are no longer kept; {self.how_to_go_on(last)}")

    def reset(self) -> None:
        """Tell the client that its cursor is not of this log."""
        self.close(RESET, "reset: the log was started anew, or never had that cursor; come back without after=")

    def fail(self, failure: Failure) -> None:
        """Close the connection, and say why and how to go on."""
        code, why = closing_of(failure, self._stall_s)
        self.close(code, f"{why}; {self.how_to_go_on()}")

    def how_to_go_on(self, index: int | None = None) -> str:
        """Say to a client how it comes back behind an index, by default behind what it was sent."""
        if self._feed is None or not self._feed.window.cursor.log_id:
            return "come back"
        mine = self._feed.window.cursor
        if index is None:
            index = mine.index if self._feed.watchers.is_live(self) else self.index
        return f"go on with after={mine.at(index).token}"

    def close(self, code: int, reason: str) -> None:
        """End the session and close the connection, in the background."""
        self.end()
        close_soon(self.connection, code, reason)

    def end(self) -> None:
        """Follow no longer, or never. The connection stays as it is. Ending twice changes nothing."""
        if self._ended:
            return
        super().end()
        self.connection.connection_lost_waiter.remove_done_callback(self._connection_lost)
        if self.on_end is not None:
            self.on_end(self)

    def _connection_lost(self, _: asyncio.Future[None]) -> None:
        self.end()


class GuestSession(Session):
    """A session on a connection of somebody else's, who may close it without a word to the session."""

    __slots__ = ()

    def push(self, data: bytes) -> bool:
        """Write live frames, unless the connection takes no more; none behind a close frame (RFC 6455, 5.5.1)."""
        return self.connection.protocol.state is not OPEN or super().push(data)
