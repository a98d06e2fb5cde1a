"""What the command and its processes tell each other: a JSON message a line, orders one way, news the other."""

from __future__ import annotations

import sys

import msgspec

from workers.bench.content import Content
from workers.bench.histogram import Histogram

MOST_FAULTS = 20
"""A load process names so many of its clients' faults, and counts the rest."""

GO = b"go\n"
FINISH = b"finish\n"


class LoadOrder(msgspec.Struct, frozen=True):
    """Be ``clients`` clients of a gateway, numbered from ``first``.

    On GO they connect, ``at_once`` at a time; on FINISH each closes in order, and what it got by then is the verdict.
    With ``restless_s`` they come, go and stall at random for so many seconds, which follows from the content's seed.
    """

    gateway: str
    node: str
    content: Content
    first: int
    clients: int
    at_once: int
    timeout_s: float
    restless_s: float = 0.0


class LoadNews(msgspec.Struct, frozen=True, tag=True):
    """How far a load process is.

    Counted are clients that have connected, updates verified, clients for whom nothing more is due, and those of the
    others whose stream is wrong or who are not connected for good.
    """

    connected: int = 0
    delivered: int = 0
    done: int = 0
    faulty: int = 0


class LoadReport(msgspec.Struct, frozen=True, tag=True):
    """A load process's verdict.

    ``done_ns`` is when the last of its clients had everything, by the monotonic clock. ``latency`` is from an update's
    sending to its coming, ``joining`` from GO until a client had all. Counted are connections made beyond the first of
    a client, because it had left (``resumed``) or was lost (``lost``), clients that began anew (``renewed``), stalls.
    """

    delivered: int
    done_ns: int
    latency: Histogram
    joining: Histogram
    faults: list[str]
    more_faults: int
    resumed: int = 0
    lost: int = 0
    renewed: int = 0
    stalls: int = 0


class PublishOrder(msgspec.Struct, frozen=True):
    """On GO publish all of the content at ``rate`` updates a second, 0 for as fast as can be, and report.

    With ``prepared`` the updates are made before GO, so that nothing is measured but publishing.
    """

    redis_url: str
    prefix: str
    node: str
    content: Content
    rate: float
    timeout_s: float
    prepared: bool = False


class PublishNews(msgspec.Struct, frozen=True, tag=True):
    """How many updates are accepted. The first tells that the publisher may be told to go."""

    accepted: int


class PublishReport(msgspec.Struct, frozen=True, tag=True):
    """All is published. Times are the monotonic clock's; ``update`` has the durations of `update()`."""

    began_ns: int
    accepted_ns: int
    acknowledged_ns: int
    update: Histogram
    fault: str | None = None


def tell(message: msgspec.Struct) -> None:
    """Tell the command that has started this process."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()
