"""A node's state, as its own process keeps it, and those who observe it."""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from streamer.core.names import check_node

HISTORY_LIMIT = 1000

_log = logging.getLogger(__name__)


class StateObserver(Protocol):
    """Whoever wants to know of a node's state changes."""

    def update(self, status: str, state: Mapping[str, Any], timestamp: int) -> None:
        """Take note of a state change. It must not block: the node waits for it."""


class StateChange(NamedTuple):
    """One state change; ``timestamp`` is in ms since 1970."""

    status: str
    state: dict[str, Any]
    timestamp: int


class NodeState:
    """The state of one node in this process; `state` gives the instance of a node.

    ``shared`` holds fields that every state gets, unless it has them itself. ``history`` holds the last state changes.
    All methods may be called from any thread, and by observers; all observers learn of all changes in the order of
    ``history``.
    """

    def __init__(self, node: str, history_limit: int = HISTORY_LIMIT) -> None:
        self.node = check_node(node)
        self.shared: dict[str, Any] = {}
        self.history: deque[StateChange] = deque(maxlen=history_limit)
        # By id, so that each way of access is one atomic operation and needs no lock: whoever adds or removes an
        # observer does not wait for one that is at work.
        self._observers: dict[int, StateObserver] = {}
        self._untold: deque[StateChange] = deque()
        self._telling: int | None = None
        # Reentrant, so that an observer may change the state in turn.
        self._lock = threading.RLock()
        _instances.add(self)

    @property
    def status(self) -> str | None:
        """The status of the last change, None before the first."""
        try:
            return self.history[-1].status
        except IndexError:
            return None

    @property
    def node_info(self) -> dict[str, Any]:
        """Where the node runs: its name, host, process, platform and Python."""
        return {
            "node": self.node,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "program": sys.argv[0] if sys.argv else "",
        }

    def add_state(self, status: str, state: Mapping[str, Any] | None = None) -> StateChange:
        """Change the state and tell the observers; return the change, with its time.

        Once it returns, the observers know of the change; only where an observer calls it, they learn of that change
        after the one that is being told. Changes by other threads wait meanwhile. An observer that raises is logged
        and does not keep the others from learning of the change.
        """
        failures: list[tuple[str, Exception]] = []
        with self._lock:
            change = StateChange(status, {**self.shared, **(state or {})}, time.time_ns() // 1_000_000)
            self.history.append(change)
            self._untold.append(change)
            if self._telling is None:
                self._telling = threading.get_ident()
                try:
                    while self._untold:
                        failures += self._tell(self._untold.popleft())
                finally:
                    self._telling = None
        # Without the lock: whoever handles what is logged may wait for a thread that changes the state.
        for failed, error in failures:
            _log.error("an observer of node %r failed at %r", self.node, failed, exc_info=error)
        return change

    def add_observer(self, observer: StateObserver) -> None:
        """Tell an observer of all changes from now on; one that is told already is not told twice."""
        self._observers.setdefault(id(observer), observer)

    def remove_observer(self, observer: StateObserver) -> None:
        """Tell an observer no more. A change that is being told in another thread may still reach it."""
        self._observers.pop(id(observer), None)

    def clear(self) -> None:
        """Forget the history and the shared fields. Observers stay, and what they have published stays published."""
        with self._lock:
            self.history.clear()
            self.shared.clear()

    def _tell(self, change: StateChange) -> Iterator[tuple[str, Exception]]:
        for observer in list(self._observers.values()):
            try:
                observer.update(*change)
            except Exception as error:
                yield change.status, error

    def _after_fork(self) -> None:
        # Another thread of the parent may have held the lock, and that thread is not in the child.
        if self._telling != threading.get_ident():
            self._lock, self._telling = threading.RLock(), None
            self._untold.clear()


_instances: WeakSet[NodeState] = WeakSet()
_states: dict[str, NodeState] = {}
_states_lock = threading.Lock()


def state(node: str) -> NodeState:
    """Return this process's one NodeState of a node, from any thread. Raises InvalidName."""
    check_node(node)
    with _states_lock:
        if node not in _states:
            _states[node] = NodeState(node)
        return _states[node]


def _after_fork() -> None:
    global _states_lock
    _states_lock = threading.Lock()
    for node_state in _instances:
        node_state._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
