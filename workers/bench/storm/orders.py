"""What the command and the processes of a storm tell each other: a JSON message a line."""

from __future__ import annotations

import msgspec

from workers.bench.histogram import Histogram
from workers.bench.storm.content import Content


class NodeOrder(msgspec.Struct, frozen=True):
    """Be the process of that number of a node: publish ``rate`` updates a second until PAUSE; end on FINISH."""

    redis_url: str
    prefix: str
    node: str
    process: int
    content: Content
    rate: float
    outbox_dir: str
    ledger: str
    timeout_s: float


class NodeNews(msgspec.Struct, frozen=True, tag=True):
    """How many updates are accepted; whether it publishes no more."""

    accepted: int
    paused: bool


class NodeReport(msgspec.Struct, frozen=True, tag=True):
    """All is acknowledged, or ``fault`` says what is not; what the publisher tells of itself."""

    accepted: int
    resent: int
    retries: int
    lost: int
    fault: str | None = None


class ClientsOrder(msgspec.Struct, frozen=True):
    """Be ``clients`` clients, numbered from ``first``, of these gateways, each of a topic of these nodes.

    They come within ``late_s`` seconds. A process of clients that is told nothing more ends.
    """

    gateways: list[str]
    nodes: list[str]
    content: Content
    first: int
    clients: int
    late_s: float


class Stall(msgspec.Struct, frozen=True, tag=True):
    """Have these clients read nothing for so long."""

    clients: list[int]
    lasts_s: float


class Leave(msgspec.Struct, frozen=True, tag=True):
    """Have these clients go without a word, and come back by their cursor, or ``anew``: as others, who have nothing."""

    clients: list[int]
    anew: bool


class Ends(msgspec.Struct, frozen=True, tag=True):
    """Where each node's log is now to be found in a file: whoever has it all to the end is done."""

    file: str


class Judge(msgspec.Struct, frozen=True, tag=True):
    """Have all clients close; report what each got wrong."""


class Places(msgspec.Struct, frozen=True):
    """A node's log, as the last message says: per job, empty for all, each update as it must come."""

    topics: dict[str, list[tuple[int, int, int, tuple[int, int]]]]


Told = Stall | Leave | Ends | Judge


class ClientsNews(msgspec.Struct, frozen=True, tag=True):
    """How many clients have ever connected, how many updates all have got, and how many have all, once told the end."""

    connected: int = 0
    delivered: int = 0
    done: int = 0


class ClientsReport(msgspec.Struct, frozen=True, tag=True):
    """The verdict of a process of clients.

    ``latency`` is from `update()` to a client that was connected then and reads. Counted are connections lost, those
    of them closed by a gateway in order, tries that failed, stalls, lives begun anew, and updates that a new epoch
    replaced. ``outage_ns`` is the longest time that a client had to be without a connection.
    """

    delivered: int
    latency: Histogram
    lost: int
    closed: int
    failed: int
    stalls: int
    anew: int
    replaced: int
    outage_ns: int
    faults: list[str]
    more_faults: int
