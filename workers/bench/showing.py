"""Shows what a run has found: a table for people, or JSON."""

from __future__ import annotations

import sys

from rich.table import Table
from rich.text import Text

from workers.bench.figures import Result
from workers.safe_text import json_line, visible_lines
from workers.standard_output import OutputConsole, showing


def show(result: Result, as_json: bool) -> None:
    """Print the result on standard output. Raises CannotShow."""
    with showing("the figures"):
        if as_json:
            sys.stdout.buffer.write(json_line(result.as_json()))
        else:
            _print(result)
        sys.stdout.flush()


def _print(result: Result) -> None:
    console = OutputConsole(file=sys.stdout, highlight=False)
    console.print(_table(result))
    settings = ", ".join(f"{name.replace('_', '-')} {_setting(name, value)}" for name, value in result.settings.items())
    console.print(Text(f"With {settings}."), soft_wrap=True)
    for note in result.notes:
        console.print(Text(f"Note: {visible_lines(note)}."), soft_wrap=True)


def _setting(name: str, value: float) -> str:
    return str(value) if name == "seed" else f"{value:,}"  # a seed is for copying


def _table(result: Result) -> Table:
    table = Table("figure", title=f"streamer bench {result.bench}", title_justify="left")
    table.add_column("value", justify="right")
    for figure in result.figures:
        table.add_row(figure.label, figure.text())
    table.add_row("every update once, in order, unaltered", "NO" if result.faults else "yes")
    return table
