"""Following one topic on a connection: pushed to at the head, reading on by itself behind it.

Theory of operation: a follower is *live*, and the feed pushes to it, or *behind*, and a task of its own reads on from
its cursor. It starts behind, is live once it has reached the head, and falls behind again when its connection takes no
more; the task then waits for the connection. It owes a client memory only for what one write has put into its buffer.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN

from streamer.core.errors import LogUnavailable
from streamer.core.messages import DEFLATE_BITS
from streamer.core.names import Topic

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.core.window import Chunk, Encoding
    from streamer.fanout.feed import Feed
    from streamer.fanout.locating import Position

_log = logging.getLogger(__name__)


class Failure(Enum):
    """Why nothing more can be sent of a topic."""

    TOO_SLOW = "the connection took nothing for too long"
    UNREADABLE = "the history cannot be read now"
    FAULT = "the gateway has a fault"


class Follower(ABC):
    """A `websockets` server connection on a topic, for one event loop; what the client is told is up to subclasses.

    ``index`` is that of the last record written; while it is live, the feed's cursor is the truth instead. A
    connection that takes nothing for ``stall_s`` seconds makes it fail.
    """

    __slots__ = (
        "_ended",
        "_feed",
        "_following",
        "_send",
        "_stall_s",
        "_unsent_bytes",
        "connection",
        "encoding",
        "index",
        "topic",
    )

    def __init__(self, connection: ServerConnection, topic: Topic, encoding: Encoding | None, stall_s: float) -> None:
        self.connection = connection
        self.topic = topic
        self.encoding = encoding
        self.index = -1
        self._send, self._unsent_bytes = connection.transport.write, connection.transport.get_write_buffer_size
        self._stall_s = stall_s
        self._feed: Feed | None = None
        self._following: asyncio.Task[None] | None = None
        self._ended = False

    # To be filled in.

    @abstractmethod
    def begin(self, feed: Feed, position: Position) -> None:
        """Tell the client where it joins, and `follow` from there."""

    @abstractmethod
    def push(self, data: bytes) -> bool:
        """Send live records; False, and nothing sent, where the connection takes no more at the moment."""

    @abstractmethod
    def gap(self, first: int, last: int) -> None:
        """Tell the client which updates it has missed for good."""

    @abstractmethod
    def reset(self) -> None:
        """Tell the client that its cursor is not of this log."""

    @abstractmethod
    def fail(self, failure: Failure) -> None:
        """End, and tell the client why."""

    @abstractmethod
    def reached_head(self) -> None:
        """Take note that all that the log had is written, and that the watch is live from here on."""

    def rewind(self, index: int) -> None:
        """Go back: the log has lost what came behind an index."""
        self.index = min(self.index, index)

    # The same for all.

    def join(self, feed: Feed, position: Position) -> None:
        """Follow a feed from a position, or tell the client that this cannot be. One that has ended does not join."""
        if not self._ended:
            self._feed = feed
            self.begin(feed, position)

    @property
    def unsent_bytes(self) -> int:
        """How much of what was sent waits for its connection."""
        return self._unsent_bytes()

    def follow(self, index: int) -> None:
        """Be behind, at an index, until the head is reached."""
        feed = self._feed
        if feed is None:
            return
        self.index = index
        feed.watchers.fall_behind(self)
        if self.connection.paused or not self._write_on(feed):
            self._following = asyncio.get_running_loop().create_task(self._follow(feed))

    def end(self) -> None:
        """Follow no longer, or never. The connection stays as it is. Ending twice changes nothing."""
        if self._ended:
            return
        self._ended = True
        if self._feed is not None:
            self._feed.watchers.leave(self)
            self._feed = None
        if self._following is not None:
            self._following.cancel()

    def _write_on(self, feed: Feed) -> bool:
        """Write the next records of the window, if that reaches so far back; return whether it is live now."""
        if self.index < feed.window.start:
            return False
        if chunk := feed.window.after(self.index, self.encoding):
            self._write(chunk)
        if self.index < feed.window.cursor.index:
            return False
        # Without an await since the look into the window.
        feed.watchers.go_live(self)
        self.reached_head()
        return True

    def _write(self, chunk: Chunk) -> None:
        if chunk.data and self.connection.protocol.state is OPEN:
            self._send(chunk.data)
        self.index = chunk.last

    async def _follow(self, feed: Feed) -> None:
        connection = self.connection
        try:
            while not self._ended and connection.protocol.state is OPEN:
                await self._wait_for_turn()
                if self.index < feed.window.start:
                    chunk = await feed.read_back(self)
                    if not self._ended:
                        self._write(chunk)
                elif self._write_on(feed):
                    break
        except TimeoutError:
            self.fail(Failure.TOO_SLOW)
        except LogUnavailable as error:
            self.fail(Failure.UNREADABLE)
            _log.warning("a session of %s ends: %s", self.topic, error)
        except OSError:
            pass  # the connection is lost, which ends it
        except Exception:
            _log.exception("a session of %s failed", self.topic)
            self.fail(Failure.FAULT)

    async def _wait_for_turn(self) -> None:
        """Wait until the connection takes more, and others have had their turn. Raises TimeoutError and OSError."""
        connection = self.connection
        if not connection.paused:
            await asyncio.sleep(0)
        # Again and again: whoever else writes to it, and is woken first, may fill it.
        while connection.paused:
            async with asyncio.timeout(self._stall_s):
                await connection.drain()


def takes_deflated(connection: ServerConnection) -> bool:
    """Whether a client has negotiated compression that each of its like can read: without context takeover."""
    return any(
        isinstance(extension, PerMessageDeflate)
        and extension.local_no_context_takeover
        and extension.local_max_window_bits >= DEFLATE_BITS
        for extension in connection.protocol.extensions
    )
