"""The streamer of a node: it observes the node's state, publishes each update, and serves those who watch."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from streamer.core.cursor import START
from streamer.core.names import ALL, Topic, check_job, check_node
from streamer.core.outbox import Entry
from streamer.core.records import Update, pack_tail
from streamer.fanout.hub import Hub
from streamer.fanout.session import Session
from streamer.log.node_log import NodeLog
from streamer.node_state import state
from streamer.publisher import Publisher
from streamer.settings import NodeSettings

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


class StateStreamer:
    """The streamer of one node in this process; `state_streaming` gives the instance of a node.

    All instances of a node, in all processes, share one log: one order, one index, one set of lists. What is not a
    coroutine may be called from any thread. After a fork the child's instance is a writer of its own; what the parent
    had accepted stays the parent's.
    """

    def __init__(self, node: str, settings: NodeSettings) -> None:
        self.node = check_node(node)
        self.settings = settings
        self._publisher = Publisher(node, settings)
        self._sessions: dict[ServerConnection, list[Session]] = {}

    def update(self, status: str, state: Mapping[str, Any], timestamp: int | None = None) -> None:
        """Publish an update of the node, and of the job that ``state["job"]`` names, if it does.

        ``timestamp`` is in ms since 1970, now if left out. It returns at once, without waiting for the network.

        Raises InvalidUpdate or InvalidName, with a sentence that says what is wrong; OutboxFull where too many wait
        for Redis; StreamerClosed.
        """
        if timestamp is None:
            timestamp = time.time_ns() // 1_000_000
        tail = pack_tail(status, state, timestamp)
        job = state.get("job")
        self._publisher.put(Entry(job if job is None else check_job(job), tail))

    def flush(self, timeout: float = 5.0) -> None:
        """Return once Redis has acknowledged every update accepted so far.

        Raises NotAcknowledged, which is also a TimeoutError, after ``timeout`` seconds; the updates still go out.
        """
        self._publisher.flush(timeout)

    @property
    def pending(self) -> int:
        """How many updates wait for Redis's acknowledgement."""
        return self._publisher.pending

    @property
    def index(self) -> int:
        """How many updates the node's log has, from all processes. Asks Redis; raises LogUnavailable."""
        with self._open_log() as log:
            return log.read(None, START, limit=0).head + 1

    def states(self, job: str = ALL) -> list[Update]:
        """Every update that is kept of a job, or of all. Asks Redis; raises LogUnavailable and InvalidName."""
        with self._open_log() as log:
            return log.read_all(_job_or_none(job))

    def clear(self, timeout: float = 5.0) -> None:
        """Start the node's log anew, for all processes; whoever watches is told.

        What this process accepted before goes out first. Raises NotAcknowledged after ``timeout`` seconds, and
        LogUnavailable; the log is then as it was.
        """
        self.flush(timeout)
        with self._open_log() as log:
            log.clear()

    @property
    def clients(self) -> dict[str, list[ServerConnection]]:
        """The connections subscribed through this instance, by job or `all`."""
        by_job: dict[str, list[ServerConnection]] = {}
        for connection, sessions in list(self._sessions.items()):
            for session in sessions:
                by_job.setdefault(session.topic.job or ALL, []).append(connection)
        return by_job

    async def subscribe(self, ws: ServerConnection, job: str = ALL) -> None:
        """Send a `websockets` server connection all updates of a job, or of the node: what is kept, then live.

        Returns once the connection has joined; what it is owed is sent in the background, as fast as it takes it.
        Subscribing twice to the same changes nothing. It ends with `unsubscribe` or with the connection; end it
        before sending anything else of your own that must not stand between. Raises LogUnavailable and InvalidName.
        """
        topic = Topic(self.node, _job_or_none(job))
        hub = _hub(self.settings)
        # In place before the first await, so that of two racing calls one joins.
        sessions = self._sessions.setdefault(ws, [])
        if any(session.topic == topic for session in sessions):
            return
        session = Session(ws, topic)
        sessions.append(session)
        session.on_end = self._forget
        try:
            await hub.join(session)
        except BaseException:
            self._forget(session)
            raise

    async def unsubscribe(self, ws: ServerConnection) -> None:
        """Send a connection no more updates, of any job of the node."""
        for session in list(self._sessions.get(ws, ())):
            session.end()

    def close(self, timeout: float = 5.0) -> None:
        """Observe the node's state no longer, flush, and end. The next `state_streaming` gives a new instance.

        Raises NotAcknowledged after ``timeout`` seconds; what is not acknowledged by then is given up.
        """
        state(self.node).remove_observer(self)
        with _streamers_lock:
            if _streamers.get(self.node) is self:
                del _streamers[self.node]
        self._publisher.close(timeout)

    def _forget(self, session: Session) -> None:
        sessions = self._sessions.get(session.connection, [])
        if session in sessions:
            sessions.remove(session)
        if not sessions:
            self._sessions.pop(session.connection, None)

    def _open_log(self) -> NodeLog:
        return NodeLog(self.settings.redis_url, self.settings.keys, self.node)

    def _renew_publisher(self) -> None:
        self._publisher = Publisher(self.node, self.settings)
        self._sessions = {}


def _job_or_none(job: str) -> str | None:
    return None if job == ALL else check_job(job)


_streamers: dict[str, StateStreamer] = {}
_streamers_lock = threading.Lock()
_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[NodeSettings, Hub]] = WeakKeyDictionary()


def state_streaming(node: str, settings: NodeSettings | None = None) -> StateStreamer:
    """Return this process's one streamer of a node, from any thread; the first call makes it.

    From then on it observes `state(node)`. Settings come from the environment where none are given; they count only
    in the call that makes the instance. Raises InvalidName and InvalidSetting.
    """
    with _streamers_lock:
        streamer = _streamers.get(node)
        if streamer is None:
            settings = settings or NodeSettings.from_environ(os.environ)
            streamer = _streamers[node] = StateStreamer(node, settings)
            state(node).add_observer(streamer)
        return streamer


def _hub(settings: NodeSettings) -> Hub:
    """The hub of the running event loop."""
    hubs = _hubs.setdefault(asyncio.get_running_loop(), {})
    if settings not in hubs:
        hubs[settings] = Hub(settings.redis_url, settings.keys)
    return hubs[settings]


def _after_fork() -> None:
    # Another thread of the parent may have held the lock, and the publishers' threads are not in the child.
    global _streamers_lock
    _streamers_lock = threading.Lock()
    _hubs.clear()
    for streamer in _streamers.values():
        streamer._renew_publisher()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
