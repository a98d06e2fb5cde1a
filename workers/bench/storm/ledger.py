"""What a node's process has accepted, written down so that it outlives the process."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Accepted(msgspec.Struct, frozen=True):
    """How many updates a process's `update()` has accepted: those of the numbers below ``count``.

    Where it was killed (``maybe_more``), it may have accepted one more, which it had no time to write down.
    """

    count: int
    maybe_more: bool = False


class Ledger:
    """An append-only file, of one process, with the number of each update on a line."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, number: int) -> None:
        """Write an update down. Once it returns, the kernel has it, and the death of the process takes nothing."""
        os.write(self._file, b"%d\n" % number)


def count_accepted(path: Path) -> int:
    """How many updates a ledger has; none where there is no file. Raises ValueError where it is no ledger."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    for number, line in enumerate(lines[:-1]):
        if line != b"%d" % number:
            raise ValueError(f"line {number + 1} of {path} is {line[:20]!r}")
    return len(lines) - 1
