"""The command line."""

from __future__ import annotations

import sys

import click

from streamer.core.errors import StreamerError
from workers.demo import demo
from workers.gateway import gateway
from workers.node import node
from workers.publish import publish
from workers.watch import watch


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="state-streamer")
def cli() -> None:
    """Report the state of a fleet's nodes, and watch it live.

    Nodes publish their updates to a Redis or Valkey; gateways replay and stream them to whoever watches.

    \b
    Try it on this machine, with nothing else installed:
      streamer demo
    Or piece by piece, with a Redis on this machine, each in a terminal of its own:
      streamer gateway
      streamer watch gpu-1
      streamer publish gpu-1 training --job job-1 step=1 loss=0.93
      streamer node gpu-1 --job job-2 -- python train.py
    """


for command in (demo, gateway, node, publish, watch):
    cli.add_command(command)


def main() -> None:
    """Run the command line; an error of ours is a sentence and exit status 1, not a traceback."""
    try:
        cli.main(prog_name="streamer")
    except StreamerError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
