"""What a command has started, as the system tells."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    files = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for file in files for child in file.read_text().split()]


def words_of(pid: int) -> str:
    """A process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
