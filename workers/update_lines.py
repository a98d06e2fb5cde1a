"""Updates as lines for people: time, index, status, state; in colour where the terminal has any."""

from __future__ import annotations

import io
from datetime import date, datetime
from typing import TextIO

import msgspec
from rich.cells import cell_len
from rich.text import Text

from streamer.core.messages import PlainMessage
from workers.safe_text import shortened
from workers.standard_output import OutputConsole

STATUS_CELLS = 20

_COLOURS = (
    ("bold red", ("fail", "error", "crash", "abort", "lost")),
    ("green", ("finish", "done", "complete", "success")),
    ("cyan", ("start",)),
    ("blue", ("run",)),
)
"""The first whose word stands in the status."""

VALUE_CHARACTERS = 1000
LINE_CHARACTERS = 4000
"""So much is shown of a value, and from so much on in a line no further value: who wants all takes the JSON."""


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
        line = Text(self._time(message.timestamp), "dim")
        line.append(f" {message.index:>6} ", "dim")
        status = shortened(message.status, VALUE_CHARACTERS)
        line.append(status + " " * (STATUS_CELLS - cell_len(status)), _colour(status))
        for shown, (key, value) in enumerate(message.state.items()):
            if len(line) > LINE_CHARACTERS:
                line.append(f" … and {len(message.state) - shown:,} more", "dim")
                break
            line.append(f" {shortened(key, VALUE_CHARACTERS)}=", "dim")
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            line.append(shortened(text, VALUE_CHARACTERS))
        self._console.print(line)
        self._out.flush()

    def _time(self, timestamp: int) -> str:
        """The time of day, behind the line of its date where that is another."""
        try:
            time = datetime.fromtimestamp(timestamp / 1000).astimezone()
        except (ValueError, OverflowError, OSError):  # beyond the calendar
            return f"{timestamp} ms"
        if time.date() != self._day:
            self._day = time.date()
            self._console.print(Text(f"{self._day:%A, %Y-%m-%d}", "dim"))
        return f"{time:%H:%M:%S}.{timestamp % 1000:03}"


def _colour(status: str) -> str:
    return next((colour for colour, words in _COLOURS if any(word in status for word in words)), "")
