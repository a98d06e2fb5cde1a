"""A log of an earlier epoch than a cursor is read again, where somebody joins and where a feed reads on."""

from __future__ import annotations

from random import Random
from typing import cast

import pytest

from streamer.core.cursor import Cursor
from streamer.core.messages import plain_frame
from streamer.core.names import Topic
from streamer.core.records import Update
from streamer.core.window import Window
from streamer.fanout import fresh_reads
from streamer.fanout.feed import Counts, Feed
from streamer.fanout.locating import Locator, Position
from streamer.log.reading import Reader
from streamer.log.scripts import Page

TOPIC = Topic("n", "j")
OLD = Page("0a", 1, 141, False, 141, [], 0, None)
NEW = Page("0a", 9, 150, False, 144, [], 0, None)
"""What the master tells that was replaced, and its successor, of the log behind index 144."""


class Pages:
    """A reader that gives one page after the other, and the last one again and again."""

    def __init__(self, *pages: Page) -> None:
        self.left = list(pages)

    async def read(self, topic: Topic, cursor: Cursor, limit: int = 0) -> Page:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


async def locate(pages: Pages) -> Position:
    """Where somebody joins who has had index 144 of epoch 9."""
    window = Window(of_job=True, frame=plain_frame)
    window.restart("0a", 1, 141)

    async def catch_up() -> None:
        window.restart("0a", pages.left[0].epoch, pages.left[0].start)

    return await Locator(TOPIC, window, cast(Reader, pages), catch_up).locate(Cursor("0a", 9, 144), None)


async def test_a_master_that_was_replaced_and_still_answers_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_reads, "STALE_LOOK_S", 0.001)
    assert (await locate(Pages(OLD, OLD, OLD, NEW))).cursor == Cursor("0a", 9, 144)


async def test_an_epoch_that_is_lost_for_good_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_reads, "STALE_LOOK_S", 0.001)
    monkeypatch.setattr(fresh_reads, "STALE_S", 0.02)
    assert (await locate(Pages(OLD))).cursor == Cursor("0a", 1, 141)


def page(epoch: int, first: int, last: int, start: int) -> Page:
    """What a master of an epoch tells that has these records behind an index."""
    updates = [Update(epoch, index, index - 1, 0, "running", {}) for index in range(first, last + 1)]
    return Page("0a", epoch, last, False, start, updates, 0, None)


async def test_a_feed_takes_nothing_from_a_master_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_reads, "STALE_LOOK_S", 0.001)
    counts = Counts()
    pages = Pages(page(1, 142, 149, 141), page(1, 142, 152, 141), page(9, 145, 150, 144))
    feed = Feed(TOPIC, cast(Reader, pages), counts, lambda size: None, Random(1))
    feed.window.restart("0a", 9, 144)
    await feed.catch_up()
    assert feed.window.cursor == Cursor("0a", 9, 150)
    assert counts.rewinds == 0
