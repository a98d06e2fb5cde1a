"""The line that tells on a terminal how far a run is. Elsewhere there is none."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text


class Stage:
    """The stage of a run, on standard error; a context manager that takes the line away at the end."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def begin(self, description: str, total: int | None = None) -> None:
        """Begin another stage, in which so much is to be reached."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total)

    def reach(self, completed: int) -> None:
        """Show how much is."""
        if self._task is not None:
            self._progress.update(self._task, completed=completed)

    def say(self, sentence: str) -> None:
        """Print a sentence above the line; also where there is no line."""
        self._progress.console.print(Text(sentence), soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
