"""What the commands say to people, on standard error."""

from __future__ import annotations

import contextlib
import signal

import click

from workers.safe_text import visible_lines


def say(sentence: str) -> None:
    """Say something beside the command's output. Where standard error cannot be written, nobody is told."""
    with contextlib.suppress(OSError):
        click.echo(f"streamer: {visible_lines(sentence)}", err=True)


def signal_name(number: int) -> str | int:
    """A signal's name; its number where it has none, as most real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return number
