"""The updates of a page of a list, whatever was written into it: what cannot be read has its place in the order, too.

Only append.lua gives out indexes, and what it has written has a sound header. Other programs may have written anything
else to the list; one such entry must not keep whoever watches from what stands behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamer.core.records import Update, unpack_record, unreadable

_NO_RECORD = "what stands here in the list of updates is no record"


class Place(NamedTuple):
    """Where a page stands: behind which index, in which epoch of the log, the log's head, and what follows the page.

    ``last`` is the index of the last record of the page if it is known. In a job's list, only the last page's is.
    """

    start: int
    epoch: int
    head: int
    of_job: bool
    last: int | None


def listed_updates(records: Sequence[bytes], place: Place) -> list[Update]:
    """The updates of a page, in order, each behind the one before.

    What has no sound header, or one out of order, is replaced by an update that says so where its index is known from
    those beside it, and else left out.
    """
    found: list[Update | None] = []
    before = place.start
    for record in records:
        update = _sound(record, before, place)
        found.append(update)
        if update is not None:
            before = update.index
    return found if None not in found else _filled(found, place)  # type: ignore[return-value]


def _sound(record: bytes, before: int, place: Place) -> Update | None:
    try:
        update = unpack_record(record)
    except ValueError:
        return None
    if before < update.index <= place.head and 0 <= update.epoch <= place.epoch and update.previous < update.index:
        return update
    return None


def _filled(found: list[Update | None], place: Place) -> list[Update]:
    updates: list[Update] = []
    lost = 0
    for update in found:
        if update is None:
            lost += 1
            continue
        updates += _stand_ins(lost, updates, update.previous if place.of_job else update.index - 1, place)
        updates.append(update)
        lost = 0
    return updates + _stand_ins(lost, updates, place.last, place)


def _stand_ins(count: int, before: list[Update], last: int | None, place: Place) -> list[Update]:
    """Updates for so many that were lost behind others; ``last`` is the index of the last of them, if it is known."""
    if not count or last is None:
        return []
    behind, epoch = (before[-1].index, before[-1].epoch) if before else (place.start, place.epoch)
    if place.of_job:
        # Only the last one's index can be told, from what stands behind it.
        return [unreadable(epoch, last, behind, _NO_RECORD)] if last > behind else []
    first = max(behind, last - count) + 1
    return [unreadable(epoch, index, -1, _NO_RECORD) for index in range(first, last + 1)]
