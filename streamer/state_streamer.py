"""The streamer of a node: it observes the node's state, publishes each update, and serves those who watch."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from streamer.core.cursor import START
from streamer.core.entries import Entry
from streamer.core.errors import InvalidSetting, NodeFencedError
from streamer.core.names import ALL, Topic, check_job, check_node
from streamer.core.records import Update, pack_tail
from streamer.core.statistics import Statistics
from streamer.fanout.hub import Hub
from streamer.fanout.session import GuestSession, Session
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber
from streamer.node_state import state
from streamer.publisher import Publisher
from streamer.settings import NodeSettings

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


class StateStreamer:
    """The streamer of one node in this process; `state_streaming` gives the instance of a node.

    All instances of a node, in all processes, share one log: one order, one index, one set of lists. What is not a
    coroutine may be called from any thread; a connection is served in the event loop that it belongs to, and in no
    other. After a fork the child's instance is a writer of its own, with no connections; what the parent had accepted
    stays the parent's.
    """

    def __init__(self, node: str, settings: NodeSettings, exclusive: bool = False) -> None:
        self.node = check_node(node)
        self.settings = settings
        self._publisher = Publisher(node, settings, exclusive=exclusive)
        # With each session the task in which it joins.
        self._sessions: dict[ServerConnection, dict[Topic, tuple[Session, asyncio.Task[None]]]] = {}
        with _streamers_lock:
            _instances.add(self)

    def update(self, status: str, state: Mapping[str, Any], timestamp: int | None = None) -> None:
        """Publish an update of the node, and of the job that ``state["job"]`` names, if it does.

        ``timestamp`` is in ms since 1970, now if left out. It returns at once, without waiting for the network, unless
        ``outbox_full`` is ``block``; only at the interpreter's exit it flushes, within what is left of
        ``exit_flush_s``. With ``outbox_dir`` it writes the update to the disk first.

        Raises InvalidUpdate or InvalidName, with a sentence that says what is wrong; OutboxFull where too many wait
        for Redis; OutboxNotWritable where the disk does not take it; NodeFencedError where another process has the
        node for itself; StreamerClosed; RuntimeError where the first update finds that no thread can be started. The
        update is then not accepted.
        """
        if timestamp is None:
            timestamp = time.time_ns() // 1_000_000
        tail = pack_tail(status, state, timestamp)
        job = state.get("job")
        self._publisher.put(Entry(job if job is None else check_job(job), tail))

    def flush(self, timeout: float = 5.0) -> None:
        """Return once Redis has acknowledged every update accepted so far.

        Raises NotAcknowledged, which is also a TimeoutError, after ``timeout`` seconds; the updates still go out.
        Raises NodeFencedError where another process has the node for itself.
        """
        self._publisher.flush(timeout)

    @property
    def exclusive(self) -> bool:
        """Whether this process has, or had, the node for itself."""
        return self._publisher.exclusive

    @property
    def pending(self) -> int:
        """How many updates wait for Redis's acknowledgement."""
        return self._publisher.pending

    def statistics(self) -> Statistics:
        """What there is to tell of the publishing, for metrics. It does not wait for the network."""
        return self._publisher.statistics()

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
        for connection, topics in list(self._sessions.items()):
            for topic in list(topics):
                by_job.setdefault(topic.job or ALL, []).append(connection)
        return by_job

    async def subscribe(self, ws: ServerConnection, job: str = ALL) -> None:
        """Send a `websockets` server connection all updates of a job, or of the node: what is kept, then live.

        Returns once the connection has joined; what it is owed is sent in the background, as fast as it takes it.
        Subscribing twice to the same changes nothing: a call that meets another one's joining has its outcome. It
        ends with `unsubscribe`, which may come before it has joined, or with the connection, with `close` or the event
        loop; end it before sending anything else of your own that must not stand between. May be cancelled: the
        connection is then not subscribed. Raises LogUnavailable, InvalidName and StreamerClosed.
        """
        topic = Topic(self.node, _job_or_none(job))
        while watching := self._sessions.get(ws, {}).get(topic):
            _, joining = watching
            await asyncio.wait([joining])
            if not joining.cancelled():
                return joining.result()
        hub = _hub(self.settings)
        session = GuestSession(ws, topic, hub.settings.stall_s)
        session.on_end = self._forget
        joining = asyncio.create_task(hub.join(session))
        # In place before the first await, so that of two racing calls one joins.
        self._sessions.setdefault(ws, {})[topic] = session, joining
        try:
            # After it is in place, so that either this or `close` sees the other.
            self._publisher.check_open()
            await joining
        except BaseException:
            joining.cancel()
            session.end()
            raise

    async def unsubscribe(self, ws: ServerConnection) -> None:
        """Send a connection no more updates, of any job of the node."""
        self._end_sessions(ws)

    def close(self, timeout: float = 5.0) -> None:
        """Observe the node's state no longer, flush, and send no more. The next `state_streaming` gives a new instance.

        Connections stay open. Raises NotAcknowledged after ``timeout`` seconds, or NodeFencedError; what is not
        acknowledged by then is given up, unless it is in a durable outbox. The claim of an exclusive node is given up.
        """
        with _streamers_lock:
            state(self.node).remove_observer(self)
            if _streamers.get(self.node) is self:
                del _streamers[self.node]
        try:
            self._publisher.close(timeout)
        finally:
            for ws in list(self._sessions):
                with suppress(RuntimeError):  # the connection's event loop is closed
                    ws.loop.call_soon_threadsafe(self._end_sessions, ws)

    def _end_sessions(self, ws: ServerConnection) -> None:
        for session, _ in list(self._sessions.get(ws, {}).values()):
            session.end()

    def _forget(self, session: Session) -> None:
        topics = self._sessions.get(session.connection, {})
        if session.topic in topics and topics[session.topic][0] is session:
            del topics[session.topic]
            if not topics:
                del self._sessions[session.connection]

    def _open_log(self) -> NodeLog:
        return NodeLog(self.settings.redis_url, self.settings.keys, self.node)

    def _after_fork(self) -> None:
        self._publisher = self._publisher.for_child()
        self._sessions = {}


def _job_or_none(job: str) -> str | None:
    return None if job == ALL else check_job(job)


_instances: WeakSet[StateStreamer] = WeakSet()
_streamers: dict[str, StateStreamer] = {}
_streamers_lock = threading.RLock()
_hubs: dict[tuple[asyncio.AbstractEventLoop, NodeSettings], tuple[Hub, asyncio.Task[None]]] = {}


def state_streaming(node: str, settings: NodeSettings | None = None, exclusive: bool = False) -> StateStreamer:
    """Return this process's one streamer of a node, from any thread; the first call makes it.

    From then on it observes `state(node)`. Settings come from the environment where none are given; they count only
    in the call that makes the instance.

    With ``exclusive`` the node is claimed for this process: while the claim holds, whatever any other process publishes
    for the node is refused. The call waits for Redis's answer, and raises NodeFencedError where another process has
    claimed the node; that ends with its `close`, or ``lease_s`` seconds after it was last heard of. Where Redis does
    not answer, the claim is made later, before anything is sent.

    Raises InvalidName and InvalidSetting, also where the instance is there already and is not exclusive, and
    OutboxNotWritable.
    """
    check_node(node)
    with _streamers_lock:
        streamer = _streamers.get(node)
        if streamer is not None:
            if exclusive and not streamer.exclusive:
                raise InvalidSetting(f"the streamer of node {node!r} is there already, and is not exclusive")
            return streamer
        settings = settings or NodeSettings.from_environ(os.environ)
        streamer = _streamers[node] = StateStreamer(node, settings, exclusive)
        # It waits for nobody: an observer that is at work may be asking for the streamer.
        state(node).add_observer(streamer)
    if exclusive:
        _claim(streamer)
    return streamer


def _claim(streamer: StateStreamer) -> None:
    try:
        streamer._publisher.claim()
    except NodeFencedError:
        with suppress(NodeFencedError):
            streamer.close(timeout=0)
        raise


def streamers() -> list[StateStreamer]:
    """This process's streamers, one for each node. May be called from any thread."""
    with _streamers_lock:
        return list(_streamers.values())


def _hub(settings: NodeSettings) -> Hub:
    """The running event loop's hub, which lasts as long as the loop."""
    loop = asyncio.get_running_loop()
    if (loop, settings) not in _hubs:
        for key in list(_hubs):
            if key[0].is_closed():  # with its tasks pending, else the hub would have been closed
                _hubs.pop(key, None)
        reader = Reader(settings.redis_url, settings.keys)
        hub = Hub(reader, Subscriber(settings.redis_url, keys=settings.keys), settings.keys)
        _hubs[loop, settings] = hub, loop.create_task(_close_with_loop(loop, settings, hub))
    return _hubs[loop, settings][0]


async def _close_with_loop(loop: asyncio.AbstractEventLoop, settings: NodeSettings, hub: Hub) -> None:
    """Close a hub when its event loop ends, which cancels all tasks first."""
    try:
        while True:  # noqa: ASYNC110 - unlike an Event's, the loop holds on to this wait, in a forked child too
            await asyncio.sleep(3600)
    except asyncio.CancelledError:
        _hubs.pop((loop, settings), None)
        with _streamers_lock:
            streamers = list(_instances)
        for streamer in streamers:
            for ws in list(streamer._sessions):
                if ws.loop is loop:
                    streamer._end_sessions(ws)
        await hub.aclose()
        raise


def _after_fork() -> None:
    # Another thread of the parent may have held the lock, and the publishers' threads are not in the child.
    global _streamers_lock
    _streamers_lock = threading.RLock()
    _hubs.clear()
    for streamer in _instances:
        streamer._after_fork()
    for node, streamer in _streamers.items():
        state(node).add_observer(streamer)  # which the other thread was about to do


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
