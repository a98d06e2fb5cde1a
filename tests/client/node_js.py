"""Programs in Node."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, TextIO

import pytest

from tests.servers import missing

HERE = Path(__file__).resolve().parent / "js"
CLIENT = Path(__file__).resolve().parents[2] / "streamer" / "client" / "js"
INSTALL_S = 120
DEADLINE_S = 30.0


def node_modules() -> Path:
    """What npm has installed for the tests; it is done once."""
    for tool in ("node", "npm"):
        shutil.which(tool) or missing(tool)
    installed = HERE / "node_modules"
    if not (installed / ".package-lock.json").exists():
        done = subprocess.run(["npm", "ci", "--silent"], cwd=HERE, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            pytest.fail(f"npm ci failed: {done.stdout}{done.stderr}")
    return installed


class Following:
    """A program that follows; ``said`` is what it printed, as far as that was waited for, line by line."""

    def __init__(self, process: subprocess.Popen[str], output: TextIO) -> None:
        self.process = process
        self.said: list[list[Any]] = []
        self._lines: Queue[str] = Queue()
        self._reading = Thread(target=self._read, args=(output,))
        self._reading.start()

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self._reading.join()

    def until(self, *beginning: Any) -> list[Any]:
        """The next line that begins so; fails where none comes in time."""
        deadline = time.monotonic() + DEADLINE_S
        with suppress(Empty):
            while line := self._lines.get(timeout=max(0, deadline - time.monotonic())):
                self.said.append(json.loads(line))
                if self.said[-1][: len(beginning)] == list(beginning):
                    return self.said[-1]
        pytest.fail(f"it did not say {beginning}; status {self.process.poll()}, at the end {self.said[-3:]}")

    def _read(self, output: TextIO) -> None:
        for line in output:
            self._lines.put(line)
        self._lines.put("")

    def updates(self, name: str) -> list[tuple[int, Any]]:
        """The index and the number of each update that a follow got so far."""
        return [(index, n) for kind, of, index, n, *_ in map(_padded, self.said) if (kind, of) == ("update", name)]


def _padded(line: list[Any]) -> list[Any]:
    return [*line, None, None, None]


@contextmanager
def following(urls: list[str], *follows: dict[str, Any], **more: Any) -> Iterator[Following]:
    """A program that follows each of these, through these gateways, to the end of the block."""
    ws = node_modules() / "ws" / "wrapper.mjs"
    order = json.dumps({"urls": urls, "follows": follows, **more})
    arguments = ["node", str(HERE / "follow.mjs"), str(CLIENT / "client.js"), str(ws), order]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        program = Following(process, process.stdout)
        try:
            yield program
        finally:
            program.kill()
