"""Processes that one command runs on this machine: each logs to a file, all end together, and none outlives it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from streamer.core.errors import StreamerError
from workers.sentences import signal_name

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 2.0
TAIL_LINES = 10

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class PartFailed(StreamerError):
    """The command cannot go on; the text says why and what to do."""


class Parts:
    """Processes that are of use only together; a context manager that ends them all.

    ``directory`` gets what each one prints, as the command's own output is for people.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory, self._environment = directory, environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: set[str] = set()

    def start(
        self, name: str, command: list[str], *, talking: bool = False, variables: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one, in a session of its own: Ctrl-C reaches the command alone, which ends all in order.

        Where it is ``talking``, its standard input and output are pipes to the caller. ``variables`` are put into its
        environment. One of the same name must have ended before; its log goes on.
        """
        with self._log(name).open("ab") as log, _interrupts.waiting():
            process = self._processes[name] = subprocess.Popen(
                command,
                env={**self._environment, **(variables or {})},
                stdin=subprocess.PIPE if talking else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talking else log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_the_command,
            )
        self._ending.discard(name)
        return process

    def let_end(self, name: str) -> None:
        """Have `check` say nothing where that one ends."""
        self._ending.add(name)

    def check(self) -> None:
        """Raise PartFailed if one has ended that should not, with its last words."""
        for name, process in self._processes.items():
            if (status := process.poll()) is not None and name not in self._ending:
                how = f"with exit status {status}" if status >= 0 else f"killed by {signal_name(-status)}"
                lines = self._log(name).read_text(errors="replace").splitlines()[-TAIL_LINES:]
                words = "; its last words:\n  " + "\n  ".join(lines) if lines else ""
                raise PartFailed(f"{name} has ended, {how}{words}")

    def wait_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Return once the condition holds. Raises PartFailed where one ends before, or where it takes too long."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise PartFailed(f"it was waited {START_TIMEOUT_S:g} s until {what}, in vain")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, name: str) -> Path:
        return self._directory / f"{name.replace(' ', '-')}.log"


class _Interrupts:
    """Turns the first signal into KeyboardInterrupt, though not while one must wait.

    Blocking the signal would not do: another thread takes it then, and Python runs the handler all the same.
    """

    def __init__(self) -> None:
        self._waits = self._pending = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        ignore_interrupts()
        if not self._waits:
            raise KeyboardInterrupt
        self._pending = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Have it wait while a process is started: one that we do not know of yet would outlive us."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt


_interrupts = _Interrupts()


def interrupt_once() -> None:
    """Have SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, the first of them; from then on none does anything."""
    for number in _ENDING:
        signal.signal(number, _interrupts.handle)


def ignore_interrupts() -> None:
    """Have none of these signals do anything: an impatient second Ctrl-C must not end the clearing up."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _die_with_the_command() -> None:
    """Have Linux kill this child when the command dies, be it by SIGKILL; elsewhere that leaves children behind."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
