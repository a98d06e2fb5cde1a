"""A topic that a v1 connection follows: what its client is told, in messages rather than by a close."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.protocol import OPEN

from streamer.core.cursor import START, Cursor
from streamer.core.protocol import Answer, Format, Gap, Live, Reset, Rewind, Subscribe, Subscribed, Updates
from streamer.fanout.following import Failure, Follower, takes_deflated

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.fanout.feed import Feed
    from streamer.fanout.locating import Position

PUSH_BYTES = 64 * 1024
"""Nothing is pushed to a connection that has so much still to take; all its topics write to it, and share that."""


class Subscription(Follower):
    """A topic on a v1 connection, which others may share; for one event loop.

    ``on_failure`` is told that it has ended, and why.
    """

    __slots__ = ("_format", "_on_failure", "_request", "_said_live")

    def __init__(
        self,
        connection: ServerConnection,
        format: Format,
        request: Subscribe,
        stall_s: float,
        on_failure: Callable[[Subscription, Failure], None],
    ) -> None:
        encoding = Updates(request.topic, format, takes_deflated(connection))
        super().__init__(connection, request.topic, encoding, stall_s)
        self._format, self._request, self._on_failure = format, request, on_failure
        self._said_live = False

    def begin(self, feed: Feed, position: Position) -> None:
        """Say where it joins and what its client has to know first, and follow from there."""
        cursor, request = position.cursor, self._request
        self._say(
            Subscribed(
                id=request.id,
                node=request.node,
                job=request.job,
                log=cursor.log_id or None,
                epoch=cursor.epoch,
                head=position.head,
                cursor=cursor.after,
                truncated=position.truncated,
            )
        )
        self.index = cursor.index
        if position.reset:
            feed.tell_reset(self)
        elif request.cursor is not None and cursor.index < request.cursor.index:
            self._say_rewind(cursor)
        if position.missing:
            feed.tell_gap(self, *position.missing)
        self.follow(self.index)

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
