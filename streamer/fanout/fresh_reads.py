"""Reading a log whose master may have been replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from streamer.core.cursor import Cursor
from streamer.log.scripts import Page

STALE_S = 3.0
"""A log that is of an older epoch than a cursor is most likely that of a master which was replaced, and still answers:
whoever believed it would get twice what the cursor's owner has from the new one. It is asked again for so long, in
which readers find the new master. Then the epoch counts as lost, and the cursor goes back to what there is."""

STALE_LOOK_S = 0.25


async def read_fresh(read: Callable[[], Awaitable[Page]], after: Cursor) -> Page:
    """Read a page behind a cursor, again for STALE_S while the log is of an older epoch. Raises what reading raises."""
    loop = asyncio.get_running_loop()
    stale_until = loop.time() + STALE_S
    while True:
        page = await read()
        if not _is_behind(page, after) or loop.time() >= stale_until:
            return page
        await asyncio.sleep(STALE_LOOK_S)


def _is_behind(page: Page, after: Cursor) -> bool:
    """Whether the log, as it was read, is not as far as where a cursor comes from."""
    return not page.reset and page.log_id == after.log_id and page.epoch < after.epoch
