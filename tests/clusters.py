"""A Redis cluster of the tests' own: three masters, each with a replica, on ports of the loopback interface."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster

from streamer.log.routing import SLOTS, slot_of
from tests.certificates import Certificates
from tests.servers import RedisServer, free_port, wait_until

MASTERS = 3
NODE_TIMEOUT_MS = 1000
"""After so long without an answer a server counts as dead, and its replica takes over."""


class Member(RedisServer):
    """A server of a cluster."""

    def __init__(self, kind: str, *options: str, certificates: Certificates | None = None) -> None:
        self.bus_port = free_port()
        cluster = f"--cluster-enabled yes --cluster-node-timeout {NODE_TIMEOUT_MS} --cluster-port {self.bus_port}"
        more = "--cluster-replica-validity-factor 0 --repl-diskless-sync-delay 0"
        tls = ["--tls-cluster", "yes"] if certificates else []
        super().__init__(kind, None, *cluster.split(), *more.split(), *options, *tls, certificates=certificates)

    def command(self, *words: Any) -> Any:
        """Run a command on this server, and return its reply."""
        with self.client() as client:
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    @property
    def id(self) -> str:
        """What the cluster calls it."""
        return str(self.command("CLUSTER", "MYID").decode())


class Cluster:
    """A context manager that has a cluster ready, and ends it; with certificates all speak TLS alone.

    ``members`` are the masters and then their replicas.
    """

    kind = "cluster"

    def __init__(
        self, kind: str = "valkey", *options: str, replicas: bool = True, certificates: Certificates | None = None
    ) -> None:
        many = MASTERS * (2 if replicas else 1)
        self.members = [Member(kind, *options, certificates=certificates) for _ in range(many)]
        addresses = f"127.0.0.1:{self.members[0].port},127.0.0.1:{self.members[1].port}"
        self.url = (
            f"rediss+cluster://{addresses}{certificates.query}" if certificates else f"redis+cluster://{addresses}"
        )
        self._ending = ExitStack()

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(member)
            self._form()
            self._ending = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def client(self) -> Any:
        """redis-py's client of the cluster."""
        nodes = [ClusterNode("127.0.0.1", member.port) for member in self.members]
        return RedisCluster(startup_nodes=nodes, protocol=2, socket_timeout=5)

    def master_of(self, key: str) -> Member:
        """The server that has a key, by its own word."""
        return self.master_of_slot(slot_of(key))

    def master_of_slot(self, slot: int) -> Member:
        """The server that has a slot, by its own word."""
        for member in self.members:
            if member.process is not None:
                for first, last, (_, port, *_), *_ in member.command("CLUSTER", "SLOTS"):
                    if first <= slot <= last and port == member.port:
                        return member
        raise AssertionError(f"no server says that it has slot {slot}")

    def replica_of(self, master: Member) -> Member:
        """A server that replicates another."""
        return next(each for each in self.members if each.process and master.id.encode() in _own_line(each))

    def move_slot(self, slot: int, source: Member, target: Member) -> None:
        """Move a slot and its keys as redis-cli does, one key after the other."""
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:
                source.command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        for member in (target, source):
            member.command("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def _form(self) -> None:
        first, *others = self.members
        share = SLOTS // MASTERS
        for n, master in enumerate(self.members[:MASTERS]):
            master.command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            last = SLOTS - 1 if n == MASTERS - 1 else (n + 1) * share - 1
            master.command("CLUSTER", "ADDSLOTSRANGE", n * share, last)
        for member in others:
            first.command("CLUSTER", "MEET", "127.0.0.1", member.port, member.bus_port)
        wait_until("all know each other", lambda: all(_known(each) == len(self.members) for each in self.members))
        for n, replica in enumerate(self.members[MASTERS:]):
            replica.command("CLUSTER", "REPLICATE", self.members[n].id)
        wait_until("the cluster is ready", lambda: all(map(_ready, self.members)))


def _known(member: Member) -> int:
    lines = member.command("CLUSTER", "NODES").decode().splitlines()
    return sum("handshake" not in line for line in lines)


def _own_line(member: Member) -> bytes:
    lines: list[bytes] = member.command("CLUSTER", "NODES").splitlines()
    return next(line for line in lines if b"myself" in line).split(b" ", 1)[1]


def _ready(member: Member) -> bool:
    with member.client() as client:
        try:
            info: Any = client.info("replication")
            ok = b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call]
        except redis.RedisError:
            return False
    return ok and (info["role"] == "master" or info["master_link_status"] == "up")
