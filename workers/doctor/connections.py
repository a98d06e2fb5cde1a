"""What the server allows its connections: how many, how idle, how slow, how large."""

from __future__ import annotations

from typing import NamedTuple

from streamer.core.records import MAX_UPDATE_BYTES
from streamer.lane import BATCH_BYTES
from workers.doctor.checks import Case, Check
from workers.doctor.facts import Facts, Size
from workers.doctor.findings import Level, Promise

MESSAGE_BYTES = BATCH_BYTES + MAX_UPDATE_BYTES
"""The greatest message that a batch may become."""

BURST_BYTES = 8 << 20
"""What may wait for a gateway that is slow for a moment, before it is cut off."""

BURST_S = 10


class Buffer(NamedTuple):
    """How much may wait for a subscriber: at once, and for so many seconds; 0 for any."""

    hard: Size
    soft: Size
    soft_s: int

    def below(self, size: int) -> bool:
        """Whether so many bytes are too many."""
        return 0 < self.hard < size or (0 < self.soft < size and self.soft_s < BURST_S)


class Clients(NamedTuple):
    """Connections: how many there may be, how many there are, and how many were refused."""

    most: int
    now: int
    refused: int

    @property
    def free(self) -> int:
        """How many more there may be."""
        return self.most - self.now


def _buffer(facts: Facts) -> Buffer | None:
    words = (facts.text("client-output-buffer-limit") or "").split()
    if "pubsub" not in words:
        return None
    numbers = [_bytes(word) for word in words[words.index("pubsub") + 1 :][:3]]
    if len(numbers) < 3 or None in numbers:
        return None
    hard, soft, soft_s = (number or 0 for number in numbers)
    return Buffer(Size(hard), Size(soft), soft_s)


def _bytes(text: str) -> int | None:
    number = text.lower().rstrip("kmgb")
    unit = {"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30}
    return int(number) * unit[text.lower()[len(number) :]] if number.isdecimal() else None


def _clients(facts: Facts) -> Clients | None:
    most, now = facts.number("maxclients"), facts.number("connected_clients")
    if most is None or now is None:
        return None
    return Clients(most, now, facts.number("rejected_connections") or 0)


def _longest_text(facts: Facts) -> Size | None:
    most = facts.number("proto-max-bulk-len")
    return None if most is None else Size(most)


_WIDEN = "Set client-output-buffer-limit pubsub 64mb 16mb 30."

CHECKS: tuple[Check[Buffer] | Check[Clients] | Check[Size] | Check[int], ...] = (
    Check(
        "pub/sub buffers",
        Promise.REPAIRED,
        _buffer,
        "{0.hard}, or {0.soft} for {0.soft_s} s",
        (
            Case(
                lambda buffer: buffer.below(MESSAGE_BYTES),
                Level.PROBLEM,
                "{0.hard}, or {0.soft} for {0.soft_s} s: a single batch can be more, and cuts every gateway off",
                Promise.REPAIRED,
                _WIDEN,
            ),
            Case(
                lambda buffer: buffer.below(BURST_BYTES),
                Level.WARNING,
                "{0.hard}, or {0.soft} for {0.soft_s} s: a gateway that is slow for a moment is cut off in a burst",
                Promise.REPAIRED,
                _WIDEN,
            ),
            Case(
                lambda buffer: not buffer.hard and not buffer.soft,
                Level.WARNING,
                "without bound: what waits for a gateway that hangs takes the memory of the server",
                Promise.OUTAGE,
                _WIDEN,
            ),
        ),
    ),
    Check(
        "idle connections",
        Promise.RECONNECTED,
        lambda facts: facts.number("timeout"),
        "are kept",
        (
            Case(
                lambda timeout_s: 0 < timeout_s < 60,
                Level.WARNING,
                "timeout {0}: connections that idle for {0} s are closed; a node's first update after that, and a "
                "gateway's first read, come late",
                Promise.RECONNECTED,
                "Set timeout 0; tcp-keepalive finds those who are gone.",
            ),
            Case(
                lambda timeout_s: timeout_s > 0,
                Level.NOTE,
                "timeout {0}: connections that idle for {0} s are closed, and made anew with the next update",
                Promise.RECONNECTED,
                "Set timeout 0; tcp-keepalive finds those who are gone.",
            ),
        ),
    ),
    Check(
        "keep-alive",
        Promise.RECONNECTED,
        lambda facts: facts.number("tcp-keepalive"),
        "every {0} s",
        (
            Case(
                lambda interval_s: interval_s == 0,
                Level.WARNING,
                "tcp-keepalive 0: connections of machines that vanished stay for ever, until maxclients is reached",
                Promise.RECONNECTED,
                "Set tcp-keepalive 60.",
            ),
            Case(
                lambda interval_s: interval_s > 300,
                Level.NOTE,
                "tcp-keepalive {0}: connections of machines that vanished are found late",
                Promise.RECONNECTED,
                "Set tcp-keepalive 60.",
            ),
        ),
    ),
    Check(
        "number of connections",
        Promise.RECONNECTED,
        _clients,
        "{0.now:,} of {0.most:,}",
        (
            Case(
                lambda clients: clients.free < clients.most / 20,
                Level.PROBLEM,
                "{0.now:,} of {0.most:,}: more nodes and gateways are turned away",
                Promise.RECONNECTED,
                "Raise maxclients, and the server's limit of open files. A node's process takes 1 connection, a "
                "gateway's up to 17.",
            ),
            Case(
                lambda clients: clients.free < clients.most / 5 or clients.free < 64,
                Level.WARNING,
                "{0.now:,} of {0.most:,}: when all come back at once after a fault, some may be turned away",
                Promise.RECONNECTED,
                "Raise maxclients, and the server's limit of open files. A node's process takes 1 connection, a "
                "gateway's up to 17.",
            ),
            Case(
                lambda clients: clients.refused > 0,
                Level.NOTE,
                "{0.now:,} of {0.most:,} now, but {0.refused:,} were turned away since the server started",
                Promise.RECONNECTED,
                "Raise maxclients if it may happen again.",
            ),
        ),
    ),
    Check(
        "size of an update",
        Promise.ACCEPTED,
        _longest_text,
        f"updates of up to {Size(MAX_UPDATE_BYTES)} fit (proto-max-bulk-len {{0}})",
        (
            Case(
                lambda size: size < MESSAGE_BYTES,
                Level.PROBLEM,
                f"proto-max-bulk-len {{0}}: an update may have {Size(MAX_UPDATE_BYTES)}, and one that is refused "
                "holds up all behind it",
                Promise.ACCEPTED,
                "Leave proto-max-bulk-len at 512mb.",
            ),
        ),
    ),
)
