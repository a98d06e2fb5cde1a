"""What is older than a window: read once for all who ask at the same time, kept for a while, never mixed up."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from streamer.core.cursor import Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.window import Block, Chunk
from streamer.fanout import older as older_module
from streamer.fanout.older import Gone, Older

FIRST, SECOND, THIRD = Chunk(b"aaaa", 3), Chunk(b"bbbb", 7), Chunk(b"cccc", 9)
"""They stand one behind another, from the start on."""

DEADLINE_S = 10

Waiting = asyncio.Task[Chunk | Gone | None]


def blocks(*chunks: Chunk) -> list[Block]:
    """Blocks, each of the one frame that a chunk is."""
    made = [Block() for _ in chunks]
    for block, chunk in zip(made, chunks, strict=True):
        block.append(Cursor("ab12", 1, chunk.last), chunk.data)
    return made


class Log:
    """Answers a read when the test says so. ``asked`` are the indexes behind which was read, in order."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._answers: list[asyncio.Future[list[Block] | Gone]] = []

    async def read(self, index: int) -> list[Block] | Gone:
        self.asked.append(index)
        self._answers.append(asyncio.get_running_loop().create_future())
        return await self._answers[-1]

    def answer(self, *chunks: Chunk) -> None:
        """Answer the last read that was asked for."""
        self._answers[-1].set_result(blocks(*chunks))

    def answer_gone(self, last: int) -> None:
        """Answer it by what is no longer kept."""
        self._answers[-1].set_result(Gone(last))

    def fail(self) -> None:
        """Have it fail."""
        self._answers[-1].set_exception(LogUnavailable("it is down"))


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def grown() -> list[int]:
    """How many bytes were reported, each time."""
    return []


@pytest.fixture
def older(log: Log, grown: list[int]) -> Iterator[Older]:
    return Older(log.read, grown.append)


@pytest.fixture
def three_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than two chunks and a half are kept."""
    monkeypatch.setattr(older_module, "OLDER_BYTES", 10)


async def wait_for(older: Older, *indexes: int) -> list[Waiting]:
    """Ask behind these indexes, each for itself; they wait for the log."""
    asking = [asyncio.create_task(older.after(index)) for index in indexes]
    await turns()
    assert not any(task.done() for task in asking)
    return asking


async def got(*asking: Waiting) -> list[Chunk | Gone | None]:
    """What those who ask get, in time."""
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.gather(*asking)


async def turns() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def take_in(older: Older, log: Log, index: int, *chunks: Chunk) -> Chunk | Gone | None:
    """Ask behind an index; the log has these chunks there."""
    asking = await wait_for(older, index)
    log.answer(*chunks)
    [chunk] = await got(*asking)
    return chunk


async def test_the_log_is_read_once_for_all_who_ask_meanwhile(older: Older, log: Log) -> None:
    asking = await wait_for(older, *[-1] * 50)
    log.answer(FIRST)
    assert await got(*asking) == [FIRST] * 50
    assert log.asked == [-1]


async def test_all_of_a_page_is_kept_for_those_who_come_later(older: Older, log: Log) -> None:
    assert await take_in(older, log, -1, FIRST, SECOND) == FIRST
    assert [await older.after(index) for index in (3, -1, 3)] == [SECOND, FIRST, SECOND]
    assert log.asked == [-1]
    assert older.size_bytes == 8


async def test_those_who_ask_behind_other_indexes_get_each_their_own(older: Older, log: Log) -> None:
    [first] = await wait_for(older, -1)
    [second] = await wait_for(older, 3)
    log.answer(SECOND)
    assert await got(second) == [SECOND]
    assert not first.done()
    assert log.asked == [-1, 3]


async def test_an_error_is_told_to_all_who_wait_and_the_next_reads_again(older: Older, log: Log) -> None:
    asking = await wait_for(older, *[-1] * 5)
    log.fail()
    await asyncio.wait(asking, timeout=DEADLINE_S)
    assert [type(task.exception()) for task in asking] == [LogUnavailable] * 5
    assert await take_in(older, log, -1, FIRST) == FIRST
    assert log.asked == [-1, -1]


async def test_one_who_gives_up_leaves_the_others_their_answer(older: Older, log: Log) -> None:
    leaving, staying = await wait_for(older, -1, -1)
    leaving.cancel()
    await turns()
    assert leaving.cancelled()
    log.answer(FIRST)
    assert await got(staying) == [FIRST]
    assert log.asked == [-1]


async def test_what_was_read_for_one_who_gave_up_is_there_for_whoever_comes_next(older: Older, log: Log) -> None:
    [leaving] = await wait_for(older, -1)
    leaving.cancel()
    await turns()
    [staying] = await wait_for(older, -1)
    log.answer(FIRST)
    assert await got(staying) == [FIRST]
    assert log.asked == [-1]


async def test_an_error_that_nobody_waits_for_any_more_is_no_fault(older: Older, log: Log) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    asking = await wait_for(older, -1)
    asking.pop().cancel()
    await turns()
    log.fail()
    await turns()
    gc.collect()
    assert faults == []


async def test_where_the_log_gives_nothing_it_is_looked_at_again_by_whoever_asks_again(older: Older, log: Log) -> None:
    assert await take_in(older, log, -1) is None
    assert await take_in(older, log, -1, FIRST) == FIRST
    assert log.asked == [-1, -1]


async def test_that_something_is_no_longer_kept_is_asked_each_time_since_it_becomes_more(
    older: Older, log: Log
) -> None:
    for last in (5, 8):
        asking = await wait_for(older, -1)
        log.answer_gone(last)
        assert await got(*asking) == [Gone(last)]


async def test_each_frame_is_encoded_once_and_counts_in_every_encoding(older: Older, log: Log) -> None:
    encoded: list[bytes] = []

    class Upper:
        def piece(self, frame: bytes) -> bytes:
            encoded.append(frame)
            return frame.upper()

        def join(self, pieces: bytes, count: int, last: Cursor) -> bytes:
            return b"%d:%b:%b" % (count, pieces, last.token.encode())

    upper = Upper()
    await take_in(older, log, -1, FIRST, SECOND)
    assert [await older.after(-1, upper) for _ in range(3)] == [Chunk(b"1:AAAA:ab12.1.3", 3)] * 3
    assert await older.after(-1) == FIRST
    assert encoded == [b"aaaa"]
    assert older.size_bytes == len(b"aaaabbbbAAAA1:AAAA:ab12.1.3")


@pytest.mark.usefixtures("three_chunks")
async def test_beyond_the_bound_what_was_read_first_is_forgotten_first(older: Older, log: Log) -> None:
    await take_in(older, log, -1, FIRST, SECOND)
    assert older.size_bytes == 8
    await take_in(older, log, 7, THIRD)
    assert older.size_bytes == 8
    assert [await older.after(3), await older.after(7)] == [SECOND, THIRD]
    assert log.asked == [-1, 7]
    await take_in(older, log, -1, FIRST)
    assert log.asked == [-1, 7, -1]


@pytest.mark.usefixtures("three_chunks")
async def test_what_is_greater_than_the_bound_is_handed_over_and_not_kept(older: Older, log: Log) -> None:
    great = Chunk(b"x" * 11, 3)
    for times in (1, 2):
        asking = await wait_for(older, -1, -1)
        log.answer(great)
        assert await got(*asking) == [great] * 2
        assert older.size_bytes == 0
        assert log.asked == [-1] * times


@pytest.mark.usefixtures("three_chunks")
async def test_of_a_page_greater_than_the_bound_the_first_chunk_is_handed_over(older: Older, log: Log) -> None:
    assert await take_in(older, log, -1, FIRST, SECOND, THIRD) == FIRST
    assert older.size_bytes == 8


async def test_what_is_kept_twice_counts_once(older: Older, log: Log) -> None:
    [first] = await wait_for(older, -1)
    await take_in(older, log, 3, SECOND)
    log._answers[0].set_result(blocks(FIRST, SECOND))
    assert await got(first) == [FIRST]
    assert older.size_bytes == 8


async def test_growing_is_told_and_what_is_forgotten_for_it_at_once_is_handed_over(log: Log, grown: list[int]) -> None:
    def grew(size: int) -> None:
        grown.append(size)
        assert older.size_bytes == size
        older.forget()

    older = Older(log.read, grew)
    asking = await wait_for(older, -1, -1)
    log.answer(FIRST, SECOND)
    assert await got(*asking) == [FIRST] * 2
    assert (grown, older.size_bytes) == ([8], 0)
    assert await take_in(older, log, 3, SECOND) == SECOND


async def test_what_was_forgotten_is_read_again(older: Older, log: Log) -> None:
    await take_in(older, log, -1, FIRST)
    older.forget()
    assert older.size_bytes == 0
    assert await take_in(older, log, -1, SECOND) == SECOND


async def test_whoever_asks_after_it_was_forgotten_is_never_given_what_was_read_before(older: Older, log: Log) -> None:
    """Also not where it was forgotten in the same turn of the event loop in which it had come."""
    [early] = await wait_for(older, -1)
    forgotten = asyncio.Event()

    async def forget_and_ask() -> Chunk | Gone | None:
        await forgotten.wait()
        older.forget()
        return await older.after(-1)

    late = asyncio.create_task(forget_and_ask())
    await turns()
    log.answer(FIRST)
    forgotten.set()
    await turns()
    assert early.result() == FIRST
    assert not late.done(), "it was given what had been read before"
    log.answer(SECOND)
    assert await got(late) == [SECOND]


async def test_closing_ends_what_is_read_and_those_who_wait_for_it(older: Older, log: Log) -> None:
    asking = await wait_for(older, -1, -1, 3)
    older.close()
    await turns()
    assert all(task.cancelled() for task in asking)
    assert asyncio.all_tasks() == {asyncio.current_task()}
