"""A command's standard output, which may be closed, full, or read by nobody any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from streamer.core.errors import StreamerError


class CannotShow(StreamerError):
    """Standard output cannot be written; the text says why."""


class OutputConsole(Console):
    """A console of rich that lets whoever reads leave."""

    def on_broken_pipe(self) -> None:
        """Raise, as any write does: rich would end the process with status 1."""
        raise BrokenPipeError


@contextmanager
def showing(what: str) -> Iterator[None]:
    """Print ``what`` in the block, to its end or until nobody reads it any more. Raises CannotShow."""
    if sys.stdout is None:
        raise CannotShow(f"{what} cannot be shown: standard output is closed")
    try:
        yield
    except BrokenPipeError:
        _forget_output()
    except OSError as error:
        _forget_output()
        raise CannotShow(f"{what} cannot be shown: {error.strerror}") from None


def _forget_output() -> None:
    """Let Python's end not find out once more that standard output cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
