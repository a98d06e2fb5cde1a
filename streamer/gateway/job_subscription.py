"""A job that a v1 connection follows on all nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from streamer.core.names import Topic
from streamer.core.protocol import Answer, Format, Live, Subscribe, Subscribed
from streamer.fanout.following import Failure
from streamer.fanout.hub import Hub
from streamer.fanout.job_following import JobFollowing
from streamer.fanout.job_nodes import JobNodes
from streamer.gateway.subscription import JobOfNode, Subscription

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


class JobSubscription:
    """A job on whichever nodes run it, on a v1 connection; for one event loop.

    Args:
        connection: where it is written.
        hub: where nodes are joined.
        format: how it is written.
        request: what the client has asked for.
        stall_s: how long the connection may take nothing.
        permits: says of each node whether the client may watch it.
        say: writes a message.
        on_failure: is told that it has ended, and why.
    """

    def __init__(
        self,
        connection: ServerConnection,
        hub: Hub,
        format: Format,
        request: Subscribe,
        stall_s: float,
        permits: Callable[[Topic], bool],
        say: Callable[[Answer], None],
        on_failure: Callable[[Failure], None],
    ) -> None:
        assert request.job is not None
        self._job, self._request, self._after = request.job, request, request.cursors
        self._connection, self._format, self._stall_s = connection, format, stall_s
        self._permits, self._say, self._on_failure = permits, say, on_failure
        self._following = JobFollowing(hub, self._job, self._after, request.records, self._make, self._failed)

    def begin(self, index: JobNodes) -> None:
        """Say which nodes are known, and follow them."""
        nodes = [node for node in self._following.known(index) if self._permits(Topic(node, self._job))]
        self._say(Subscribed(id=self._request.id, job=self._job, nodes=nodes))
        self._following.begin(index, lambda: self._say(Live(job=self._job)))

    def end(self) -> None:
        """Follow no longer, or never. Ending twice changes nothing."""
        self._following.end()

    def _make(self, node: str) -> JobOfNode | None:
        topic = Topic(node, self._job)
        if not self._permits(topic):
            return None
        return JobOfNode(
            self._connection,
            self._format,
            topic,
            self._after.get(node),
            self._stall_s,
            self._node_failed,
            self._following.reached_head,
        )

    def _node_failed(self, _: Subscription, failure: Failure) -> None:
        self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        self.end()
        self._on_failure(failure)
