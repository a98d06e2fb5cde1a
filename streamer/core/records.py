"""Updates as they are stored and published: msgpack records.

A record is an array of six: ``epoch, index, previous, timestamp, status, state``. The publisher packs the last three,
the *tail*; append.lua puts the first three before it, the *header*, whose integers have a fixed width:

    byte   0       array of 6         0x96
    bytes  1-5     epoch, uint 32     0xce ....
    bytes  6-14    index, uint 64     0xcf ........
    bytes 15-23    previous, int 64   0xd3 ........

so that a script can read an index without a decoder. Records delimit themselves and need nothing between them.
A published message is the log's id, packed as text, and then the batch's records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgpack
import msgspec

from streamer.core.cursor import MAX_INDEX, Cursor
from streamer.core.errors import InvalidUpdate
from streamer.core.json_fit import MAX_DEPTH, TooDeep, Unfit, check_readable, plain_state

HEADER_BYTES = 24
MAX_UPDATE_BYTES = 1 << 20
"""The greatest tail, in bytes. Redis would take more, but one update would then stall all who watch."""

MAX_STATUS_BYTES = 1024
"""The longest status. It is a word or a few; what is long belongs into the state."""

UNREADABLE = "unreadable"
"""The status of the update that stands for a record that cannot be read, as another program may write."""

_SHORT_TEXT = 0xA0
_INTEGER_BYTES = 9
_BUFFER_BYTES = 2**31 - 1
_ARRAY_OF_3 = b"\x93"
_encode = msgspec.msgpack.Encoder().encode
_decode_tail = msgspec.msgpack.Decoder(tuple[int, str, dict[str, Any]]).decode


class Update(msgspec.Struct, frozen=True, array_like=True):
    """One state change of a node.

    ``timestamp`` is in ms since 1970; ``index`` is the update's number in the node's log; ``previous`` is the index
    of the update before it in the same job, -1 if there is none or the update belongs to no job.
    """

    epoch: int
    index: int
    previous: int
    timestamp: int
    status: str
    state: dict[str, Any]

    def cursor(self, log_id: str) -> Cursor:
        """The position just after this update in the log of that id."""
        return Cursor(log_id, self.epoch, self.index)


def pack_tail(status: object, state: object, timestamp: object) -> bytes:
    """Pack what the publisher knows of an update.

    ``state`` is a mapping with text keys; its values are whatever JSON has, and what msgspec turns into that: dates,
    UUIDs, enums, dataclasses, sets, bytes (as base64). It is packed at once, so later changes to it do no harm.
    What is packed reads back the same by msgpack and by JSON, but for NaN and infinity, which are null in JSON.

    Raises InvalidUpdate with a sentence that says what is wrong, and where in the state.
    """
    _check_status(status)
    if isinstance(timestamp, bool) or not isinstance(timestamp, int) or not 0 <= timestamp <= MAX_INDEX:
        raise InvalidUpdate(f"an update's timestamp must be a whole number of ms since 1970, not {_shown(timestamp)}")
    if not isinstance(state, Mapping):
        raise InvalidUpdate(f"an update's state must be a mapping, not {type(state).__name__}")
    try:
        plain = plain_state(state)
    except TooDeep as flaw:
        raise InvalidUpdate(f"an update's state may be nested {MAX_DEPTH} levels deep at the most: {flaw}") from None
    except Unfit as flaw:
        raise InvalidUpdate(f"an update's state must hold what JSON can hold: {flaw}") from flaw.__cause__
    tail = _encode((timestamp, status, plain))[1:]
    if len(tail) > MAX_UPDATE_BYTES:
        raise InvalidUpdate(f"an update may have {MAX_UPDATE_BYTES:,} bytes at the most, this one has {len(tail):,}")
    return tail


def _check_status(status: object) -> None:
    if not isinstance(status, str) or not status:
        raise InvalidUpdate(f"an update's status must be text that is not empty, not {_shown(status)}")
    try:
        size = len(status.encode())
    except UnicodeEncodeError:
        raise InvalidUpdate("an update's status must be valid Unicode; this one holds half a surrogate pair") from None
    if size > MAX_STATUS_BYTES:
        raise InvalidUpdate(
            f"an update's status may have {MAX_STATUS_BYTES:,} bytes at the most, this one has {size:,}"
        )


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # as of an integer with too many digits
        return type(value).__name__


def unpack_tail(tail: bytes) -> tuple[int, str, dict[str, Any]]:
    """Unpack a tail into timestamp, status and state."""
    timestamp, status, state = _decode_tail(_ARRAY_OF_3 + tail)
    return timestamp, status, state


def pack_header(epoch: int, index: int, previous: int) -> bytes:
    """Pack a record's header as append.lua does."""
    return (
        b"\x96\xce"
        + epoch.to_bytes(4, "big")
        + b"\xcf"
        + index.to_bytes(8, "big")
        + b"\xd3"
        + previous.to_bytes(8, "big", signed=True)
    )


def index_of(record: bytes) -> int | None:
    """Read the index from a record's header; None where it has none."""
    header = _header(record)
    return None if header is None else header[1]


def unpack_record(record: bytes) -> Update:
    """Unpack one record.

    One whose header is sound, but whose tail cannot be read, or could not be given to all who watch, becomes an update
    that says so: its index is given out, and all that come after it are to be read.

    Raises ValueError where the bytes are no record at all.
    """
    if len(record) > HEADER_BYTES + MAX_UPDATE_BYTES:
        return _stand_in(record, f"it has {len(record):,} bytes, and may have {HEADER_BYTES + MAX_UPDATE_BYTES:,}")
    try:
        update = _decode(record)
        check_readable(update.state)
    except (ValueError, RecursionError, Unfit) as error:
        return _stand_in(record, str(error))
    return update


def unpack_message(data: bytes) -> tuple[str, list[Update]]:
    """Unpack a published message into the log's id and the records, as `unpack_record` does.

    Raises ValueError where it is none.
    """
    end = 1 + data[0] - _SHORT_TEXT if data else 0
    if not 0 < end <= 32:
        raise ValueError("a published message must begin with the log's id")
    return data[1:end].decode(), unpack_records(data[end:])


def unpack_records(data: bytes) -> list[Update]:
    """Unpack records that stand one after another, as `unpack_record` does. Raises ValueError where they are none."""
    if not data:
        return []
    try:
        # Most of what is published is one record, which needs no search for its end.
        update = _decode(data)
        check_readable(update.state)
        return [update]
    except (ValueError, RecursionError, Unfit):
        return [unpack_record(record) for record in _split(data)]


def _split(data: bytes) -> Iterator[bytes]:
    unpacker = msgpack.Unpacker(max_buffer_size=_BUFFER_BYTES)
    unpacker.feed(data)
    begin = 0
    while begin < len(data):
        try:
            unpacker.skip()
        except (ValueError, msgpack.UnpackException) as error:
            raise ValueError(f"these bytes are no whole records: {error or type(error).__name__}") from error
        end = unpacker.tell()
        yield data[begin:end]
        begin = end


def _stand_in(record: bytes, error: str) -> Update:
    header = _header(record)
    if header is None:
        raise ValueError(f"these bytes are no record: {error}")
    return unreadable(*header, f"this update cannot be read: {error:.300}", _timestamp(record))


def unreadable(epoch: int, index: int, previous: int, error: str, timestamp: int = 0) -> Update:
    """The update that stands for a record that cannot be read."""
    return Update(epoch, index, previous, timestamp, UNREADABLE, {"error": error})


def _header(record: bytes) -> tuple[int, int, int] | None:
    """A record's epoch, index and previous, None where its header is none."""
    if len(record) < HEADER_BYTES or (record[:2], record[6:7], record[15:16]) != (b"\x96\xce", b"\xcf", b"\xd3"):
        return None
    number = int.from_bytes
    return number(record[2:6], "big"), number(record[7:15], "big"), number(record[16:24], "big", signed=True)


def _timestamp(record: bytes) -> int:
    """The timestamp of a record whose tail cannot be read: 0 where there is none either."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(record[HEADER_BYTES : HEADER_BYTES + _INTEGER_BYTES])
    try:
        found = unpacker.unpack()
    except (ValueError, msgpack.UnpackException):
        return 0
    return found if type(found) is int and 0 <= found <= MAX_INDEX else 0


def _no_extension(code: int, data: memoryview) -> object:
    raise ValueError(f"it holds the msgpack extension {code}, which JSON does not have")


_decode = msgspec.msgpack.Decoder(Update, ext_hook=_no_extension).decode
