"""Text that others wrote, as a terminal may have it: what it does not show is written as an escape.

A status, a name or an error's text may hold what moves the cursor, clears the screen or turns the writing direction.
"""

from __future__ import annotations

import re
import traceback
from types import TracebackType
from typing import Any

import msgspec

_JOINER = "\N{ZERO WIDTH JOINER}"
"""It makes one emoji of several, and cannot be printed alone."""

_NOT_ASCII_OR_DELETE = re.compile(rb"[\x7f-\xff]")


def visible(text: str) -> str:
    """A line of text, with an escape (`\\x1b`, `\\u202e`) for whatever character is none that one can see."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == _JOINER else _escape(character) for character in text
    )


def visible_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(visible, text.split("\n")))


def shortened(text: str, most: int) -> str:
    """The text's beginning, made visible, and how much there is of it where that is not all."""
    return visible(text) if len(text) <= most else f"{visible(text[:most])}… ({len(text):,} characters)"


def visible_traceback(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> str:
    """What Python says of an error that nobody foresaw."""
    return visible_lines("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def json_line(value: Any) -> bytes:
    """A value as a line of JSON, in which, too, characters that one cannot see are escaped."""
    data = msgspec.json.encode(value)
    if _NOT_ASCII_OR_DELETE.search(data):
        # Characters that are not ASCII stand only in texts, where JSON knows the same escapes.
        data = "".join(
            character if character.isprintable() else _json_escape(character) for character in data.decode()
        ).encode()
    return data + b"\n"


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
