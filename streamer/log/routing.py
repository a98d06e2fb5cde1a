"""Which server has which key: pure knowledge, however it was come by."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from threading import Lock
from typing import Any, NamedTuple, Protocol

from redis.crc import key_slot
from redis.exceptions import AskError

from streamer.log.url import Address

SLOTS = 16384

OUTDATED_S = 60.0
"""After so long the newest master that was ever named is forgotten, should all Sentinels name only older ones: set up
anew, they count failovers from 0."""


class Command(NamedTuple):
    """A command of Redis, and the key or the channel that says which server it is for."""

    key: str | bytes
    words: tuple[Any, ...]


def slot_of(key: str | bytes) -> int:
    """A cluster's slot of a key, or of a sharded channel."""
    return int(key_slot(key.encode() if isinstance(key, str) else key))


class Route(Protocol):
    """Which server has which key, as known at the moment."""

    @property
    def addresses(self) -> list[Address]:
        """Every server that has keys."""

    def server_of(self, key: str | bytes) -> Address | None:
        """The server of a key; None where there is none at the moment."""

    def tag_on(self, address: Address) -> str | None:
        """A hash tag whose keys a server has; empty where all keys are there, None where it has none."""


class OneServer(NamedTuple):
    """One server has all keys."""

    address: Address

    @property
    def addresses(self) -> list[Address]:
        """Every server that has keys."""
        return [self.address]

    def server_of(self, key: str | bytes) -> Address | None:
        """The server of a key."""
        return self.address

    def tag_on(self, address: Address) -> str | None:
        """A hash tag whose keys a server has."""
        return "" if address == self.address else None


class Slots:
    """The masters of a cluster, by slot."""

    def __init__(self, owners: list[Address | None]) -> None:
        self._owners = owners
        self._tags: dict[Address, str | None] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slots) and self._owners == other._owners

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def parse(cls, reply: Any, asked: Address) -> Slots:
        """Read the answer to CLUSTER SLOTS of a server that was asked at an address. Raises ValueError."""
        owners: list[Address | None] = [None] * SLOTS
        try:
            for first, last, (host, port, *_), *_ in reply:
                # A server that does not know its own name leaves it out.
                owner = (host.decode() if host else asked[0], int(port))
                owners[first : last + 1] = [owner] * (last + 1 - first)
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"CLUSTER SLOTS was answered with {reply!r:.80}") from error
        return cls(owners)

    @property
    def addresses(self) -> list[Address]:
        """Every server that has keys."""
        return list(dict.fromkeys(owner for owner in self._owners if owner is not None))

    def server_of(self, key: str | bytes) -> Address | None:
        """The server of a key; None where there is none at the moment."""
        return self._owners[slot_of(key)]

    def tag_on(self, address: Address) -> str | None:
        """A hash tag whose keys a server has; None where it has none."""
        if address not in self._tags:
            tags = (tag for tag in map(str, count()) if self._owners[slot_of(tag)] == address)
            self._tags[address] = next(tags) if address in self._owners else None
        return self._tags[address]

    def moved(self, slot: int, address: Address) -> Slots:
        """The same, but for a slot of which a server has said that another has it."""
        return Slots([*self._owners[:slot], address, *self._owners[slot + 1 :]])


def redirected(error: AskError, asked: Address) -> Address:
    """Where a server that was asked at an address has sent us with MOVED or ASK."""
    return str(error.host) or asked[0], int(error.port)


class NamedMaster(NamedTuple):
    """A master that a Sentinel names: of which failover, and whether the Sentinel is not busy with one."""

    config_epoch: int
    settled: bool
    address: Address

    @property
    def rank(self) -> tuple[int, bool]:
        """What says which of two is the newer."""
        return self.config_epoch, self.settled


def newest_master(replies: Iterable[Any]) -> NamedMaster | None:
    """The master that Sentinels name in answer to SENTINEL MASTER: of several the one of the last failover, since a
    Sentinel that was cut off knows only older ones. What is no answer is left out.

    The Sentinel that fails over names the old master to the end, at last with the epoch of the new one: it counts only
    where no other names a master of that epoch.
    """
    masters: list[NamedMaster] = []
    for reply in replies:
        try:
            fields = dict(zip(reply[::2], reply[1::2], strict=True))
            settled = b"failover_in_progress" not in fields.get(b"flags", b"").split(b",")
            address = fields[b"ip"].decode(), int(fields[b"port"])
            masters.append(NamedMaster(int(fields[b"config-epoch"]), settled, address))
        except (TypeError, KeyError, ValueError):
            continue
    return max(masters, key=lambda master: master.rank, default=None)


class Masters:
    """Which master is the newest that Sentinels have named, of all times that they were asked. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: NamedMaster | None = None
        self._named_at = 0.0

    def newest(self, replies: Iterable[Any], now: float) -> Address | None:
        """The newest master, after these replies to SENTINEL MASTER at a time in seconds; None where none names any.

        An older one is not gone back to, unless nobody has named one so new for `OUTDATED_S`.
        """
        named = newest_master(replies)
        if named is None:
            return None
        with self._lock:
            if self._known is None or named.rank >= self._known.rank or now - self._named_at > OUTDATED_S:
                self._known = named
            if named.config_epoch >= self._known.config_epoch:
                self._named_at = now
            return self._known.address
