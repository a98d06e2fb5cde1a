"""The processes that load and publish: they take orders, and tell how far they are."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable
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
News = TypeVar("News", LoadNews, PublishNews)
Report = TypeVar("Report", LoadReport, PublishReport)


class Member(Generic[News, Report]):
    """One of the processes. ``news`` is the last it told, None before the first; ``report`` its verdict."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, kind: object) -> None:
        self.name, self.pid = name, process.pid
        self.news: News | None = None
        self.report: Report | None = None
        self._process = process
        self._decode = msgspec.json.Decoder(kind).decode
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    def say(self, line: bytes) -> None:
        """Tell it to go on. Whether it still lives, `Parts.check` tells."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = self._decode(line)
            if isinstance(message, LoadReport | PublishReport):
                self.report = message  # type: ignore[assignment]
            else:
                self.news = message


Loader = Member[LoadNews, LoadReport]
Publisher = Member[PublishNews, PublishReport]


class Crew:
    """Starts the processes, and waits for them together."""

    def __init__(self, parts: Parts, timeout_s: float) -> None:
        self._parts, self._timeout_s = parts, timeout_s

    def loader(self, number: int, order: LoadOrder) -> Loader:
        """Start a process of clients."""
        return self._start(f"load process {number}", "workers.bench.load", order, LoadNews | LoadReport)

    def publisher(self, order: PublishOrder) -> Publisher:
        """Start a publisher."""
        return self._start("the publisher", "workers.bench.publishing", order, PublishNews | PublishReport)

    def _start(self, name: str, module: str, order: msgspec.Struct, kind: object) -> Member[News, Report]:
        process = self._parts.start(name, own_program(module), talking=True)
        member: Member[News, Report] = Member(process, name, kind)
        member.say(msgspec.json.encode(order) + b"\n")
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
