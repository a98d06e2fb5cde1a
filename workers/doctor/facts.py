"""What was found out about a Redis, before anything is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Lack(NamedTuple):
    """A right that the user does not have. ``what`` is a command, a key or a channel as ``kind`` says; or an unknown
    command. ``who`` needs it: nodes, gateways or both."""

    kind: str
    what: str
    command: str
    who: str


class Spread(NamedTuple):
    """How long something took, each time it was done, in ms."""

    median_ms: float
    p99_ms: float
    times: int

    @classmethod
    def of(cls, durations_s: Sequence[float]) -> Spread | None:
        """Sum up durations in seconds; None where there are none."""
        if not durations_s:
            return None
        ordered = [1000 * duration for duration in sorted(durations_s)]
        return cls(ordered[len(ordered) // 2], ordered[(len(ordered) * 99 - 1) // 100], len(ordered))


class Clock(NamedTuple):
    """The server's time in seconds since 1970, and by how many this machine's is ahead of it, give or take."""

    time_s: float
    ahead_s: float
    error_s: float

    @property
    def off_s(self) -> float:
        """By how much the two differ at the least."""
        return max(0.0, abs(self.ahead_s) - self.error_s)


class Trial(NamedTuple):
    """How something went that was tried: ``fault`` is empty where it went well."""

    fault: str = ""


class Member(NamedTuple):
    """A server of a cluster: where it is, its id, its master's id or empty, whether it is well, and its slots."""

    address: str
    id: str
    master_id: str
    well: bool
    slots: tuple[range, ...]
    myself: bool


class Cluster(NamedTuple):
    """A cluster as this server sees it; ``info`` is CLUSTER INFO."""

    info: Mapping[str, str]
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Facts:
    """All that is known of a Redis. What nobody tells is None, or not in its mapping.

    ``scheme`` is the URL's; ``info`` is INFO as redis-py reads it; ``config`` is what CONFIG GET told, as text.
    ``sentinels`` is how many watch this server. ``lacks`` are the rights that the user ``user`` has not, of
    those that ``role`` needs.
    ``ping`` and ``append`` are how long these took; ``appending`` and ``delivering`` how they went, if they were tried.
    """

    scheme: str = "redis"
    prefix: str = "streamer:"
    info: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    cluster: Cluster | None = None
    sentinels: int | None = None
    user: str | None = None
    role: str = "both"
    lacks: Sequence[Lack] | None = None
    clock: Clock | None = None
    ping: Spread | None = None
    append: Spread | None = None
    appending: Trial | None = None
    delivering: Trial | None = None

    def text(self, setting: str) -> str | None:
        """A setting, by CONFIG GET or else by what INFO tells of it."""
        value = self.config.get(setting, self.info.get(setting.replace("-", "_")))
        return None if value is None else str(value)

    def number(self, setting: str) -> int | None:
        """A setting that is a number, or a figure of INFO; None also where it is something else."""
        text = self.text(setting)
        return int(text) if text is not None and text.lstrip("-").isdecimal() else None

    @property
    def clustered(self) -> bool:
        """Whether the server is one of a cluster."""
        return self.number("cluster_enabled") == 1 or self.cluster is not None

    @property
    def sentinel(self) -> bool:
        """Whether the server is no Redis but a Sentinel."""
        return "sentinel" in (self.text("redis_mode"), self.text("server_mode"))

    @property
    def replica(self) -> bool:
        """Whether the server is known to be a replica."""
        return self.text("role") == "slave"


class Size(int):
    """A number of bytes, shown in the unit that suits."""

    def __str__(self) -> str:
        size, units = float(self), ["bytes", "KiB", "MiB", "GiB", "TiB"]
        while size >= 1024 and len(units) > 1:
            size /= 1024
            units.pop(0)
        return f"{size:{'.0f' if size >= 100 else '.3g'}} {units[0]}"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)
