"""`streamer watch`: follow a node or a job on the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime

import click
import msgspec
from rich.console import Console
from rich.text import Text

from streamer.client.watching import watch as watch_updates
from streamer.core.messages import PlainMessage
from workers.options import gateway_url

_STYLES = {"fail": "bold red", "error": "bold red", "finish": "green", "done": "green", "start": "cyan", "run": "blue"}


@click.command()
@click.argument("node")
@click.option("--job", help="Only this job's updates.")
@click.option("--after", metavar="CURSOR", help="Begin behind this update: its cursor, or its index.")
@click.option("--history", default="all", show_default=True, metavar="all|none|N", help="How much comes first.")
@click.option("--json", "as_json", is_flag=True, help="Print each update as one line of JSON.")
@gateway_url
def watch(node: str, job: str | None, after: str | None, history: str, as_json: bool, gateway_url: str) -> None:
    """Follow the updates of NODE through a gateway: what is kept first, then each as it comes.

    \b
      streamer watch gpu-1
      streamer watch gpu-1 --job train-7 --history 10
      streamer watch gpu-1 --json | jq .state

    A lost connection is made again and goes on where it was: nothing is missed, nothing comes twice. Ctrl-C ends it.
    """
    if after is not None and history != "all":
        raise click.UsageError("give either --after or --history: a cursor says already what comes first")
    updates = watch_updates(gateway_url, node, job, after=after, history=history, notify=_notify)
    try:
        asyncio.run(_show(updates, _show_json if as_json else _terminal()))
    except BrokenPipeError:
        # Whoever read has gone, as `head` does; Python must not find that out once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _show(updates: AsyncGenerator[PlainMessage, None], show: Callable[[PlainMessage], None]) -> None:
    """Show updates until a signal comes."""

    async def follow() -> None:
        async with aclosing(updates):
            async for message in updates:
                show(message)

    following = asyncio.create_task(follow())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following


def _notify(sentence: str) -> None:
    click.echo(f"streamer: {sentence}", err=True)


def _show_json(message: PlainMessage) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich would end the process with status 1; whoever reads may leave.
        raise BrokenPipeError


def _terminal() -> Callable[[PlainMessage], None]:
    """Show updates for people: a line each, in colour where the terminal has any."""
    console = _Console(highlight=False, soft_wrap=True)

    def show(message: PlainMessage) -> None:
        time = datetime.fromtimestamp(message.timestamp / 1000).astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = Text(f"{time} ", "dim")
        line.append(f"{message.index:>6} ", "dim")
        line.append(
            f"{_plain(message.status):<20}", next((s for word, s in _STYLES.items() if word in message.status), "")
        )
        for key, value in message.state.items():
            line.append(f" {_plain(key)}=", "dim")
            line.append(_plain(value if isinstance(value, str) else msgspec.json.encode(value).decode()))
        console.print(line)
        sys.stdout.flush()

    return show


def _plain(text: str) -> str:
    """Text without control characters, which could steer the terminal of whoever watches."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
