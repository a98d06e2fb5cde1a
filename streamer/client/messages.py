"""The messages of v1 as a client writes and reads them. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from streamer.core.messages import PlainMessage
from streamer.core.protocol import Error, Format, Gap, Live, Pong, Request, Reset, Rewind, Subscribed, Unsubscribed


class Update(PlainMessage, frozen=True):
    """One state change of a node.

    ``timestamp`` is in ms since 1970; ``index`` is the update's number in the node's log; ``previous`` is the index of
    the update before it in the same job, -1 if there is none. ``cursor`` is the position behind it: what `follow`
    takes as ``after``.
    """


class Updates(msgspec.Struct, frozen=True, tag_field="op", tag="updates"):
    """The next updates of a topic, and the cursor behind them."""

    node: str
    updates: list[Update]
    cursor: str
    job: str | None = None


Message = Updates | Subscribed | Live | Gap | Rewind | Reset | Unsubscribed | Pong | Error

Event = Update | Gap | Rewind | Reset | Live
"""What may come of a topic."""


class _Head(msgspec.Struct):
    op: str


_KNOWN = {kind.__struct_config__.tag for kind in Message.__args__}
_DECODERS: dict[Format, tuple[Any, Any]] = {
    Format.JSON: (msgspec.json.Decoder(Message), msgspec.json.Decoder(_Head)),
    Format.MSGPACK: (msgspec.msgpack.Decoder(Message), msgspec.msgpack.Decoder(_Head)),
}


def read(format: Format, data: str | bytes) -> Message | None:
    """What a gateway says, None where it is of a kind that is not known here. Raises ValueError where it is no v1."""
    if isinstance(data, str) is not (format is Format.JSON):
        raise ValueError(f"{'text' if isinstance(data, str) else 'a binary message'} in {format.value}")
    message, head = _DECODERS[format]
    try:
        return message.decode(data)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        if head.decode(data).op in _KNOWN:
            raise
        return None
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def write(format: Format, request: Request) -> str | bytes:
    """A request, as text or bytes as its frame is to be."""
    if format is Format.JSON:
        return msgspec.json.encode(request).decode()
    return msgspec.msgpack.encode(request)
