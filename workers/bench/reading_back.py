"""Verifies what was published by reading the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streamer.core.cursor import START
from streamer.core.records import Update
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from workers.bench.content import Content, View
from workers.bench.tally import Tally


def read_back(url: str, prefix: str, node: str, content: Content, reached: Callable[[int], None]) -> list[str]:
    """Say what of the content the node's log does not hold once, in order and unaltered. Raises LogUnavailable."""
    tally = Tally(View(content), 0)
    cursor, more = START, True
    with NodeLog(url, Keys(prefix), node) as log:
        while more:
            page = log.read(None, cursor)
            check(content, tally, page.updates)
            if more := bool(page.updates):
                cursor = page.updates[-1].cursor(page.log_id)
                reached(cursor.index + 1)
    return [f"the log {sentence}" for sentence in tally.sentences()]


def check(content: Content, tally: Tally, updates: Iterable[Update]) -> None:
    """Put updates of the log into a tally."""
    for update in updates:
        known = 0 <= update.index < content.updates
        fault = (
            content.fault(update.index, update.status, update.state, update.timestamp, update.previous)
            if known
            else "it was never published"
        )
        if fault:
            tally.add_altered(update.index if known else None, f"update {update.index}: {fault}")
        else:
            tally.add(update.index)
