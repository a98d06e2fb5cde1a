"""Those who follow a feed: live, or behind and reading on by themselves."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from streamer.core.window import Encoding


class Watcher(Protocol):
    """Whoever follows a feed. All methods are called in the event loop and must not block."""

    index: int
    encoding: Encoding | None

    @property
    def connection(self) -> Hashable:
        """Where it writes, which it may share with other watchers."""

    @property
    def unsent_bytes(self) -> int:
        """How much of what was sent waits for its connection."""

    def push(self, data: bytes) -> bool:
        """Send live records; False, and nothing sent, where the connection takes no more at the moment."""

    def follow(self, index: int) -> None:
        """Read on from an index until the head is reached, then be live."""

    def rewind(self, index: int) -> None:
        """The log has lost what came behind an index: what follows it now is going to be sent."""

    def gap(self, first: int, last: int) -> None:
        """Records were missed and are no longer kept. The watch ends, or goes on behind them."""

    def reset(self) -> None:
        """The log was started anew. The watch ends, or goes on at the start of the new one."""


class Watchers:
    """The watchers of one feed. ``behind`` are those that are not at the head."""

    def __init__(self) -> None:
        self._live: dict[Encoding | None, set[Watcher]] = {}
        self.behind: set[Watcher] = set()

    def __bool__(self) -> bool:
        """Whether anybody follows."""
        return bool(self.behind or any(self._live.values()))

    @property
    def live(self) -> list[Watcher]:
        """Those at the head, who are pushed to."""
        return [watcher for watchers in self._live.values() for watcher in watchers]

    @property
    def all(self) -> list[Watcher]:
        """All who follow."""
        return [*self.live, *self.behind]

    @property
    def live_count(self) -> int:
        """How many are at the head."""
        return sum(map(len, self._live.values()))

    def is_live(self, watcher: Watcher) -> bool:
        """Whether a watcher is pushed to."""
        return watcher in self._live_like(watcher)

    def fall_behind(self, watcher: Watcher) -> None:
        """Have a watcher read on by itself."""
        self._live_like(watcher).discard(watcher)
        self.behind.add(watcher)

    def go_live(self, watcher: Watcher) -> None:
        """Push to a watcher that is at the head."""
        self.behind.discard(watcher)
        self._live_like(watcher).add(watcher)

    def leave(self, watcher: Watcher) -> None:
        """Have nothing more to do with a watcher."""
        self.behind.discard(watcher)
        self._live_like(watcher).discard(watcher)

    def push(self, records: Callable[[Encoding | None], bytes]) -> list[Watcher]:
        """Push records to all who are live, in the encoding that each wants; return those who could not take them."""
        stalled: list[Watcher] = []
        for encoding, watchers in self._live.items():
            if watchers:
                data = records(encoding)
                stalled += [watcher for watcher in watchers if not watcher.push(data)]
        return stalled

    def _live_like(self, watcher: Watcher) -> set[Watcher]:
        return self._live.setdefault(watcher.encoding, set())
