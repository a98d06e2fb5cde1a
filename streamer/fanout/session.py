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

from websockets.protocol import State

from streamer.core.cursor import Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.messages import plain_frame
from streamer.core.names import Topic
from streamer.core.window import Chunk

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.fanout.feed import Feed, Position
    from streamer.log.reading import Reader

RESET = 4001
GAP = 4002
TOO_SLOW = 4003
"""Close codes of our own (RFC 6455, section 7.4.2). After all of them a client may come back at once."""

TRY_AGAIN_LATER = 1013

_log = logging.getLogger(__name__)
_closing: set[asyncio.Task[None]] = set()


class Session:
    """A `websockets` server connection on a topic, for one event loop.

    ``index`` is that of the last record written to it; while it is live, the feed's cursor is the truth instead.
    ``on_end`` is called once, when the session ends, for whatever reason.
    """

    def __init__(self, connection: ServerConnection, topic: Topic, max_lag: int = 0) -> None:
        self.connection = connection
        self.topic = topic
        self.index = -1
        self.on_end: Callable[[Session], None] | None = None
        self._max_lag = max_lag
        self._feed: Feed | None = None
        self._reader: Reader | None = None
        self._following: asyncio.Task[None] | None = None

    def join(self, feed: Feed, reader: Reader, position: Position) -> None:
        """Follow a feed from a position, or tell the client that this cannot be."""
        self._feed, self._reader = feed, reader
        # However the connection ends, and whoever sees it first: nothing of the session stays.
        self.connection.connection_lost_waiter.add_done_callback(lambda _: self.end())
        if position.reset:
            self.reset()
        elif position.missing:
            self.gap(*position.missing)
        else:
            self.follow(position.index)

    def push(self, data: bytes) -> bool:
        """Write live frames, unless the connection takes no more."""
        if self.connection.paused:
            return False
        if self.connection.protocol.state is State.OPEN:
            self.connection.transport.write(data)
        return True

    def follow(self, index: int) -> None:
        """Be behind, at an index, until the head is reached."""
        feed = self._feed
        if feed is None:
            return
        self.index = index
        feed.live.discard(self)
        feed.behind.add(self)
        self._following = asyncio.get_running_loop().create_task(self._follow(feed))

    def gap(self, first: int, last: int) -> None:
        """Tell the client which updates it has missed for good, and where it can go on."""
        self.close(GAP, f"gap: updates {first} to {last} are no longer kept; {self.how_to_go_on(last)}")

    def reset(self) -> None:
        """Tell the client that the log was started anew."""
        self.close(RESET, "reset: the log was started anew; come back without after=")

    def how_to_go_on(self, index: int | None = None) -> str:
        """Say to a client how it comes back behind an index, by default behind what it was sent."""
        if self._feed is None or not self._feed.window.cursor.log_id:
            return "come back"
        mine = self._feed.window.cursor
        if index is None:
            index = mine.index if self in self._feed.live else self.index
        return f"go on with after={Cursor(mine.log_id, mine.epoch, index).token}"

    def close(self, code: int, reason: str) -> None:
        """End the session and close the connection, in the background."""
        self.end()
        task = asyncio.get_running_loop().create_task(self.connection.close(code, reason))
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    def end(self) -> None:
        """Follow no longer. The connection stays as it is. Ending twice changes nothing."""
        feed, self._feed = self._feed, None
        if feed is None:
            return
        feed.live.discard(self)
        feed.behind.discard(self)
        if self._following is not None:
            self._following.cancel()
        if self.on_end is not None:
            self.on_end(self)

    async def _follow(self, feed: Feed) -> None:
        connection = self.connection
        try:
            while True:
                await connection.drain()
                if self._max_lag and (lag := feed.window.cursor.index - self.index) > self._max_lag:
                    self.close(TOO_SLOW, f"too slow: {lag} updates behind; {self.how_to_go_on()}")
                    return
                chunk = await self._from_log() if self.index < feed.window.start else feed.window.after(self.index)
                if self._feed is None or connection.protocol.state is not State.OPEN:
                    return
                if chunk is None:
                    # Without an await since the look into the window.
                    self._following = None
                    feed.behind.discard(self)
                    feed.live.add(self)
                    return
                connection.transport.write(chunk.data)
                self.index = chunk.last
                await asyncio.sleep(0)
        except LogUnavailable as error:
            self.close(TRY_AGAIN_LATER, f"the history cannot be read now; {self.how_to_go_on()}")
            _log.warning("a session of %s ends: %s", self.topic, error)
        except OSError:
            pass  # the connection is lost, which ends the session

    async def _from_log(self) -> Chunk | None:
        """The next frames from the log, for a client further behind than the window."""
        assert self._feed is not None
        assert self._reader is not None
        window, era = self._feed.window, self._feed.era
        log_id = window.cursor.log_id
        page = await self._reader.read(self.topic, Cursor(log_id, 0, self.index))
        if self._feed is None:
            return None
        if self._feed.era is not era:
            return Chunk(b"", self.index)  # the feed was set back meanwhile: look again
        if page.reset:
            self.reset()
            return None
        if page.missing or not page.updates:
            self.gap(*(page.missing or (self.index + 1, window.start)))
            return None
        return Chunk(b"".join([plain_frame(log_id, update) for update in page.updates]), page.updates[-1].index)
