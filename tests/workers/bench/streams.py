"""Frames as a gateway must send them, and streams made of them."""

from __future__ import annotations

import msgspec

from streamer.core.messages import PlainMessage, text_frame
from workers.bench.content import STATUS, Content, View

LOG_ID = "3f9a1c2b7d4e"
CONTENT = Content(seed=7, updates=6, size=50)
VIEW = View(CONTENT)


def message(number: int, content: Content = CONTENT) -> PlainMessage:
    """The message of an update."""
    timestamp = 1_764_000_000_000 + number
    state = content.state(number, timestamp, 1_000 * number)
    return PlainMessage(STATUS, state, timestamp, number, content.previous(number), f"{LOG_ID}.1.{number}")


def frame(number: int, content: Content = CONTENT) -> bytes:
    """The frame of an update."""
    return framed(message(number, content))


def framed(message: PlainMessage) -> bytes:
    """A message as a frame."""
    return text_frame(msgspec.json.encode(message))


def frames(*numbers: int) -> bytes:
    """The frames of updates, one after another."""
    return b"".join(map(frame, numbers))
