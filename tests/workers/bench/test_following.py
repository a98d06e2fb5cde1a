"""The verification of what clients receive: nothing that is wrong may pass, and what is right must."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.cursor import Cursor
from streamer.core.messages import PlainMessage, text_frame
from tests.workers.bench.streams import CONTENT, VIEW, frame, framed, frames, message
from workers.bench.content import Content, View
from workers.bench.following import Follower, Stream
from workers.bench.frames import Malformed, next_frame

PING = b"\x89\x02hi"
WHOLE = range(CONTENT.updates)


def _ahead() -> Stream:
    """A stream that another client has got whole already."""
    stream = Stream(VIEW)
    Follower(stream).take(frames(*WHOLE))
    return stream


def _streams() -> list[Stream]:
    return [Stream(VIEW), _ahead()]


def _faults(data: bytes, stream: Stream) -> list[str]:
    follower = Follower(stream)
    follower.take(data)
    return follower.faults()


@pytest.mark.parametrize("stream", _streams())
def test_a_whole_stream_has_no_fault(stream: Stream) -> None:
    follower = Follower(stream)
    assert list(follower.take(frames(*WHOLE))) == []
    assert follower.done
    assert follower.count == CONTENT.updates
    assert follower.faults() == []


@given(st.lists(st.integers(0, len(frames(*WHOLE))), max_size=12), st.lists(st.integers(0, 40), max_size=12))
def test_however_the_stream_is_cut_and_whoever_is_ahead_each_client_counts_whole_updates(
    cuts: list[int], turns: list[int]
) -> None:
    data = frames(*WHOLE)
    stream = Stream(VIEW)
    bounds = sorted({0, *cuts, len(data)})
    chunks = [data[begin:end] for begin, end in pairwise(bounds)]
    followers = [(Follower(stream), iter(chunks)) for _ in range(3)]
    for turn in [*turns, *(range(3 * len(chunks)))]:
        follower, mine = followers[turn % 3]
        if chunk := next(mine, b""):
            follower.take(chunk)
    for follower, mine in followers:
        for chunk in mine:
            follower.take(chunk)
        assert follower.done
        assert follower.faults() == []


@given(st.integers(0, len(frames(*WHOLE)) - 1), st.integers(1, 255), st.booleans(), st.integers(1, 400))
def test_whatever_byte_is_altered_it_is_noticed(at: int, flip: int, ahead: bool, size: int) -> None:
    data = bytearray(frames(*WHOLE))
    data[at] ^= flip
    follower = Follower(_ahead() if ahead else Stream(VIEW))
    try:
        for begin in range(0, len(data), size):
            follower.take(bytes(data[begin : begin + size]))
    except Malformed:
        return
    assert follower.faults() or _tells_a_later_epoch(bytes(data))


def _tells_a_later_epoch(data: bytes) -> bool:
    """Whether it is whole but for a cursor's epoch, which may grow, as it does when a replica is promoted."""
    at, cursors = 0, []
    for number in WHOLE:
        part = next_frame(data, at)
        assert part is not None
        got = msgspec.json.decode(part.payload, type=PlainMessage)
        cursors.append(Cursor.parse(got.cursor))
        assert msgspec.structs.replace(got, cursor=message(number).cursor) == message(number)
        at = part.end
    epochs = [cursor.epoch for cursor in cursors]
    return epochs == sorted(epochs)


@pytest.mark.parametrize("stream", _streams())
@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([0, 1, 3, 4, 5], ["never got update 2"]),
        ([1, 2, 3, 4, 5], ["never got update 0"]),
        ([0, 1, 2], ["never got updates 3, 4, 5"]),
        ([], ["never got updates 0, 1, 2, 3, 4 and 1 more"]),
        ([0, 1, 1, 2, 3, 4, 5], ["got twice update 1"]),
        ([0, 1, 2, 3, 4, 5, 5], ["got twice update 5"]),
        ([0, 1, 2, 3, 4, 5, 0, 1], ["got twice updates 0, 1"]),
        ([0, 2, 1, 3, 4, 5], ["got out of order update 1 behind 2"]),
        ([0, 1, 2, 3, 5, 4], ["got out of order update 4 behind 5"]),
        ([0, 3, 3, 2, 4, 5], ["never got update 1", "got twice update 3", "got out of order update 2 behind 3"]),
    ],
)
def test_missing_doubled_and_swapped_updates_are_named(numbers: list[int], says: list[str], stream: Stream) -> None:
    assert _faults(frames(*numbers), stream) == says


def _altered(number: int, **changes: object) -> bytes:
    return framed(msgspec.structs.replace(message(number), **changes))


def _state(number: int, **changes: object) -> dict[str, object]:
    return {**message(number).state, **changes}


@pytest.mark.parametrize("stream", _streams())
@pytest.mark.parametrize(
    ("altered", "says"),
    [
        (_altered(2, status="other"), "update 2: its status is 'other', not 'benchmarking'"),
        (
            _altered(2, timestamp=5),
            "update 2: its timestamp, or its state's sent_ns or digest is not what was published",
        ),
        (_altered(2, previous=1), "update 2: its previous is 1, not -1"),
        (_altered(2, cursor="3f9a1c2b7d4e.1.1"), "update 2: its cursor is that of update 1"),
        (_altered(2, cursor="aaaa.1.2"), "update 2: its cursor is of another log"),
        (_altered(2, cursor="?"), "update 2: '?' is no cursor: give the"),
        (_altered(2, state=_state(2, pad="x" * 50)), "update 2: its state's pad is not what was published"),
        (_altered(2, state=_state(2, sent_ns=5)), "update 2: its timestamp, or its state's sent_ns or digest"),
        (_altered(2, state=_state(2, sent_ns=None)), "update 2: its state has no sent_ns"),
        (_altered(2, state=_state(2, more=1)), "update 2: its state has the fields"),
        (_altered(2, state=message(3).state), "update 2: its state's n is not what was published"),
    ],
)
def test_an_altered_update_is_named_with_what_is_altered(altered: bytes, says: str, stream: Stream) -> None:
    [fault] = _faults(frames(0, 1) + altered + frames(3, 4, 5), stream)
    assert fault.startswith(f"got altered {says}")


@pytest.mark.parametrize(
    ("foreign", "says"),
    [
        (text_frame(b"{}"), "b'{}': it is no update: "),
        (text_frame(b"nonsense"), "b'nonsense': it is no update: "),
        (_altered(2, index=99), "update 99: none of that index belongs to the topic"),
        (_altered(2, index=-1), "update -1: none of that index belongs to the topic"),
        (b"\x82\x01x", "a message: its opcode is 2, not 1"),
    ],
)
def test_what_is_no_update_of_ours_is_a_fault(foreign: bytes, says: str) -> None:
    missing, fault = _faults(frames(0, 1) + foreign + frames(3, 4, 5), Stream(VIEW))
    assert missing == "never got update 2"
    assert fault.startswith(f"got altered {says}")


def test_a_faulty_client_spoils_the_stream_of_no_other() -> None:
    stream = Stream(VIEW)
    assert _faults(frames(0, 2, 1) + _altered(3, status="x"), stream) != []
    assert _faults(frames(*WHOLE), stream) == []


@pytest.mark.parametrize("stream", _streams())
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_ping_between_updates_is_handed_over_and_harms_nothing(stream: Stream, size: int) -> None:
    follower = Follower(stream)
    data = PING + frame(0) + PING + PING + frames(1, 2, 3, 4, 5) + PING
    controls = [control for at in range(0, len(data), size) for control in follower.take(data[at : at + size])]
    assert [control.payload for control in controls] == [b"hi"] * 4
    assert follower.done
    assert follower.faults() == []


@pytest.mark.parametrize("stream", _streams())
def test_other_bytes_that_say_the_same_are_right(stream: Stream) -> None:
    spaced = text_frame(msgspec.json.format(msgspec.json.encode(message(1))))
    payload = msgspec.json.encode(message(2))
    fragments = b"\x01\x05" + payload[:5] + PING + b"\x80\x7e" + (len(payload) - 5).to_bytes(2, "big") + payload[5:]
    assert _faults(frame(0) + spaced + fragments + frames(3, 4, 5), stream) == []


def test_a_client_goes_on_with_a_new_connection_where_it_was() -> None:
    follower = Follower(_ahead())
    follower.take(frames(0, 1) + frame(2)[:10])
    follower.resume(follower.count)
    follower.take(frames(2, 3, 4, 5))
    assert follower.faults() == []


def test_a_client_that_goes_on_too_early_or_too_late_has_a_fault() -> None:
    for rest, says in (((1, 2, 3, 4, 5), "got twice update 1"), ((3, 4, 5), "never got update 2")):
        follower = Follower(_ahead())
        follower.take(frames(0, 1))
        follower.resume(follower.count)
        follower.take(frames(*rest))
        assert follower.faults() == [says]


def test_nothing_more_is_due_where_the_last_update_or_as_many_have_come() -> None:
    for numbers, done in (((0, 1, 3), False), ((0, 1, 3, 4, 5), True), ((0, 0, 1, 2, 3, 4), True)):
        follower = Follower(Stream(VIEW))
        follower.take(frames(*numbers))
        assert follower.done == done


def test_a_jobs_topic_is_its_updates_alone_each_with_the_one_before_it() -> None:
    content = Content(seed=7, updates=7, size=0, jobs=3)
    follower = Follower(Stream(View(content, 1)))
    follower.take(b"".join(frame(number, content) for number in (1, 4)))
    assert follower.done
    assert follower.faults() == []
    other = Follower(Stream(View(content, 1)))
    other.take(b"".join(frame(number, content) for number in (1, 2, 4)))
    assert other.faults() == ["got altered update 2: none of that index belongs to the topic"]


def test_a_wrong_previous_is_a_fault_in_a_jobs_topic() -> None:
    content = Content(seed=7, updates=7, size=0, jobs=3)
    wrong: PlainMessage = msgspec.structs.replace(message(4, content), previous=-1)
    assert _faults(frame(1, content) + framed(wrong), Stream(View(content, 1))) == [
        "got altered update 4: its previous is -1, not 1"
    ]
