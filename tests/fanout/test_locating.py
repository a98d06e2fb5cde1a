"""Where a watcher joins whose cursor is of a later epoch than the log that is read."""

from __future__ import annotations

from typing import cast

import pytest

from streamer.core.cursor import Cursor
from streamer.core.messages import plain_frame
from streamer.core.names import Topic
from streamer.core.window import Window
from streamer.fanout import locating
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

    async def read(self, topic: Topic, cursor: Cursor, limit: int) -> Page:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


async def locate(pages: Pages) -> Position:
    """Where somebody joins who has had index 144 of epoch 9."""
    window = Window(of_job=True, frame=plain_frame)
    window.restart("0a", 1, 141)

    async def catch_up() -> None:
        window.restart("0a", pages.left[0].epoch, pages.left[0].start)

    return await Locator(TOPIC, window, cast(Reader, pages), catch_up).locate(Cursor("0a", 9, 144), None)


async def test_a_master_that_was_replaced_and_still_answers_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "STALE_LOOK_S", 0.001)
    assert (await locate(Pages(OLD, OLD, OLD, NEW))).cursor == Cursor("0a", 9, 144)


async def test_an_epoch_that_is_lost_for_good_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "STALE_LOOK_S", 0.001)
    monkeypatch.setattr(locating, "STALE_S", 0.02)
    assert (await locate(Pages(OLD))).cursor == Cursor("0a", 1, 141)
