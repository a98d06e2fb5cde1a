"""One connection of the plain endpoint that watches a job on all nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from websockets.protocol import OPEN

from streamer.core.cursor import Cursor
from streamer.core.messages import GAP, RESET, PlainOfNode, fitting_reason
from streamer.core.names import Topic
from streamer.fanout.closing import close_soon
from streamer.fanout.following import Failure, takes_deflated
from streamer.fanout.job_following import JobFollowing
from streamer.fanout.job_nodes import JobNodes
from streamer.fanout.session import Session, closing_of

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.fanout.hub import Hub

PUSH_BYTES = 64 * 1024
"""Nothing is pushed to a connection that has so much still to take; all nodes write to it, and share that."""


class NodeSession(Session):
    """One of the nodes of a job on a connection: what its client must be told is said by closing that for all."""

    __slots__ = ("_whole",)

    def __init__(self, connection: ServerConnection, topic: Topic, stall_s: float, whole: JobSession) -> None:
        super().__init__(connection, topic, stall_s)
        self.encoding = PlainOfNode(topic.node, takes_deflated(connection))
        self._whole = whole

    def push(self, data: bytes) -> bool:
        """Write live frames, unless the connection has too much to take; none behind a close frame."""
        if self._unsent_bytes() > PUSH_BYTES:
            return False
        if self.connection.protocol.state is OPEN:
            self._send(data)
        return True

    def reached_head(self) -> None:
        """Take note of it."""
        self._whole.following.reached_head(self.topic.node)

    def gap(self, first: int, last: int) -> None:
        """Tell the client where it can go on, and which updates it has missed for good."""
        assert self._feed is not None
        cursor = self._feed.window.cursor.at(last)
        self.close(GAP, f"gap: go on with {cursor.token}; {first} to {last} are no longer kept of {self.topic.node}")

    def reset(self) -> None:
        """Tell the client of which node its cursor is not of this log."""
        self.close(RESET, f"reset: come back without the cursor of {self.topic.node}")

    def how_to_go_on(self, index: int | None = None) -> str:
        """Say to a client how it comes back."""
        return self._whole.how_to_go_on()

    def close(self, code: int, reason: str) -> None:
        """End all nodes, and close the connection."""
        self._whole.close(code, reason)


class JobSession:
    """A connection of the plain endpoint on a job on all nodes, for one event loop; its messages have a ``node``.

    Nobody else may close it while it is open. The arguments are those of JobFollowing and Session; ``permits`` says of
    each node whether the client may watch it.
    """

    def __init__(
        self,
        connection: ServerConnection,
        hub: Hub,
        job: str,
        after: Mapping[str, Cursor],
        history: int | None,
        stall_s: float,
        permits: Callable[[Topic], bool] = lambda topic: True,
    ) -> None:
        self._connection, self.job, self._stall_s, self._permits = connection, job, stall_s, permits
        self.following = JobFollowing(hub, job, after, history, self._make, self._failed)
        connection.connection_lost_waiter.add_done_callback(self._connection_lost)

    def begin(self, index: JobNodes) -> None:
        """Follow the job on the nodes of its index."""
        self.following.begin(index, lambda: None)

    def how_to_go_on(self) -> str:
        """Say to a client how it comes back."""
        return "go on with the last cursor of each node"

    def close(self, code: int, reason: str) -> None:
        """End, and close the connection in the background."""
        self.end()
        close_soon(self._connection, code, fitting_reason(reason))

    def end(self) -> None:
        """Follow no longer, or never. The connection stays as it is. Ending twice changes nothing."""
        self.following.end()
        self._connection.connection_lost_waiter.remove_done_callback(self._connection_lost)

    def _make(self, node: str) -> NodeSession | None:
        topic = Topic(node, self.job)
        return NodeSession(self._connection, topic, self._stall_s, self) if self._permits(topic) else None

    def _failed(self, failure: Failure) -> None:
        code, why = closing_of(failure, self._stall_s)
        self.close(code, f"{why}; {self.how_to_go_on()}")

    def _connection_lost(self, _: asyncio.Future[None]) -> None:
        self.end()
