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

from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import msgspec

from streamer.core.cursor import MAX_INDEX, Cursor
from streamer.core.errors import InvalidUpdate

HEADER_BYTES = 24
MAX_UPDATE_BYTES = 1 << 20
"""The greatest tail, in bytes. Redis would take more, but one update would then stall all who watch."""

MAX_DEPTH = 64
"""How deep a state may be nested. Decoders have bounds too, and one that fails ends every watch of the topic."""

_CONTAINERS = (dict, list, tuple)
_NIL = b"\xc0"
_SHORT_TEXT = 0xA0
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


_decode = msgspec.msgpack.Decoder(Update).decode


def pack_tail(status: object, state: object, timestamp: object) -> bytes:
    """Pack what the publisher knows of an update.

    ``state`` is a mapping with text keys; its values are whatever JSON has, and what msgspec turns into that: dates,
    UUIDs, enums, dataclasses, sets, bytes (as base64). It is packed at once, so later changes to it do no harm.

    Raises InvalidUpdate with a sentence that says what is wrong.
    """
    if not isinstance(status, str) or not status:
        raise InvalidUpdate(f"an update's status must be text that is not empty, not {status!r:.80}")
    if isinstance(timestamp, bool) or not isinstance(timestamp, int) or not 0 <= timestamp <= MAX_INDEX:
        raise InvalidUpdate(f"an update's timestamp must be a whole number of ms since 1970, not {timestamp!r:.80}")
    if not isinstance(state, Mapping):
        raise InvalidUpdate(f"an update's state must be a mapping, not {type(state).__name__}")
    try:
        plain = msgspec.to_builtins(dict(state), str_keys=True)
        tail = _encode((timestamp, status, plain))[1:]
        too_deep = _deeper_than(MAX_DEPTH - 1, plain.values())
    except RecursionError:
        too_deep = True
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidUpdate(f"an update's state must hold what JSON can hold: {error}") from error
    if too_deep:
        raise InvalidUpdate(f"an update's state may be nested {MAX_DEPTH} levels deep at the most")
    if len(tail) > MAX_UPDATE_BYTES:
        raise InvalidUpdate(f"an update may have {MAX_UPDATE_BYTES:,} bytes at the most, this one has {len(tail):,}")
    return tail


def _deeper_than(levels: int, values: Iterable[object]) -> bool:
    for value in values:
        if isinstance(value, _CONTAINERS):
            inner = value.values() if isinstance(value, dict) else value
            if not levels or _deeper_than(levels - 1, inner):
                return True
    return False


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


def index_of(record: bytes) -> int:
    """Read the index from a record's header."""
    return int.from_bytes(record[7:15], "big")


def unpack_records(data: bytes) -> list[Update]:
    """Unpack records that stand one after another. Raises ValueError where the bytes are no records."""
    try:
        # Most of what is published is one record, which this reads ten times faster.
        return [_decode(data)]
    except (msgspec.DecodeError, RecursionError):
        return _unpack_several(data)


def unpack_message(data: bytes) -> tuple[str, list[Update]]:
    """Unpack a published message into the log's id and the records. Raises ValueError where it is none."""
    end = 1 + data[0] - _SHORT_TEXT if data else 0
    if not 0 < end <= 32:
        raise ValueError("a published message must begin with the log's id")
    return data[1:end].decode(), unpack_records(data[end:])


def _unpack_several(data: bytes) -> list[Update]:
    unpacker = msgpack.Unpacker(max_buffer_size=_BUFFER_BYTES)
    unpacker.feed(data)
    # The unpacker stops without a word where bytes are missing; a nil that does not come out again shows that.
    unpacker.feed(_NIL)
    try:
        *records, end = unpacker
        updates = msgspec.convert(records, list[Update])
    except (ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"these bytes are no records: {error}") from error
    if end is not None:
        raise ValueError("these bytes are no whole records: the last one is cut off")
    return updates
