"""Clients of a server that check what they get: a process of load.c, and what it reports."""

from __future__ import annotations

import msgspec

from workers.local_parts import PartFailed, Parts


class NotWhole(Exception):
    """Not every client got every update once and in order; the text says who got what."""


class Report(msgspec.Struct, frozen=True):
    """What all clients of the process got.

    ``whole`` of the clients got everything that they are owed, once and in order. ``skipped`` counts updates that
    another one came in place of, ``repeated`` those that came again or too late, ``unlinked`` those with a wrong
    ``previous``, ``malformed`` messages that are none of the updates. Until the last handshake it took ``open_s``,
    until the last update ``read_s``, from when they began to connect. ``fault`` is the first thing that was wrong.
    """

    clients: int
    opened: int
    closed: int
    whole: int
    delivered: int
    skipped: int
    repeated: int
    unlinked: int
    malformed: int
    pings: int
    open_s: float
    read_s: float
    p50_ms: float
    p99_ms: float
    fault: str

    def check(self) -> None:
        """Raise NotWhole if anything is wrong with what any client got."""
        if self.whole == self.clients:
            return
        counts = ", ".join(
            f"{count:,} {name}"
            for name, count in [
                ("skipped", self.skipped),
                ("repeated", self.repeated),
                ("with a wrong previous", self.unlinked),
                ("malformed", self.malformed),
                ("connections closed", self.closed),
            ]
            if count
        )
        raise NotWhole(
            f"{self.whole:,} of {self.clients:,} clients got everything once and in order"
            f"{f' ({counts})' if counts else ''}; first of all, {self.fault}"
        )


class Clients:
    """The clients of one process, which `connecting` starts."""

    def __init__(self, parts: Parts, command: list[str]) -> None:
        self._parts = parts
        self._process = parts.start("the clients", command, talking=True)
        self._report: Report | None = None

    def wait_open(self) -> None:
        """Return once all are connected. Raises NotWhole where one is refused."""
        self._expect("open")

    def wait_read(self) -> None:
        """Return once all that read have all that they are owed. Raises NotWhole where nothing comes any more."""
        self._expect("read")

    def let_stalled_read(self) -> None:
        """Have those read on that have stalled since they connected; `wait_read` waits for them, too."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"read\n")
        self._process.stdin.flush()

    def finish(self, *, at_once: bool = False) -> Report:
        """Return the `report`. Raises NotWhole."""
        report = self.report(at_once=at_once)
        report.check()
        return report

    def report(self, *, at_once: bool = False) -> Report:
        """Return what the process found, right or wrong, once it ends: by itself, or ``at_once`` if nothing is owed."""
        assert self._process.stdin is not None
        if at_once:
            self._process.stdin.close()
        while self._report is None:
            self._read_line()
        return self._report

    def _expect(self, word: str) -> None:
        while (line := self._read_line()) != word:
            if line is None:
                self.finish()
                raise PartFailed(f"the clients ended before they said {word!r}")

    def _read_line(self) -> str | None:
        """The next word that the process says; None for the report, which is kept."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line:
            self._process.wait()
            self._parts.check()
        if line.startswith("{"):
            self._report = msgspec.json.decode(line, type=Report)
            return None
        return line.strip()
