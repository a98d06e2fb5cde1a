"""Shows findings: a table for people, the worst first, or JSON."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from workers.doctor.findings import Finding, Level
from workers.safe_text import json_line, visible_lines
from workers.standard_output import OutputConsole, showing

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def show(url: str, findings: Sequence[Finding], as_json: bool) -> None:
    """Print the findings on standard output. Raises CannotShow."""
    with showing("the findings"):
        if as_json:
            sys.stdout.buffer.write(json_line(_as_json(url, findings)))
        else:
            console = OutputConsole(file=sys.stdout, highlight=False)
            console.print(_table(url, findings))
            console.print(Text(summary(findings)), soft_wrap=True)
        sys.stdout.flush()


def summary(findings: Sequence[Finding]) -> str:
    """How many there are of each level, the worst first."""
    counts = Counter(finding.level for finding in findings)
    return ", ".join(_counted(counts[level], level) for level in reversed(Level)) + "."


def _counted(count: int, level: Level) -> str:
    word = level.name.lower()
    return f"{count} {word}" if count == 1 or level is Level.OK else f"{count} {word}s"


def _as_json(url: str, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "redis": url,
        "worst": max((finding.level for finding in findings), default=Level.OK).name.lower(),
        "findings": [
            {
                "level": finding.level.name.lower(),
                "title": finding.title,
                "found": finding.found,
                "known": finding.known,
                "promise": finding.promise.value if finding.promise else None,
                "remedy": finding.remedy or None,
            }
            for finding in findings
        ],
    }


def _table(url: str, findings: Sequence[Finding]) -> Table:
    table = Table(title=f"streamer doctor {url}", title_justify="left", expand=False)
    table.add_column("level")
    table.add_column("what", max_width=18)
    table.add_column("found")
    for finding in sorted(findings, key=lambda finding: -finding.level):
        level = Text(finding.level.name.lower(), _STYLES[finding.level])
        table.add_row(level, Text(finding.title), _words(finding), end_section=bool(finding.remedy))
    return table


def _words(finding: Finding) -> Text:
    words = finding.found
    if finding.promise is not None and finding.remedy:
        words += f"\nAt risk: {finding.promise.value}\nTo do: {finding.remedy}"
    return Text(visible_lines(words))
