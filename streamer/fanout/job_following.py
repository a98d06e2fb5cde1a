"""Following a job on whichever nodes run it: a follower for each node, joined when the node is known.

Of each node all comes in order, and once; of several nodes nothing says what comes first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING

from streamer.core.backoff import backoff
from streamer.core.cursor import Cursor
from streamer.core.errors import LogUnavailable
from streamer.fanout.following import Failure, Follower
from streamer.fanout.job_nodes import JobNodes

if TYPE_CHECKING:
    from streamer.fanout.hub import Hub

JOINING_AT_ONCE = 32

_log = logging.getLogger(__name__)


class JobFollowing:
    """A job on all nodes, for one client; for one event loop.

    Args:
        hub: where nodes are joined.
        job: the job.
        after: behind which cursors it goes on, by node. What is not there begins as ``history`` says.
        history: how many records come first of each node that is known when it begins, None for all.
        make: makes the follower of a node; None where the client may not watch that.
        on_failure: is called where nothing more can be followed.

    Of a node that is found later, all comes: it is all news. A node whose log cannot be read is tried again and again.
    """

    def __init__(
        self,
        hub: Hub,
        job: str,
        after: Mapping[str, Cursor],
        history: int | None,
        make: Callable[[str], Follower | None],
        on_failure: Callable[[Failure], None],
    ) -> None:
        self._hub, self._job, self._after, self._history = hub, job, after, history
        self._make, self._on_failure = make, on_failure
        self._on_head: Callable[[], None] | None = None
        self._followers: dict[str, Follower | None] = {}
        self._joining: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(JOINING_AT_ONCE)
        self._waited_for: set[str] = set()
        self._index: JobNodes | None = None
        self._ended = False

    def begin(self, index: JobNodes, on_head: Callable[[], None]) -> None:
        """Join all nodes that are known, and from now on those that appear.

        ``on_head`` is called once all that there was of the nodes that are known now has been written.
        """
        if self._ended:
            return
        self._index, self._on_head = index, on_head
        index.follows.add(self)
        self._waited_for = {*(nodes := self.known(index))}
        for node in nodes:
            self._join(node, self._history)
        self._look_whether_live()

    def known(self, index: JobNodes) -> list[str]:
        """The nodes that run the job, by its index or by the client's cursors."""
        return list(dict.fromkeys([*index.nodes, *self._after]))

    def appeared(self, node: str) -> None:
        """Join a node, unless it is followed already."""
        if node not in self._followers:
            self._join(node, None)

    def reached_head(self, node: str) -> None:
        """Take note that all that there was of a node is written."""
        if self._waited_for:
            self._waited_for.discard(node)
            self._look_whether_live()

    def end(self) -> None:
        """Follow no longer, or never. Ending twice changes nothing."""
        self._ended, self._on_head = True, None
        if self._index is not None:
            self._index.follows.discard(self)
        for task in self._joining:
            task.cancel()
        for follower in self._followers.values():
            if follower is not None:
                follower.end()
        self._followers.clear()

    def _look_whether_live(self) -> None:
        if not self._waited_for and self._on_head is not None:
            on_head, self._on_head = self._on_head, None
            on_head()

    def _join(self, node: str, history: int | None) -> None:
        follower = self._followers[node] = self._make(node)
        if follower is None:
            self._waited_for.discard(node)
            return
        task = asyncio.get_running_loop().create_task(self._join_in_the_end(follower, history))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join_in_the_end(self, follower: Follower, history: int | None) -> None:
        """Join a node, as often as it takes."""
        topic = follower.topic
        after = self._after.get(topic.node)
        try:
            for wait in backoff(Random()):
                try:
                    async with self._turns:
                        position = await self._hub.locate(topic, after, None if after else history)
                        return await self._hub.join(follower, position)
                except LogUnavailable as error:
                    _log.warning("joining %s failed: %s; next try in %.1f s", topic, error, wait)
                await asyncio.sleep(wait)
        except Exception:
            _log.exception("joining %s failed", topic)
            self._on_failure(Failure.FAULT)
