"""The command line as users have it: a process, its output, its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streamer import NodeSettings, Update
from streamer.core.names import ALL
from streamer.state_streamer import StateStreamer

DEADLINE_S = 30
NO_REDIS = "redis://127.0.0.1:1/0"


def command(*arguments: str) -> list[str]:
    """The command line of `streamer` with these arguments, by this Python."""
    return [sys.executable, "-m", "workers", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of ours, and with these variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")} | variables


def run(*arguments: str, redis_url: str = NO_REDIS, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command(*arguments),
        env=environment(STREAMER_REDIS_URL=redis_url),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        **options,
    )


@contextmanager
def running(*arguments: str, redis_url: str = NO_REDIS, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the test; kill it at the end if it still runs."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        command(*arguments), env=environment(STREAMER_REDIS_URL=redis_url), text=True, **options
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def updates(redis_url: str, node: str, job: str = ALL) -> list[Update]:
    """What the log has of a node or a job."""
    return StateStreamer(node, NodeSettings(redis_url=redis_url)).states(job)


def first_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints; fails where it ends without one."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"the process ended with {process.wait(DEADLINE_S)} and printed nothing")
    return line
