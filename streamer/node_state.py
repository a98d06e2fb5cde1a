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
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

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
    All methods may be called from any thread; observers learn of changes in the order of ``history``.
    """

    def __init__(self, node: str, history_limit: int = HISTORY_LIMIT) -> None:
        self.node = check_node(node)
        self.shared: dict[str, Any] = {}
        self.history: deque[StateChange] = deque(maxlen=history_limit)
        self._observers: tuple[StateObserver, ...] = ()
        # Reentrant, so that an observer may change the state in turn.
        self._lock = threading.RLock()

    @property
    def status(self) -> str | None:
        """The status of the last change, None before the first."""
        return self.history[-1].status if self.history else None

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

        An observer that raises is logged and does not keep the others from learning of the change.
        """
        with self._lock:
            change = StateChange(status, {**self.shared, **(state or {})}, time.time_ns() // 1_000_000)
            self.history.append(change)
            for observer in self._observers:
                try:
                    observer.update(*change)
                except Exception:
                    _log.exception("an observer of node %r failed at %r", self.node, status)
        return change

    def add_observer(self, observer: StateObserver) -> None:
        """Tell an observer of all changes from now on; one that is told already is not told twice."""
        with self._lock:
            if all(known is not observer for known in self._observers):
                self._observers += (observer,)

    def remove_observer(self, observer: StateObserver) -> None:
        """Tell an observer no more."""
        with self._lock:
            self._observers = tuple(known for known in self._observers if known is not observer)

    def clear(self) -> None:
        """Forget the history and the shared fields. Observers stay, and what they have published stays published."""
        with self._lock:
            self.history.clear()
            self.shared.clear()

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()


_states: dict[str, NodeState] = {}
_states_lock = threading.Lock()


def state(node: str) -> NodeState:
    """Return this process's one NodeState of a node, from any thread. Raises InvalidName."""
    with _states_lock:
        if node not in _states:
            _states[check_node(node)] = NodeState(node)
        return _states[node]


def _after_fork() -> None:
    # Another thread of the parent may have held a lock, and that thread is not in the child.
    global _states_lock
    _states_lock = threading.Lock()
    for node_state in _states.values():
        node_state._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
