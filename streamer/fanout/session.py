"""One connection that watches one topic: a cursor, and how it is told that it has missed something.

Theory of operation: a session is *live*, and the feed pushes to it, or *behind*, and a task of its own reads on from
its cursor. It starts behind, is live once it has reached the head, and falls behind again when its connection takes no
more; the task then waits for the connection. It owes a client memory only for what one write has put into its buffer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from streamer.core.errors import LogUnavailable
from streamer.core.messages import DEFLATE_BITS, GAP, RESET, TOO_SLOW, deflated
from streamer.core.names import Topic

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.core.window import Chunk, Encode
    from streamer.fanout.feed import Feed
    from streamer.fanout.locating import Position

CLOSE_S = 10.0
"""How long the closing of a connection may take; then it is cut off."""

_log = logging.getLogger(__name__)
_closing: set[asyncio.Task[None]] = set()


class Session:
    """A `websockets` server connection on a topic, for one event loop.

    Nobody but the session may close the connection while it is open and followed; for others' there is `GuestSession`.
    A client that has negotiated compression without context takeover gets compressed frames, the same for all of them.

    ``index`` is that of the last record written to it; while it is live, the feed's cursor is the truth instead.
    ``on_end`` is called once, when the session ends, for whatever reason. A connection that takes nothing for
    ``stall_s`` seconds is closed.
    """

    __slots__ = (
        "_ended",
        "_feed",
        "_following",
        "_send",
        "_stall_s",
        "_unsent_bytes",
        "connection",
        "encode",
        "index",
        "on_end",
        "topic",
    )

    def __init__(self, connection: ServerConnection, topic: Topic, stall_s: float) -> None:
        self.connection = connection
        self.topic = topic
        self._send, self._unsent_bytes = connection.transport.write, connection.transport.get_write_buffer_size
        self.index = -1
        self.encode: Encode | None = deflated if _takes_deflated(connection) else None
        self.on_end: Callable[[Session], None] | None = None
        self._stall_s = stall_s
        self._feed: Feed | None = None
        self._following: asyncio.Task[None] | None = None
        self._ended = False
        # However the connection ends, and whoever sees it first: nothing of the session stays.
        connection.connection_lost_waiter.add_done_callback(self._connection_lost)

    def join(self, feed: Feed, position: Position) -> None:
        """Follow a feed from a position, or tell the client that this cannot be. One that has ended does not join."""
        if self._ended:
            return
        self._feed = feed
        if position.reset:
            self.reset()
        elif position.missing:
            self.gap(*position.missing)
        else:
            self.follow(position.cursor.index)

    @property
    def unsent_bytes(self) -> int:
        """How much of what it was sent waits for its connection."""
        return self._unsent_bytes()

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

    def follow(self, index: int) -> None:
        """Be behind, at an index, until the head is reached."""
        feed = self._feed
        if feed is None:
            return
        self.index = index
        feed.watchers.fall_behind(self)
        if self.connection.paused or not self._write_on(feed):
            self._following = asyncio.get_running_loop().create_task(self._follow(feed))

    def gap(self, first: int, last: int) -> None:
        """Tell the client which updates it has missed for good, and where it can go on."""
        self.close(GAP, f"gap: updates {first} to {last} are no longer kept; {self.how_to_go_on(last)}")

    def reset(self) -> None:
        """Tell the client that its cursor is not of this log."""
        self.close(RESET, "reset: the log was started anew, or never had that cursor; come back without after=")

    def how_to_go_on(self, index: int | None = None) -> str:
        """Say to a client how it comes back behind an index, by default behind what it was sent."""
        if self._feed is None or not self._feed.window.cursor.log_id:
            return "come back"
        mine = self._feed.window.cursor
        if index is None:
            index = mine.index if self._feed.watchers.is_live(self) else self.index
        return f"go on with after={mine.at(index).token}"

    def close(self, code: int, reason: str) -> None:
        """End the session and close the connection, in the background: within CLOSE_S, whatever the client does."""
        self.end()
        task = asyncio.get_running_loop().create_task(self._close(code, reason))
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    def end(self) -> None:
        """Follow no longer, or never. The connection stays as it is. Ending twice changes nothing."""
        if self._ended:
            return
        self._ended = True
        self.connection.connection_lost_waiter.remove_done_callback(self._connection_lost)
        if self._feed is not None:
            self._feed.watchers.leave(self)
            self._feed = None
        if self._following is not None:
            self._following.cancel()
        if self.on_end is not None:
            self.on_end(self)

    def _connection_lost(self, _: asyncio.Future[None]) -> None:
        self.end()

    async def _close(self, code: int, reason: str) -> None:
        try:
            # It waits for a connection that takes nothing, and for the client's answer.
            async with asyncio.timeout(CLOSE_S):
                await self.connection.close(code, reason)
        except TimeoutError:
            self.connection.transport.abort()

    def _write_on(self, feed: Feed) -> bool:
        """Write the next frames of the window, if that reaches so far back; return whether the session is live now."""
        if self.index < feed.window.start:
            return False
        if chunk := feed.window.after(self.index, self.encode):
            self._write(chunk)
        if self.index < feed.window.cursor.index:
            return False
        # Without an await since the look into the window.
        feed.watchers.go_live(self)
        return True

    def _write(self, chunk: Chunk) -> None:
        if self.connection.protocol.state is OPEN:
            self._send(chunk.data)
        self.index = chunk.last

    async def _follow(self, feed: Feed) -> None:
        connection = self.connection
        try:
            while not self._ended and connection.protocol.state is OPEN:
                if connection.paused:
                    async with asyncio.timeout(self._stall_s):
                        await connection.drain()
                else:
                    await asyncio.sleep(0)  # one chunk, and it is another's turn
                if self.index < feed.window.start:
                    chunk = await feed.read_back(self)
                    if not self._ended:
                        self._write(chunk)
                elif self._write_on(feed):
                    break
        except TimeoutError:
            self.close(TOO_SLOW, f"too slow: nothing was taken for {self._stall_s:g} s; {self.how_to_go_on()}")
        except LogUnavailable as error:
            self.close(CloseCode.TRY_AGAIN_LATER, f"the history cannot be read now; {self.how_to_go_on()}")
            _log.warning("a session of %s ends: %s", self.topic, error)
        except OSError:
            pass  # the connection is lost, which ends the session
        except Exception:
            _log.exception("a session of %s failed", self.topic)
            self.close(CloseCode.INTERNAL_ERROR, f"the gateway failed; {self.how_to_go_on()}")


class GuestSession(Session):
    """A session on a connection of somebody else's, who may close it without a word to the session."""

    __slots__ = ()

    def push(self, data: bytes) -> bool:
        """Write live frames, unless the connection takes no more; none behind a close frame (RFC 6455, 5.5.1)."""
        return self.connection.protocol.state is not OPEN or super().push(data)


def _takes_deflated(connection: ServerConnection) -> bool:
    return any(
        isinstance(extension, PerMessageDeflate)
        and extension.local_no_context_takeover
        and extension.local_max_window_bits >= DEFLATE_BITS
        for extension in connection.protocol.extensions
    )
