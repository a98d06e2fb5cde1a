"""The processes that load and publish: they take orders, and tell how far they are."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import msgspec

from workers.bench.orders import (
    LoadNews,
    LoadOrder,
    LoadReport,
    PublishNews,
    PublishOrder,
    PublishReport,
)
from workers.local_parts import Parts
from workers.own_programs import own_program

LOOK_S = 0.05
News = TypeVar("News", bound=msgspec.Struct)
Report = TypeVar("Report", bound=msgspec.Struct)


class Member(Generic[News, Report]):
    """One of the processes. ``news`` is the last it told, None before the first; ``report`` its verdict."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, news: type[News], report: type[Report]) -> None:
        self.name, self.pid, self.process = name, process.pid, process
        self.news: News | None = None
        self.report: Report | None = None
        self._news, self._report = news, report
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    def order(self, order: msgspec.Struct) -> None:
        """Tell it what to do, as a line of JSON."""
        self.say(msgspec.json.encode(order) + b"\n")

    def say(self, line: bytes) -> None:
        """Tell it to go on. Whether it still lives, `Parts.check` tells."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, and perhaps its pipes are closed
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin, self.process.stdout:
            self._hear(self.process.stdout)

    def _hear(self, told: Iterable[bytes]) -> None:
        message: News | Report
        decode = msgspec.json.Decoder(self._news | self._report).decode
        for line in told:
            if not line.endswith(b"\n"):
                return  # it died over it
            message = decode(line)
            if isinstance(message, self._report):
                self.report = message
            elif isinstance(message, self._news):
                self.news = message


Loader = Member[LoadNews, LoadReport]
Publisher = Member[PublishNews, PublishReport]


class Crew:
    """Starts the processes, and waits for them together."""

    def __init__(self, parts: Parts, timeout_s: float) -> None:
        self._parts, self._timeout_s = parts, timeout_s

    def loader(self, number: int, order: LoadOrder) -> Loader:
        """Start a process of clients."""
        return self.start(f"load process {number}", "workers.bench.load", order, LoadNews, LoadReport)

    def publisher(self, order: PublishOrder) -> Publisher:
        """Start a publisher."""
        return self.start("the publisher", "workers.bench.publishing", order, PublishNews, PublishReport)

    def start(
        self, name: str, module: str, order: msgspec.Struct, news: type[News], report: type[Report]
    ) -> Member[News, Report]:
        """Start a program of ours, whose first line of input is the order."""
        process = self._parts.start(name, own_program(module), talking=True)
        member: Member[News, Report] = Member(process, name, news, report)
        member.order(order)
        return member

    def wait(
        self,
        until: Callable[[], bool],
        progress: Callable[[], object],
        timeout_s: float | None = None,
        show: Callable[[], None] = lambda: None,
    ) -> bool:
        """Wait until the condition holds; return False where what ``progress`` gives has not changed for too long.

        ``show`` is called from time to time. Raises PartFailed where a process has ended.
        """
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        last, deadline = progress(), time.monotonic() + timeout_s
        while not until():
            self._parts.check()
            show()
            time.sleep(LOOK_S)
            if (now := progress()) != last:
                last, deadline = now, time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                return until()
        show()
        return True
