"""The commands, and what their ends mean as exit statuses: 2 for wrong usage or values, 1 for failures at run time."""

from __future__ import annotations

import click

from streamer.core.errors import InvalidInput, StreamerError
from workers.bench.command import bench
from workers.demo import demo
from workers.doctor.command import doctor
from workers.gateway.command import gateway
from workers.node import node
from workers.publish import publish
from workers.safe_text import visible_lines
from workers.token import token
from workers.watch import watch

FAILED = 1
WRONG_USAGE = click.UsageError.exit_code


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


for command in (bench, demo, doctor, gateway, node, publish, token, watch):
    cli.add_command(command)


def run(interrupted: int) -> int:
    """Run the command line; return its exit status, ``interrupted`` after Ctrl-C.

    An error of ours is a sentence on standard error, not a traceback.
    """
    try:
        return cli.main(prog_name="streamer", standalone_mode=False) or 0
    except click.Abort:
        return interrupted
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except StreamerError as error:
        click.echo(f"Error: {visible_lines(str(error))}", err=True)
        return WRONG_USAGE if isinstance(error, InvalidInput) else FAILED
