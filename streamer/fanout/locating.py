"""Where a watcher joins a topic: found in the feed's window or, for what is older or of another epoch, in the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from streamer.core.cursor import START, Cursor
from streamer.core.names import Topic
from streamer.core.window import Window
from streamer.fanout.fresh_reads import read_fresh
from streamer.fanout.shared_reads import SharedReads
from streamer.log.reading import Reader
from streamer.log.scripts import Page


@dataclass(frozen=True)
class Position:
    """Where a watcher joins: behind ``cursor``; ``head`` is the index of the topic's last record.

    ``truncated``: older records than those that follow are no longer kept. ``missing``: the first and the last index
    of what a resuming watcher has missed for good. ``reset``: its cursor is of another log.
    """

    cursor: Cursor
    head: int
    truncated: bool = False
    missing: tuple[int, int] | None = None
    reset: bool = False


class Locator:
    """Finds where watchers join one topic; for one event loop.

    Args:
        topic: what they join.
        window: what its feed holds.
        reader: where it reads the log.
        catch_up: has the feed read all that the log has at the moment.
    """

    def __init__(self, topic: Topic, window: Window, reader: Reader, catch_up: Callable[[], Awaitable[None]]) -> None:
        self._topic, self._window, self._reader, self._catch_up = topic, window, reader, catch_up
        self._shared: SharedReads[int | None, Position] = SharedReads()

    def in_window(self, after: Cursor | None, history: int | None) -> Position | None:
        """What `locate` finds without asking Redis, which is where a herd of clients comes back; else None."""
        window, mine = self._window, self._window.cursor
        if after is not None:
            known = (after.log_id == mine.log_id and after.epoch == mine.epoch) or not after.log_id
            inside = known and window.start <= after.index <= mine.index
            return Position(mine.at(after.index), mine.index) if inside else None
        if history is not None:
            index = window.before_last(history)
            return None if index is None else Position(mine.at(index), mine.index)
        return None if window.forgot else Position(mine.at(window.start), mine.index, truncated=window.start > -1)

    def holds(self, position: Position) -> bool:
        """Whether a watcher may still join at a position that was found earlier."""
        return position.reset or self._window.knows(position.cursor)

    async def locate(self, after: Cursor | None, history: int | None) -> Position:
        """Find where a watcher joins: behind its cursor or, without one, so many records before the head (None: all).

        Raises LogUnavailable where it has to ask Redis, in vain.
        """
        if position := self.in_window(after, history):
            return position
        if after is not None:
            page = await self._look_up(after)
            cursor = Cursor(page.log_id, page.epoch, page.start)
            return Position(cursor, self._window.cursor.index, missing=page.missing, reset=page.reset)
        # A herd without cursors asks once. A cursor may be newer than what was read for another a moment ago.
        return await self._shared.get(history, lambda: self._locate_in_log(history))

    async def _locate_in_log(self, history: int | None) -> Position:
        if history is not None:
            mine = self._window.cursor
            index = await self._reader.before_last(self._topic, history)
            if index is not None:
                return Position(mine.at(index), mine.index)
        page = await self._look_up(START)
        index = page.missing[1] if page.missing else -1
        return Position(Cursor(page.log_id, page.epoch, index), self._window.cursor.index, truncated=bool(page.missing))

    async def again(self, position: Position | None) -> Position:
        """Find where a watcher joins whose position, if any, was found earlier. Raises LogUnavailable."""
        if position is None:
            return await self.locate(None, None)
        if self.holds(position):
            return position
        found = await self.locate(position.cursor, None)
        return replace(found, truncated=position.truncated and not found.reset)

    async def _look_up(self, after: Cursor) -> Page:
        """Read a page behind a cursor that the feed, as it is on return, knows."""
        while True:
            page = await read_fresh(lambda: self._reader.read(self._topic, after, limit=1), after)
            mine = self._window.cursor
            same = (page.log_id, page.epoch) == (mine.log_id, mine.epoch)
            if not same or page.start < after.index or page.start > mine.index:
                # The log has lost its tail, has grown or was started anew, and the feed may not have found that out.
                await self._catch_up()
            if self._window.knows(page):
                return page

    def close(self) -> None:
        """End what is being looked up. Those who wait for it are cancelled."""
        self._shared.close()
