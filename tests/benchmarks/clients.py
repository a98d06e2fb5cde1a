"""Clients of a server that check what they get: a process of load.c, and what it reports."""

from __future__ import annotations

import msgspec

from tests.benchmarks.talking import Talking
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

    def fault_sentence(self) -> str:
        """Say what is wrong. Only where something is."""
        counts = {
            "skipped": self.skipped,
            "repeated": self.repeated,
            "with a wrong previous": self.unlinked,
            "malformed": self.malformed,
            "connections closed": self.closed,
        }
        found = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return (
            f"{self.whole:,} of {self.clients:,} clients got everything once and in order"
            f"{f' ({found})' if found else ''}; first of all, {self.fault}"
        )


class Clients:
    """A process of clients, which connect at once; the command is load.c's."""

    def __init__(self, parts: Parts, command: list[str]) -> None:
        self._talking = Talking(parts, "the clients", command)
        self._report: Report | None = None

    def wait_open(self) -> None:
        """Return once all are connected. Raises NotWhole where nothing comes any more."""
        self._expect(b"open\n")

    def wait_read(self) -> None:
        """Return once all that read have all that they are owed. Raises NotWhole where nothing comes any more."""
        self._expect(b"read\n")

    def let_stalled_read(self) -> None:
        """Have those read on that have stalled since they connected; `wait_read` then waits for them, too."""
        self._talking.say(b"read\n")

    def finish(self, *, at_once: bool = False) -> Report:
        """Return the `report`. Raises NotWhole."""
        report = self.report(at_once=at_once)
        if report.whole < report.clients:
            raise NotWhole(report.fault_sentence())
        return report

    def report(self, *, at_once: bool = False) -> Report:
        """Return what the process found, right or wrong, once it ends: by itself, or ``at_once`` if nothing is owed."""
        if at_once:
            self._talking.say_no_more()
        while self._report is None:
            self._hear()
        return self._report

    def close(self) -> None:
        """Hear no more of it."""
        self._talking.close()

    def _expect(self, word: bytes) -> None:
        while self._hear() != word:
            if self._report is not None:
                self.finish()
                raise PartFailed(f"the clients ended before they said {word.decode().strip()!r}")

    def _hear(self) -> bytes:
        line = self._talking.line()
        if line.startswith(b"{"):
            self._report = msgspec.json.decode(line, type=Report)
        return line
