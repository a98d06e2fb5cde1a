"""A position in a node's log."""

from __future__ import annotations

import re

import msgspec

from streamer.core.errors import InvalidCursor

MAX_INDEX = 2**53 - 1
"""The scripts in Redis count with doubles, which are exact up to here."""

_TOKEN = re.compile(r"([0-9a-f]{1,32})\.([0-9]{1,10})\.(-1|[0-9]{1,16})", re.ASCII)
_BARE_INDEX = re.compile(r"-1|[0-9]{1,16}", re.ASCII)


class Cursor(msgspec.Struct, frozen=True):
    """The last update seen: the log's id, the epoch that gave the update out, and its index.

    Index -1 is the position before the first update. An empty log id matches any log: that is what a client
    has that knows a bare index and no more.
    """

    log_id: str
    epoch: int
    index: int

    @property
    def token(self) -> str:
        """The cursor as text for clients, opaque to them; `parse` reads it."""
        return f"{self.log_id}.{self.epoch}.{self.index}"

    @property
    def after(self) -> str:
        """What resumes here: the token or, where there is no log yet, a bare index, which goes on in whatever log there
        will be.
        """
        return self.token if self.log_id else str(self.index)

    def at(self, index: int) -> Cursor:
        """The position at another index of the same log and epoch."""
        return Cursor(self.log_id, self.epoch, index)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a token or a bare index. Raises InvalidCursor."""
        if _BARE_INDEX.fullmatch(text):
            cursor = cls("", 0, int(text))
        elif match := _TOKEN.fullmatch(text):
            cursor = cls(match[1], int(match[2]), int(match[3]))
        else:
            raise InvalidCursor(
                f"{text[:80]!a} is no cursor: give the `cursor` of the last message received, or its `index`"
            )
        if cursor.index > MAX_INDEX:
            raise InvalidCursor(f"index {cursor.index} is beyond the greatest possible, {MAX_INDEX}")
        return cursor


START = Cursor("", 0, -1)
"""Before the first update of whatever log there is."""
