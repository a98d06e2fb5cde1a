"""`streamer watch`: follow a node or a job on the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from streamer.client import Client, Event, Follow, Live, Update, connect
from streamer.client.errors import interruption
from streamer.core.cursor import Cursor
from streamer.core.errors import InvalidSetting
from workers.options import gateway_url, option
from workers.safe_text import json_line
from workers.sentences import say
from workers.standard_output import showing
from workers.update_lines import UpdateLines

QUIET_S = 1.0
"""After this long with nothing to show, whoever sits at a terminal is told that there is nothing."""


@click.command(short_help="Follow a node or a job: what is kept first, then each update live.")
@click.argument("node")
@option("--job", help="Only this job's updates.")
@option("--after", metavar="CURSOR", help="Begin behind this update: its cursor, or its index.")
@option("--history", default="all", metavar="all|none|N", help="How much comes first.")
@option("--json", "as_json", is_flag=True, help="Print each update as one line of JSON.")
@gateway_url
@option("--token", help="A token that allows it; --token-file or the variable show it to fewer.")
@option("--token-file", metavar="FILE", help="A file with the token, read anew for each connection.")
@option("--ca", metavar="FILE", help="Authorities that may vouch for a wss:// gateway (PEM).")
def watch(
    node: str,
    job: str | None,
    after: str | None,
    history: str,
    as_json: bool,
    gateway_url: str,
    token: str | None,
    token_file: str | None,
    ca: str | None,
) -> None:
    """Follow the updates of NODE through a gateway: what is kept first, then each as it comes.

    \b
      streamer watch gpu-1
      streamer watch gpu-1 --job train-7 --history 10
      streamer watch gpu-1 --json | jq .state
      streamer watch gpu-1 --gateway-url wss://streamer.example.com --token-file token

    A lost connection is made again and goes on where it was: nothing is missed, nothing comes twice. Ctrl-C ends it.
    """
    if after is not None and history != "all":
        raise click.UsageError("give either --after or --history: a cursor says already what comes first")
    if after is not None:
        Cursor.parse(after)
    if not (history in ("all", "none") or (history.isascii() and history.isdigit())):
        raise click.BadParameter(f"{history!r} is none of all, none, or how many updates come first")
    if token and token_file:
        raise click.UsageError("give either --token or --token-file")
    how = partial(_read_token, token_file) if token_file else token or None
    how_much = int(history) if history.isdigit() else history
    client = connect(gateway_url, token=how, ca_file=ca or None, notify=say)
    follow = client.follow(node, job, after=after, history=how_much, events=True)
    with showing("the updates"):
        asyncio.run(_show_all(client, follow, _show_json if as_json else UpdateLines(sys.stdout).show))


def _read_token(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in ASCII"
        raise InvalidSetting(f"the token in {path} cannot be read: {reason}") from None


async def _show_all(client: Client, updates: Follow[Event], show: Callable[[Update], None]) -> None:
    """Show updates until a signal comes, or until nobody reads standard output any more."""
    loop = asyncio.get_running_loop()
    quiet = loop.call_later(QUIET_S, _say_nothing_yet) if sys.stderr is not None and sys.stderr.isatty() else None

    async def follow() -> None:
        async with client:
            async for event in updates:
                if isinstance(event, Update):
                    if quiet is not None:
                        quiet.cancel()
                    show(event)
                elif not isinstance(event, Live):
                    say(str(interruption(event)))

    following = asyncio.create_task(follow())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, following.cancel)
    _when_unread(sys.stdout.fileno(), following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following


def _say_nothing_yet() -> None:
    say("no updates yet")


def _when_unread(fd: int, act: Callable[[], object]) -> None:
    """Act once the reader of a pipe has gone, as `tail -f | head -1` ends without another line to write."""
    loop, poll = asyncio.get_running_loop(), select.poll()
    poll.register(fd, 0)

    def look() -> None:
        loop.remove_reader(fd)
        if poll.poll(0):
            act()

    # Not for a terminal, where there is something to read at each key; and files cannot be waited for.
    if not os.isatty(fd):
        with contextlib.suppress(OSError):
            loop.add_reader(fd, look)


def _show_json(update: Update) -> None:
    sys.stdout.buffer.write(json_line(update))
    sys.stdout.buffer.flush()
