"""Records: packed by publishers and scripts, unpacked by all who read."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.core.cursor import MAX_INDEX, Cursor
from streamer.core.errors import InvalidUpdate
from streamer.core.json_fit import MAX_DEPTH
from streamer.core.messages import plain_frame
from streamer.core.records import (
    HEADER_BYTES,
    MAX_STATUS_BYTES,
    MAX_UPDATE_BYTES,
    UNREADABLE,
    Update,
    index_of,
    pack_header,
    pack_tail,
    unpack_message,
    unpack_record,
    unpack_records,
)

indexes = st.integers(0, MAX_INDEX)
timestamps = st.integers(0, MAX_INDEX)
statuses = st.text(min_size=1, max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
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
            "tuple": (1, 2),
        }
    )
    (update,) = unpack_records(pack_header(1, 0, -1) + pack_tail("s", state, 0))
    assert update.state == {
        "date": "2024-01-02T03:04:05Z",
        "id": "00000000-0000-0000-0000-000000000001",
        "color": "red",
        "point": {"x": 1},
        "set": [1],
        "tuple": [1, 2],
    }


DEEP: list[Any] = []
for _ in range(MAX_DEPTH):
    DEEP = [DEEP]


class Strange:
    """No JSON, whatever is done with it."""


UNFIT: list[tuple[Any, str]] = [
    ({"x": Strange()}, "state.x is of the type Strange, which JSON does not have"),
    ({"x": [0, {"y": Strange()}]}, "state.x[1].y is of the type Strange, which JSON does not have"),
    ({"metrics": [0, 0, 0, {"loss": 2**64}]}, "state.metrics[3].loss is a whole number of more than 64 bits"),
    ({"x": 2**64}, "state.x is a whole number of more than 64 bits"),
    ({"x": -(2**63) - 1}, "state.x is a whole number of more than 64 bits"),
    ({"x": 10**5000}, "state.x is a whole number of more than 64 bits"),
    ({"x": "half a pair \ud83d"}, "state.x holds half a surrogate pair"),
    ({"x": {"\ud83d": 1}}, "state.x has a key that holds half a surrogate pair"),
    ({"x": [msgspec.msgpack.Ext(1, b"")]}, "state.x[0] is of the type Ext, which JSON does not have"),
    ({"a b": {"": {"\u202e\x1b": 2**64}}}, r"state['a b']['']['\u202e\x1b'] is a whole number of more than 64 bits"),
    ({"y" * 1000: 2**64}, f"state['{'y' * 40}'…] is a whole number of more than 64 bits"),
    ({None: 1}, "state has a key of the type NoneType, which cannot become text"),
    ({(1, 2): 1}, "state has a key of the type tuple, which cannot become text"),
    ({"x": {(): 1}}, "state.x has a key of the type tuple, which cannot become text"),
    ({"x": dict.fromkeys(map(str, range(10_000)))}, "state.x has too many keys: a state may have 10,000 altogether"),
]


@pytest.mark.parametrize(("state", "flaw"), UNFIT, ids=[flaw[:50] for _, flaw in UNFIT])
def test_a_state_that_json_cannot_hold_is_refused_with_the_way_to_the_flaw(state: dict[Any, Any], flaw: str) -> None:
    with pytest.raises(InvalidUpdate) as raised:
        pack_tail("status", state, 0)
    assert str(raised.value) == f"an update's state must hold what JSON can hold: {flaw}"


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.binary(max_size=3)
    | st.builds(Strange)
    | st.datetimes()
    | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(), max_size=4) | st.integers() | st.none() | st.binary(), inner, max_size=3
        )
        | st.sets(st.integers() | st.floats() | st.text(), max_size=2)
    ),
    max_leaves=8,
)


@given(
    status=st.text(st.characters()) | st.none(),
    state=st.dictionaries(st.text(st.characters()) | st.integers(), anything, max_size=4) | anything,
    timestamp=st.integers() | st.floats(),
)
def test_what_is_accepted_reads_back_equal_also_through_json_and_what_is_refused_is_refused_as_invalid(
    status: Any, state: Any, timestamp: Any
) -> None:
    refusal = ""
    try:
        tail = pack_tail(status, state, timestamp)
    except InvalidUpdate as error:
        refusal = str(error)
    if refusal:
        assert refusal.isprintable()
        assert len(refusal) < 600
        return
    (update,) = unpack_records(pack_header(1, 0, -1) + tail)
    assert (update.status, update.timestamp) == (status, timestamp)
    meant = json.loads(msgspec.json.encode(msgspec.to_builtins(state, str_keys=True)))
    assert json.loads(msgspec.json.encode(update.state)) == meant


@pytest.mark.parametrize(
    "value",
    [msgpack.ExtType(42, b"x"), {1: 2}, [{b"k": 1}], DEEP],
    ids=["extension", "number-key", "bytes-key", "deep"],
)
def test_a_record_whose_tail_cannot_be_given_to_all_becomes_an_update_that_says_so(value: Any) -> None:
    record = pack_header(3, 7, 5) + msgpack.packb([1234, "status", {"x": value}])[1:]
    update = unpack_record(record)
    assert (update.epoch, update.index, update.previous, update.timestamp) == (3, 7, 5, 1234)
    assert update.status == UNREADABLE
    assert str(update.state["error"]).startswith("this update cannot be read: ")
    whole = pack_header(3, 8, 7) + pack_tail("next", {}, 0)
    assert unpack_records(record + whole) == [update, unpack_record(whole)]


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\xc1" * 9,
        b"\x00",
        msgpack.packb([1, "s", {}, 1])[1:],
        msgpack.packb(["1", "s", {}])[1:],
        b"\x00\xa6status" + b"\x81\xa1s" * 100_000 + b"\x80",
        b"\x00\xa1s\x81\xa1k\xc6" + (2 << 20).to_bytes(4, "big") + bytes(2 << 20),
    ],
    ids=["empty", "no-msgpack", "cut-off", "too-long", "text-for-number", "deep", "huge"],
)
def test_a_record_with_a_sound_header_keeps_its_index_whatever_follows(tail: bytes) -> None:
    update = unpack_record(pack_header(1, 9, -1) + tail)
    assert (update.index, update.status) == (9, UNREADABLE)
    assert plain_frame("ab", update)


@pytest.mark.parametrize("record", [b"", b"x" * 40, b"\xff" * 40, pack_header(1, 0, -1)[:-1], msgpack.packb([1] * 5)])
def test_what_has_no_header_is_no_record(record: bytes) -> None:
    assert index_of(record) is None
    with pytest.raises(ValueError, match="no record"):
        unpack_record(record)


def test_a_status_may_have_one_kibibyte_and_no_byte_more() -> None:
    pack_tail("é" * (MAX_STATUS_BYTES // 2), {}, 0)
    with pytest.raises(InvalidUpdate, match="status may have 1,024 bytes at the most, this one has 1,025"):
        pack_tail("x" * (MAX_STATUS_BYTES + 1), {}, 0)
    with pytest.raises(InvalidUpdate, match="status must be valid Unicode"):
        pack_tail("\ud800", {}, 0)


@pytest.mark.parametrize("state", [None, [], "state", 1, [("a", 1)]])
def test_a_state_that_is_no_mapping_is_refused(state: object) -> None:
    with pytest.raises(InvalidUpdate, match="must be a mapping, not"):
        pack_tail("status", state, 0)


@pytest.mark.parametrize("status", ["", None, 1, b"status"])
def test_a_status_that_is_no_text_or_empty_is_refused(status: object) -> None:
    with pytest.raises(InvalidUpdate, match="status must be text"):
        pack_tail(status, {}, 0)


@pytest.mark.parametrize(
    "timestamp", [-1, MAX_INDEX + 1, pytest.param(10**5000, id="huge"), 1.5, True, "1", None, float("nan")]
)
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
