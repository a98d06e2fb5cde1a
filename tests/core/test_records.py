"""Records: packed by publishers and scripts, unpacked by all who read."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.core.cursor import MAX_INDEX, Cursor
from streamer.core.errors import InvalidUpdate
from streamer.core.messages import plain_frame
from streamer.core.records import (
    HEADER_BYTES,
    MAX_DEPTH,
    MAX_UPDATE_BYTES,
    Update,
    index_of,
    pack_header,
    pack_tail,
    unpack_message,
    unpack_records,
)

indexes = st.integers(0, MAX_INDEX)
timestamps = st.integers(0, MAX_INDEX)
statuses = st.text(min_size=1, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
states = st.dictionaries(st.text(max_size=8), values, max_size=4)
updates = st.builds(
    Update,
    epoch=st.integers(1, 2**32 - 1),
    index=indexes,
    previous=st.just(-1) | indexes,
    timestamp=timestamps,
    status=statuses,
    state=states,
)


def pack(update: Update) -> bytes:
    header = pack_header(update.epoch, update.index, update.previous)
    return header + pack_tail(update.status, update.state, update.timestamp)


@given(batch=st.lists(updates, max_size=5))
def test_records_one_after_another_are_unpacked_as_they_were_packed(batch: list[Update]) -> None:
    assert unpack_records(b"".join(map(pack, batch))) == batch


@given(batch=st.lists(updates, max_size=3), log_id=st.text("0123456789abcdef", min_size=1, max_size=31))
def test_a_message_is_the_logs_id_and_its_records(batch: list[Update], log_id: str) -> None:
    assert unpack_message(msgpack.packb(log_id) + b"".join(map(pack, batch))) == (log_id, batch)


@given(update=updates)
def test_the_index_stands_at_a_fixed_place(update: Update) -> None:
    record = pack(update)
    assert index_of(record) == update.index
    assert len(pack_header(update.epoch, update.index, update.previous)) == HEADER_BYTES


@given(update=updates)
def test_a_record_is_plain_msgpack_that_others_can_read(update: Update) -> None:
    assert msgpack.unpackb(pack(update)) == [
        update.epoch,
        update.index,
        update.previous,
        update.timestamp,
        update.status,
        update.state,
    ]


@given(update=updates)
def test_an_updates_cursor_stands_just_behind_it(update: Update) -> None:
    assert update.cursor("ab") == Cursor("ab", update.epoch, update.index)


@given(batch=st.lists(updates, min_size=1, max_size=3), data=st.data())
def test_records_that_are_cut_off_are_not_taken_for_whole_ones(batch: list[Update], data: st.DataObject) -> None:
    records = list(map(pack, batch))
    cut = data.draw(st.integers(1, len(records[-1]) - 1))
    with pytest.raises(ValueError, match="records"):
        unpack_records(b"".join(records)[:-cut])


@given(anything=st.lists(values | st.tuples(*[values] * 6), min_size=1, max_size=2))
@example(anything=["a status"])
@example(anything=["six ch"])
@example(anything=[[1, 2, 3, 4, "status"]])
@example(anything=[[1, "2", 3, 4, "status", {}]])
def test_what_is_no_record_is_refused_as_such(anything: list[Any]) -> None:
    data = b"".join(map(msgpack.packb, anything))
    try:
        unpacked = unpack_records(data)
    except ValueError:
        return
    for update in unpacked:
        for number in (update.epoch, update.index, update.previous, update.timestamp):
            assert isinstance(number, int), "a check of the chain compares it with a number"
        assert isinstance(update.status, str)
        assert isinstance(update.state, dict)


@pytest.mark.parametrize("many", [1, 2])
def test_a_record_nested_too_deep_to_be_read_is_refused_as_such(many: int) -> None:
    state = b"\x81\xa1s" * 100_000 + b"\x80"
    with pytest.raises(ValueError, match="records"):
        unpack_records((pack_header(1, 0, -1) + b"\x00" + b"\xa6status" + state) * many)


@pytest.mark.parametrize("data", [b"", msgpack.packb(1), msgpack.packb(b"ab"), msgpack.packb([]), b"\xc1"])
def test_a_message_that_does_not_begin_with_a_logs_id_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        unpack_message(data)


@given(status=statuses, state=states, timestamp=timestamps)
def test_later_changes_to_a_state_do_not_reach_what_was_packed(
    status: str, state: dict[str, Any], timestamp: int
) -> None:
    before = dict(state)
    tail = pack_tail(status, state, timestamp)
    state["more"] = 1
    assert unpack_records(pack_header(1, 0, -1) + tail) == [Update(1, 0, -1, timestamp, status, before)]


def test_a_state_may_hold_what_has_a_plain_form() -> None:
    class Color(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Point:
        x: int

    state = MappingProxyType(
        {
            "date": datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
            "id": uuid.UUID(int=1),
            "color": Color.RED,
            "point": Point(1),
            "set": {1},
            "bytes": b"ab",
            "tuple": (1, 2),
            "numbers": {1: "one"},
        }
    )
    (update,) = unpack_records(pack_header(1, 0, -1) + pack_tail("s", state, 0))
    assert update.state == {
        "date": "2024-01-02T03:04:05Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "color": "red",
        "point": {"x": 1},
        "set": [1],
        "bytes": "YWI=",
        "tuple": [1, 2],
        "numbers": {"1": "one"},
    }


@pytest.mark.parametrize(
    "state",
    [
        {"x": object()},
        {"x": 2**64},
        {"x": -(2**63) - 1},
        {"x": lambda: None},
        {"x": "half a pair \ud83d"},
        {None: 1},
        {(1, 2): 1},
    ],
    ids=["object", "great", "small", "function", "surrogate", "none-key", "tuple-key"],
)
def test_a_state_that_json_cannot_hold_is_refused(state: dict[Any, Any]) -> None:
    with pytest.raises(InvalidUpdate, match=r"^an update's state must hold what JSON can hold: "):
        pack_tail("status", state, 0)


@pytest.mark.parametrize("state", [None, [], "state", 1, [("a", 1)]])
def test_a_state_that_is_no_mapping_is_refused(state: object) -> None:
    with pytest.raises(InvalidUpdate, match="must be a mapping, not"):
        pack_tail("status", state, 0)


@pytest.mark.parametrize("status", ["", None, 1, b"status"])
def test_a_status_that_is_no_text_or_empty_is_refused(status: object) -> None:
    with pytest.raises(InvalidUpdate, match="status must be text"):
        pack_tail(status, {}, 0)


@pytest.mark.parametrize("timestamp", [-1, MAX_INDEX + 1, 1.5, True, "1", None, float("nan")])
def test_a_timestamp_that_is_no_number_of_milliseconds_is_refused(timestamp: object) -> None:
    with pytest.raises(InvalidUpdate, match="timestamp must be a whole number"):
        pack_tail("status", {}, timestamp)


def test_an_error_stays_short_however_great_the_value() -> None:
    with pytest.raises(InvalidUpdate) as raised:
        pack_tail(["x" * 10_000], {}, 0)
    assert len(str(raised.value)) < 200


def test_an_update_may_have_one_mebibyte_and_no_byte_more() -> None:
    spare = MAX_UPDATE_BYTES - len(pack_tail("s", {"x": "y" * 70_000}, 0)) + 70_000
    assert len(pack_tail("s", {"x": "y" * spare}, 0)) == MAX_UPDATE_BYTES
    with pytest.raises(InvalidUpdate, match="1,048,576 bytes at the most, this one has 1,048,577"):
        pack_tail("s", {"x": "y" * (spare + 1)}, 0)


def nested(levels: int) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for _ in range(levels - 1):
        state = {"in": state}
    return state


def read_from_deep_down(record: bytes, depth: int) -> bytes:
    """Read a record where the stack is some frames deep already, as in a gateway's event loop."""
    if depth:
        return read_from_deep_down(record, depth - 1)
    (update,) = unpack_records(record)
    return plain_frame("ab", update)


@pytest.fixture
def own_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread, and so a stack that is not as deep as that of pytest; the limit of recursion is restored."""
    limit = sys.getrecursionlimit()
    with ThreadPoolExecutor(1) as pool:
        yield pool
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize("limit", [500, 1000, 5000])
def test_a_state_is_accepted_only_if_all_who_watch_can_read_it(limit: int, own_thread: ThreadPoolExecutor) -> None:
    """A record that cannot be read ends every watch of its topic, for as long as the log keeps it."""
    sys.setrecursionlimit(limit)
    tail = own_thread.submit(pack_tail, "status", nested(MAX_DEPTH), 0).result()
    for depth in (MAX_DEPTH + 1, 960, 10_000):
        with pytest.raises(InvalidUpdate, match="nested 64 levels deep at the most"):
            own_thread.submit(pack_tail, "status", nested(depth), 0).result()
    sys.setrecursionlimit(1000)
    assert own_thread.submit(read_from_deep_down, pack_header(1, 0, -1) + tail, 200).result()


def test_a_state_that_holds_itself_is_nested_too_deep() -> None:
    state: dict[str, Any] = {}
    state["itself"] = state
    with pytest.raises(InvalidUpdate, match="nested 64 levels deep at the most"):
        pack_tail("status", state, 0)


def test_lists_count_as_levels_too() -> None:
    value: list[Any] = []
    for _ in range(MAX_DEPTH - 2):
        value = [0, value]
    pack_tail("status", {"in": value}, 0)
    with pytest.raises(InvalidUpdate, match="nested 64 levels deep at the most"):
        pack_tail("status", {"in": {"in": value}}, 0)
