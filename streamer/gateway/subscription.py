"""A topic that a v1 connection follows: what its client is told, in messages rather than by a close.

The topic is one that the client has subscribed to, or one of the nodes of a job that it follows on all nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.protocol import OPEN

from streamer.core.cursor import START, Cursor
from streamer.core.names import Topic
from streamer.core.protocol import Answer, Format, Gap, Id, Joined, Live, Reset, Rewind, Subscribed, Updates
from streamer.fanout.following import Failure, Follower, takes_deflated

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.fanout.feed import Feed
    from streamer.fanout.locating import Position

PUSH_BYTES = 64 * 1024
"""Nothing is pushed to a connection that has so much still to take; all its topics write to it, and share that."""


class Subscription(Follower):
    """A topic on a v1 connection, which others may share; for one event loop.

    ``after`` is where the client asked to go on. ``on_failure`` is told that it has ended, and why.
    """

    __slots__ = ("_after", "_format", "_id", "_on_failure", "_said_live")

    def __init__(
        self,
        connection: ServerConnection,
        format: Format,
        topic: Topic,
        after: Cursor | None,
        stall_s: float,
        on_failure: Callable[[Subscription, Failure], None],
        id: Id | None = None,
    ) -> None:
        super().__init__(connection, topic, Updates(topic, format, takes_deflated(connection)), stall_s)
        self._format, self._after, self._id, self._on_failure = format, after, id, on_failure
        self._said_live = False

    def begin(self, feed: Feed, position: Position) -> None:
        """Say where it joins and what its client has to know first, and follow from there."""
        cursor = position.cursor
        self._say(self._beginning(position))
        self.index = cursor.index
        if position.reset:
            feed.tell_reset(self)
        elif self._after is not None and cursor.index < self._after.index:
            self._say_rewind(cursor)
        if position.missing:
            feed.tell_gap(self, *position.missing)
        self.follow(self.index)

    def _beginning(self, position: Position) -> Answer:
        cursor, topic = position.cursor, self.topic
        return Subscribed(
            id=self._id,
            node=topic.node,
            job=topic.job,
            log=cursor.log_id or None,
            epoch=cursor.epoch,
            head=position.head,
            cursor=cursor.after,
            truncated=position.truncated,
        )

    def push(self, data: bytes) -> bool:
        """Write live updates, unless the connection has too much to take; none behind a close frame."""
        if self._unsent_bytes() > PUSH_BYTES:
            return False
        if self.connection.protocol.state is OPEN:
            self._send(data)
        return True

    def reached_head(self) -> None:
        """Tell the client, the first time."""
        if not self._said_live:
            self._said_live = True
            self._say_live()

    def _say_live(self) -> None:
        self._say(Live(node=self.topic.node, job=self.topic.job, cursor=self._here.after))

    def rewind(self, index: int) -> None:
        """Tell the client, if it has got anything of what is lost, and go back."""
        live = self._feed is not None and self._feed.watchers.is_live(self)
        if live or self.index > index:
            self._say_rewind(self._here.at(index))
        super().rewind(index)

    def gap(self, first: int, last: int) -> None:
        """Tell the client which updates it has missed for good, and go on behind them."""
        self.index = last
        topic, cursor = self.topic, self._here.at(last)
        self._say(Gap(node=topic.node, job=topic.job, first=first, last=last, cursor=cursor.after))

    def reset(self) -> None:
        """Tell the client that its cursor is not of this log, and go on at its start."""
        self.index = -1
        self._say(Reset(node=self.topic.node, job=self.topic.job, cursor=START.after))

    def fail(self, failure: Failure) -> None:
        """End."""
        self.end()
        self._on_failure(self, failure)

    @property
    def _here(self) -> Cursor:
        """The feed's position."""
        assert self._feed is not None
        return self._feed.window.cursor

    def _say_rewind(self, cursor: Cursor) -> None:
        self._say(Rewind(node=self.topic.node, job=self.topic.job, index=cursor.index, cursor=cursor.after))

    def _say(self, answer: Answer) -> None:
        if self.connection.protocol.state is OPEN:
            self._send(self._format.frame(answer))


class JobOfNode(Subscription):
    """One of the nodes of a job that a v1 connection follows on all nodes.

    ``on_head`` is called when all that there was is written.
    """

    __slots__ = ("_on_head",)

    def __init__(
        self,
        connection: ServerConnection,
        format: Format,
        topic: Topic,
        after: Cursor | None,
        stall_s: float,
        on_failure: Callable[[Subscription, Failure], None],
        on_head: Callable[[str], None],
    ) -> None:
        super().__init__(connection, format, topic, after, stall_s, on_failure)
        self._on_head = on_head

    def _beginning(self, position: Position) -> Answer:
        cursor, topic = position.cursor, self.topic
        return Joined(
            node=topic.node,
            job=topic.job or "",
            log=cursor.log_id or None,
            epoch=cursor.epoch,
            head=position.head,
            cursor=cursor.after,
            truncated=position.truncated,
        )

    def _say_live(self) -> None:
        self._on_head(self.topic.node)
