"""The end of a process, in which what waits for Redis is still sent."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import sys
import time
from typing import Protocol

from streamer.core.errors import NodeFencedError, NotAcknowledged, StreamerError

_log = logging.getLogger(__name__)


class Flushable(Protocol):
    """What has updates to send. ``exit_flush_s`` is for how many seconds the process's end waits for it."""

    exit_flush_s: float

    def urge(self) -> int:
        """Try at once."""

    def flush(self, timeout_s: float, spent_s: float = 0.0) -> None:
        """Return once all is sent, else raise, after ``timeout_s`` seconds of which ``spent_s`` are over."""


_running: set[Flushable] = set()
began: float | None = None
"""When the process began to end; None while it does not. From then on nothing but `flush_all` flushes any more."""


def flush_at_end(publisher: Flushable) -> None:
    """From now on, flush it when the process ends."""
    _running.add(publisher)
    _flush_with_multiprocessing()


def forget(publisher: Flushable) -> None:
    """Do not flush it when the process ends."""
    _running.discard(publisher)


def flush_all() -> None:
    """Flush every publisher of the process, which ends; log what is lost.

    All share one time, that begins with the first call: for each its `exit_flush_s` counts from then.
    """
    global began
    if began is None:
        began = time.monotonic()
    publishers = list(_running)
    for publisher in publishers:
        publisher.urge()
    for publisher in publishers:
        try:
            publisher.flush(publisher.exit_flush_s, spent_s=time.monotonic() - began)
        except StreamerError as error:
            _running.discard(publisher)
            if isinstance(error, NotAcknowledged | NodeFencedError) and error.pending:
                _log.error("the process ends, and updates %s: %s", "wait" if error.stored else "are lost", error)


@functools.cache
def _flush_with_multiprocessing() -> None:
    """Have a child of multiprocessing flush at its end, which comes without atexit."""
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if util and process and process.parent_process():
        util.Finalize(None, flush_all, exitpriority=0)


def _after_fork() -> None:
    # The parent's publishers have no thread in the child.
    global began
    began = None
    _running.clear()
    _flush_with_multiprocessing.cache_clear()


atexit.register(flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
