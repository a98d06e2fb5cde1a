"""The processes of the demo: each logs to a file, all end together, and none outlives the demo."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from streamer.core.errors import StreamerError
from workers.sentences import signal_name

STOP_TIMEOUT_S = 2.0
TAIL_LINES = 10

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class DemoFailed(StreamerError):
    """The demo cannot go on; the text says why and what to do."""


class Parts:
    """Processes that are of use only together; a context manager that ends them all.

    ``directory`` gets what each one prints, as the demo's own output is for people.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory, self._environment = directory, environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str]) -> None:
        """Start one, in a session of its own: Ctrl-C reaches the demo alone, which ends all in order."""
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_the_demo,
            )

    def check(self) -> None:
        """Raise DemoFailed if one has ended, with its last words."""
        for name, process in self._processes.items():
            if (status := process.poll()) is not None:
                how = f"with exit status {status}" if status >= 0 else f"killed by {signal_name(-status)}"
                lines = self._log(name).read_text(errors="replace").splitlines()[-TAIL_LINES:]
                words = "; its last words:\n  " + "\n  ".join(lines) if lines else ""
                raise DemoFailed(f"{name} has ended, {how}{words}")

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


def _die_with_the_demo() -> None:
    """Have Linux kill this child when the demo dies, be it by SIGKILL; elsewhere that case leaves children behind."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
