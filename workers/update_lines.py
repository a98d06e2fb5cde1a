"""Updates as lines for people: time, index, status, state; in colour where the terminal has any."""

from __future__ import annotations

import io
from datetime import date, datetime
from typing import TextIO

import msgspec
from rich.cells import cell_len
from rich.text import Text

from streamer.core.messages import PlainMessage
from workers.standard_output import OutputConsole

STATUS_CELLS = 20

_COLOURS = (
    ("bold red", ("fail", "error", "crash", "abort", "lost")),
    ("green", ("finish", "done", "complete", "success")),
    ("cyan", ("start",)),
    ("blue", ("run",)),
)
"""The first whose word stands in the status."""

_JOINER = "\N{ZERO WIDTH JOINER}"
"""It makes one emoji of several, and cannot be printed alone."""


class UpdateLines:
    """Prints updates to a text stream. A line that tells the date comes where the day changes."""

    def __init__(self, out: TextIO) -> None:
        if isinstance(out, io.TextIOWrapper):
            # Updates may hold characters that the terminal has no code for.
            out.reconfigure(errors="replace")
        self._out = out
        self._console = OutputConsole(file=out, highlight=False, soft_wrap=True)
        self._day = date.today()  # noqa: DTZ011 - the day of whoever watches

    def show(self, message: PlainMessage) -> None:
        """Print an update. Raises OSError where that cannot be done."""
        time = datetime.fromtimestamp(message.timestamp / 1000).astimezone()
        if time.date() != self._day:
            self._day = time.date()
            self._console.print(Text(f"{self._day:%A, %Y-%m-%d}", "dim"))
        line = Text(f"{time:%H:%M:%S}.{message.timestamp % 1000:03} ", "dim")
        line.append(f"{message.index:>6} ", "dim")
        status = plain(message.status)
        line.append(status + " " * (STATUS_CELLS - cell_len(status)), _colour(status))
        for key, value in message.state.items():
            line.append(f" {plain(key)}=", "dim")
            line.append(plain(value if isinstance(value, str) else msgspec.json.encode(value).decode()))
        self._console.print(line)
        self._out.flush()


def _colour(status: str) -> str:
    return next((colour for colour, words in _COLOURS if any(word in status for word in words)), "")


def plain(text: str) -> str:
    """Text without control characters, or any that turn the direction, which could deceive whoever watches."""
    return "".join(
        character if character.isprintable() or character == _JOINER else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
