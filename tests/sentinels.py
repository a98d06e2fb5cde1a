"""A master, its replicas and three Sentinels of the tests' own."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from tests.certificates import Certificates
from tests.servers import RedisServer, free_port, missing, redis_command, wait_until

SERVICE = "log"
DEADLINE_S = 60.0
"""Longer than Sentinels hold back, which they do for 30 s on a machine that was busy."""

SLOW = (f"sentinel down-after-milliseconds {SERVICE} 20000", f"sentinel failover-timeout {SERVICE} 20000")
"""Settings of Sentinels: where a replica does not answer, one is busy with a failover long after others know of it."""

DOWN_AFTER_MS = 500
"""After so long without an answer a master counts as down."""


class Sentinel:
    """A Sentinel process, which keeps what it knows in a file."""

    def __init__(
        self, kind: str, master_port: int, quorum: int, *options: str, certificates: Certificates | None = None
    ) -> None:
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="streamer-test-", ignore_cleanup_errors=True)
        binary = redis_command(kind) or missing(f"{kind}-server")
        file = Path(self._directory.name) / "sentinel.conf"
        file.write_text(
            "\n".join(
                [
                    *_ports(self.port, certificates),
                    "bind 127.0.0.1",
                    f"dir {self._directory.name}",
                    f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} {quorum}",
                    f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
                    f"sentinel failover-timeout {SERVICE} 2000",
                    *options,
                    "",
                ]
            )
        )
        self.url = f"redis://127.0.0.1:{self.port}"
        if certificates is not None:
            self.url = f"rediss://127.0.0.1:{self.port}{certificates.query}"
        self._command = [binary, str(file), "--sentinel"]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sentinel:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._directory.cleanup()

    def client(self) -> redis.Redis:
        """A client of redis-py to it."""
        client: redis.Redis = redis.Redis.from_url(self.url, protocol=2, socket_timeout=5)
        return client

    def master(self) -> dict[bytes, bytes]:
        """What it knows of the master; nothing while it does not answer."""
        with self.client() as client:
            try:
                fields: Any = client.execute_command("SENTINEL", "MASTER", SERVICE)  # type: ignore[no-untyped-call]
            except redis.RedisError:
                return {}
        return dict(zip(fields[::2], fields[1::2], strict=True))

    def knows(self, port: int) -> bool:
        """Whether it takes a server for a replica that could take over."""
        with self.client() as client:
            replicas: Any = client.execute_command("SENTINEL", "REPLICAS", SERVICE)  # type: ignore[no-untyped-call]
        known = [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in replicas]
        return any(int(each[b"port"]) == port and each[b"flags"] == b"slave" for each in known)


class Sentinels:
    """A context manager that has all of it ready, and ends it. With certificates all speak TLS alone.

    Of several replicas the first is to take over. ``options`` are more settings of the Sentinels.
    """

    def __init__(
        self, kind: str = "valkey", *options: str, replicas: int = 1, certificates: Certificates | None = None
    ) -> None:
        at_once = ("--repl-diskless-sync-delay", "0")
        self.servers = [
            RedisServer(kind, None, *at_once, "--replica-priority", str(n + 1), certificates=certificates)
            for n in range(1 + replicas)
        ]
        port = self.servers[0].port
        self.sentinels = [Sentinel(kind, port, 2, *options, certificates=certificates) for _ in range(3)]
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{addresses}/{SERVICE}/0"
        if certificates is not None:
            self.url = f"rediss+sentinel://{addresses}/{SERVICE}/0{certificates.query}"
        self._ending = ExitStack()

    def __enter__(self) -> Sentinels:
        with ExitStack() as stack:
            master, *replicas = self.servers
            for server in self.servers:
                stack.enter_context(server)
            for replica in replicas:
                with replica.client() as client:
                    client.execute_command("REPLICAOF", "127.0.0.1", master.port)  # type: ignore[no-untyped-call]
            wait_until("the replicas are there", lambda: all(map(replicates, replicas)))
            for sentinel in self.sentinels:
                stack.enter_context(sentinel)
            wait_until("the Sentinels know each other and the replicas", self._ready)
            self._ending = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    @property
    def master(self) -> RedisServer:
        """The server that most Sentinels take for the master."""
        ports = sorted(int(sentinel.master().get(b"port", 0)) for sentinel in self.sentinels)
        return next(server for server in self.servers if server.port == ports[1])

    @property
    def replica(self) -> RedisServer:
        """The other one; of several the first."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    def _ready(self) -> bool:
        wanted = (b"%d" % (len(self.servers) - 1), b"2", b"master")
        return all(_what_it_knows(sentinel) == wanted for sentinel in self.sentinels)

    def mend(self) -> None:
        """Start the server again that was killed, and have it replicate the other, which Sentinels take longer for."""
        wait_until("the one that was replaced replicates", self._follows, DEADLINE_S)
        wait_until("the Sentinels know it", self._know_the_replica, DEADLINE_S)

    def _follows(self) -> bool:
        """Whether the replica follows the master; where it does not run, or does not try to, that is mended."""
        for server in self.servers:
            if server.process is None or server.process.poll() is not None:
                server.start()
        master, replica = self.master, self.replica
        try:
            with replica.client() as client:
                info: Any = client.info("replication")
                if info["role"] == "master" or info["master_port"] != master.port:
                    client.execute_command("REPLICAOF", "127.0.0.1", master.port)  # type: ignore[no-untyped-call]
                    return False
        except redis.RedisError:
            return False
        return bool(info["master_link_status"] == "up")

    def _know_the_replica(self) -> bool:
        port = self.replica.port
        return all(each.knows(port) for each in self.sentinels)

    def fail_over(self) -> None:
        """Have the replica take over, as for maintenance; it begins at once."""
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", SERVICE)  # type: ignore[no-untyped-call]


def _ports(port: int, certificates: Certificates | None) -> list[str]:
    if certificates is None:
        return [f"port {port}"]
    return ["port 0", f"tls-port {port}", *(f"{name} {value}" for name, value in certificates.settings.items())]


def hold_back(replica: RedisServer) -> None:
    """Have a replica get nothing more of what its master is told."""
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())  # type: ignore[no-untyped-call]


def replicates(server: RedisServer) -> bool:
    """Whether a server is a replica that has its master's data."""
    with server.client() as client:
        info: Any = client.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


def _what_it_knows(sentinel: Sentinel) -> tuple[bytes | None, bytes | None, bytes | None]:
    known = sentinel.master()
    return known.get(b"num-slaves"), known.get(b"num-other-sentinels"), known.get(b"flags")
