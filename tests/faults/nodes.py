"""Nodes in processes of their own, and what each of them knows to be accepted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamer.core.records import Update
from tests.commands import environment
from tests.faults.watchers import DEADLINE_S, Seen, Watcher, eventually
from tests.servers import wait_until

APART = 10_000_000
"""Processes number their updates so far apart."""


class NodeProcess:
    """A process that runs `node.py`, whose ledger is a file; a context manager that kills it at the end.

    ``settings`` are its own, by their names in small letters; ``process`` are options of Popen.
    """

    def __init__(
        self,
        redis_url: str,
        node: str,
        first: int,
        ledger: Path,
        *options: str,
        settings: dict[str, object],
        **process: Any,
    ) -> None:
        self.first, self._ledger = first, ledger
        variables = {f"STREAMER_{name.upper()}": str(value) for name, value in settings.items()}
        arguments = [sys.executable, "-W", "ignore", "-m", "tests.faults.node", node, str(first), *options]
        with ledger.open("wb") as file:
            self.process = subprocess.Popen(
                arguments,
                env=environment(STREAMER_REDIS_URL=redis_url, STREAMER_RETENTION_RECORDS="1000000", **variables),
                stdout=file,
                **process,
            )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def lines(self) -> list[str]:
        """What it has told so far, in whole lines."""
        return self._ledger.read_text(encoding="utf-8").split("\n")[:-1]

    @property
    def accepted(self) -> list[int]:
        """The numbers of the updates that it knows to be accepted."""
        return [int(line[1:]) for line in self.lines if line.startswith("+")]

    @property
    def acknowledged(self) -> int:
        """How many updates it knows to be acknowledged."""
        return max((int(line[1:]) - self.first + 1 for line in self.lines if line.startswith("=")), default=0)

    @property
    def refusals(self) -> list[str]:
        """The sentences with which updates, or a flush, were refused."""
        return [line[1:] for line in self.lines if line.startswith("!")]

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Have it flush and end."""
        self.process.terminate()
        status = self.process.wait(DEADLINE_S)
        assert status == 0, f"it ended with {status}, having told {self.lines[-3:]}"
        assert self.lines[-1] == "."

    def until(self, what: str) -> None:
        """Return once it has told a line that begins so."""
        wait_until(f"{what} is told", lambda: any(line.startswith(what) for line in self.lines), DEADLINE_S)

    async def until_accepted(self, more: int) -> None:
        """Return once so many more are accepted than now."""
        wanted = len(self.accepted) + more
        await eventually(f"{wanted} are accepted", lambda: len(self.accepted) >= wanted)


def numbers_of(log: Sequence[Update], first: int) -> list[int]:
    """The numbers in a log of the process that counts from ``first``, in their order there."""
    return [update.state["n"] for update in log if first <= update.state["n"] < first + APART]


def check_log(log: Sequence[Update], *nodes: NodeProcess) -> None:
    """Fail unless a log has what the processes published, each once and in its order, and nothing else.

    The last of a process that was killed may be there though it could not tell.
    """
    assert [update.index for update in log] == list(range(len(log)))
    for each in nodes:
        accepted = each.accepted
        published = numbers_of(log, each.first)
        assert accepted, "it published nothing"
        assert published[: len(accepted)] == accepted
        killed = each.lines[-1] != "."
        assert published[len(accepted) :] in ([[], [accepted[-1] + 1]] if killed else [[]])
    assert len(log) == sum(len(numbers_of(log, each.first)) for each in nodes)


def records(log: Sequence[Update]) -> list[Seen]:
    """A log as a watcher sees it."""
    return [Seen(update.epoch, update.index, update.state.get("n", -1)) for update in log]


async def has_seen(watcher: Watcher, log: Sequence[Update]) -> None:
    """Return once a watcher has come to a log's end; fail unless it has seen the log, each record once, in order."""
    last = records(log)[-1]
    await watcher.until(f"{last} arrives", lambda seen: seen and seen[-1] == last)
    assert watcher.seen == records(log)
