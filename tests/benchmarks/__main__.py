"""`python -m tests.benchmarks`: measures what the project must reach, and shows it beside the target."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from streamer.core.errors import StreamerError
from tests.benchmarks.clients import NotWhole
from tests.benchmarks.figures import Figure, medians
from tests.benchmarks.lab import QUIET_S, Lab, open_lab
from tests.benchmarks.rows import BY_NAME, ROWS, Row
from workers.bench.usage import processors
from workers.local_parts import interrupt_once
from workers.sentences import say

EVERYTHING = "all"
DEFAULT_ROUNDS = 5
SMALL_QUIET_S = 0.05


def _list_rows(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        for row in ROWS:
            click.echo(f"{row.name:16}{row.what}")
        context.exit()


@click.command(no_args_is_help=True)
@click.argument("rows", nargs=-1, required=True, metavar="ROW...", type=click.Choice([EVERYTHING, *BY_NAME]))
@click.option("--rounds", type=click.IntRange(1), help=f"The median of so many is told. [default: {DEFAULT_ROUNDS}]")
@click.option("--small", is_flag=True, help="A quick run: whether all arrives is checked, the figures mean nothing.")
@click.option(
    "--json",
    "json_file",
    type=click.File("wb", lazy=False),
    metavar="FILE",
    help="Write all figures to a file, too.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_rows,
    help="List the rows with what each one measures.",
)
def main(rows: tuple[str, ...], rounds: int | None, small: bool, json_file: BinaryIO | None) -> None:
    """Measure what the project must reach, and show each figure beside its target.

    \b
      python -m tests.benchmarks --list                 what there is to measure
      python -m tests.benchmarks burst                  one row, as the median of five rounds
      python -m tests.benchmarks join-1000 topics --rounds 3
      python -m tests.benchmarks all --json figures.json
      python -m tests.benchmarks all --small            half a minute: does everything arrive?

    A Redis, a gateway, publishers and clients are started on this machine, on ports of their own, and end with the
    run. The clients are a program in C, which costs little; it checks that each client gets every update once and in
    order. `live-*`, `burst` and `latency` are measured beside "the floor", another program in C that does the least
    that any server could do: both in turns, so that their ratio holds on a machine with other work to do, too, where
    the figures by themselves do not. The CPU time is the gateway's, with its children; what the kernel does for it is
    in it.

    It needs a C compiler, on Linux. The exit status is 1 where an update was missing, came twice or out of order; a
    target that is missed is only said.
    """
    names = dict.fromkeys(BY_NAME if EVERYTHING in rows else rows)
    rounds = rounds or (1 if small else DEFAULT_ROUNDS)
    interrupt_once()
    try:
        with open_lab(SMALL_QUIET_S if small else QUIET_S) as lab:
            click.echo(f"{_machine()}; {lab.redis_name}; {rounds} round{'s' if rounds > 1 else ''}{', small' * small}")
            figures = {name: _run(lab, BY_NAME[name], rounds, small) for name in names}
    except (NotWhole, StreamerError) as error:
        raise SystemExit(f"Error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if json_file:
        settings = {"machine": _machine(), "redis": lab.redis_name, "rounds": rounds, "small": small}
        json_file.write(msgspec.json.format(msgspec.json.encode(settings | {"rows": figures})) + b"\n")


def _run(lab: Lab, row: Row, rounds: int, small: bool) -> dict[str, dict[str, Any]]:
    click.echo(f"\n{row.name}: {row.what if not small else 'small'}")
    done: list[list[Figure]] = []
    for number in range(rounds):
        if sys.stderr.isatty():
            say(f"{row.name}, round {number + 1} of {rounds}")
        done.append(row.run(lab, small=small))
    figures = medians(done)
    if small:
        figures = [replace(figure, target=None) for figure in figures]
    for figure in figures:
        click.echo(figure.line())
    return {figure.key: figure.as_json() for figure in figures}


def _machine() -> str:
    models = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    model = ", ".join(models) or platform.machine()
    return f"{processors()} processors ({model}), Linux {os.uname().release}, Python {platform.python_version()}"


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks")
