"""Commands whose descriptors, environment or signals only a shell can arrange."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.commands import DEADLINE_S, NO_REDIS, command, environment


def run_in_shell(
    script: str, *arguments: str | bytes, redis_url: str = NO_REDIS, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's script in which "$@" is `streamer` with these arguments."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *command(), *arguments],
        env=environment(STREAMER_REDIS_URL=redis_url, **variables),
        capture_output=True,
        timeout=DEADLINE_S,
    )


def run_interrupted_at(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `streamer` with a Ctrl-C that comes when it begins to import a module."""
    program = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), {int(signal.SIGINT)})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from workers.cli import main\n"
        "main()\n"
    )
    return subprocess.run(
        [*command()[:1], "-c", program, *arguments],
        env=environment(STREAMER_REDIS_URL=NO_REDIS, PYTHONPATH=os.getcwd()),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@contextmanager
def running_at_terminal(*arguments: str) -> Iterator[int]:
    """Run `streamer` with standard error on a terminal of its own, whose other end this gives; kill it at the end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(*arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    try:
        with process:
            try:
                yield ours
            finally:
                process.kill()
    finally:
        os.close(ours)
