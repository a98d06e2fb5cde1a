"""Who is to be told that the time is over for which they were let in."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

LOOK_S = 1.0

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item", bound=Hashable)


class Expiries(Generic[_Item]):
    """Calls back for each item, within a second or two after its time has come; for one event loop.

    One timer serves them all, and those of a second share a set, so that an item costs little more than its place in
    it. Times are the wall clock's, also where that is set anew meanwhile.
    """

    def __init__(self, expire: Callable[[_Item], None], clock: Callable[[], float] = time.time) -> None:
        self._expire, self._clock = expire, clock
        self._items: dict[int, set[_Item]] = {}
        self._seconds: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: _Item, expires_at: float | None) -> None:
        """Call back for an item at a time, in seconds since 1970; None is for never."""
        if expires_at is None:
            return
        second = math.ceil(expires_at)
        if second not in self._items:
            self._items[second] = set()
            heappush(self._seconds, second)
        self._items[second].add(item)
        if self._timer is None:
            self._set_timer()

    def discard(self, item: _Item, expires_at: float | None) -> None:
        """Do not call back for an item that was added with this time. It may be gone already."""
        if expires_at is not None:
            self._items.get(math.ceil(expires_at), set()).discard(item)

    def close(self) -> None:
        """Call back for nobody any more."""
        self._items.clear()
        self._seconds.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        now = self._clock()
        while self._seconds and self._seconds[0] <= now:
            for item in self._items.pop(heappop(self._seconds)):
                try:
                    self._expire(item)
                except Exception:
                    _log.exception("ending what has expired failed")
        self._timer = None
        if self._seconds:
            self._set_timer()
