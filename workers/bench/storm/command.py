"""`streamer bench storm`: what the user says, a storm, and what is shown of it."""

from __future__ import annotations

import secrets
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from streamer.core.errors import StreamerError
from streamer.log.keys import Keys
from streamer.log.url import check_url, without_password
from workers.bench.faulty import Faulty
from workers.bench.figures import Result
from workers.bench.lab import Workshop, forget, open_workshop
from workers.bench.open_files import allow_connections
from workers.bench.progress import Stage
from workers.bench.showing import show
from workers.bench.storm.house import House
from workers.bench.storm.parts import Server
from workers.bench.storm.plan import Plan
from workers.bench.storm.storm import Storm
from workers.bench.storm.table import faults_of
from workers.local_parts import ignore_interrupts, interrupt_once
from workers.options import Seconds, option, prefix, with_credentials
from workers.sentences import say

MOST_SEED = 2**31 - 1


@click.command(short_help="Everything fails again and again, and nothing may be lost.")
@option("--duration-s", type=Seconds(more_than_0=True), default=60.0, help="How long it rages.")
@option("--nodes", type=click.IntRange(1, 500), default=20, help="Processes that publish, each for a node of its own.")
@option("--gateways", type=click.IntRange(1, 50), default=3, help="How many gateways serve.")
@option("--clients", type=click.IntRange(1, 10_000), default=200, help="How many clients watch.")
@option("--rate", type=click.FloatRange(0.1, 1000), default=5.0, help="Updates per second of each node.")
@option("--seed", type=click.IntRange(0, MOST_SEED), help="What all faults follow from. Left out, one is drawn.")
@option("--fault-every-s", type=Seconds(more_than_0=True), default=3.0, help="Seconds from a fault to the next.")
@option(
    "--timeout-s",
    type=Seconds(more_than_0=True),
    default=60.0,
    help="Seconds in which nothing comes on after the storm, after which it is given up.",
)
@option(
    "--redis-url",
    metavar="URL",
    callback=with_credentials,
    help="The running Redis or Valkey to use, to which nothing is done. Left out, one is started, and shaken, too.",
)
@option("--json", is_flag=True, help="Print one JSON object.")
@prefix
def storm(redis_url: str | None, prefix: str, json: bool, seed: int | None, **sizes: Any) -> None:
    """Publish from many nodes to many clients through several gateways, while everything fails at random.

    \b
      streamer bench storm
      streamer bench storm --duration-s 600 --redis-url redis://redis.example:6379/0
      streamer bench storm --seed 17          the same faults once more

    Gateways are killed, stopped and frozen, node processes killed and frozen, clients stall, leave, and come anew;
    the links between all of these and Redis are cut and go silent, where Redis is one server without TLS. A Redis of
    our own is also killed and restarted with its data, frozen, and made to kill its clients. To one that you name
    nothing is done.

    In the end, each node's log must have every update that was accepted, once and in order, and nothing else; and each
    client what its topic has. Else the exit status is 1, and the files of all processes are kept.
    """
    if redis_url is not None:
        check_url(redis_url)
    plan = Plan(seed=secrets.randbelow(MOST_SEED) if seed is None else seed, **sizes)
    allow_connections(plan.clients)
    result = Result("storm", {**sizes, "seed": plan.seed})
    interrupt_once()
    with open_workshop(prefix, redis_url or "") as workshop:
        try:
            _storm(workshop, plan, redis_url, prefix, result, _again(plan, redis_url))
        finally:
            ignore_interrupts()
    show(result, json)
    if result.faults:
        raise Faulty("\n".join([result.verdict(), *result.notes]))


def _storm(workshop: Workshop, plan: Plan, redis_url: str | None, prefix: str, result: Result, again: str) -> None:
    """Have a storm; keep its files where it has found anything."""
    if redis_url is None:
        server = Server(workshop.parts, "Redis", workshop.directory)
        server.start()
        workshop.parts.wait_until(f"{server.program} answers", lambda: server.answers)
        house = House(workshop, plan, server.url, prefix, server)
        where = f"a {server.program} of its own"
    else:
        house = House(workshop, plan, redis_url, prefix)
        workshop.afterwards.callback(_forget, house)
        where = f"the Redis at {without_password(redis_url)}"
    house.read_log(house.nodes[0])  # a Redis that does not answer is told at once
    say(f"bench storm: seed {plan.seed}, using {where}")
    with house, Stage() as stage:
        try:
            house.start()
            Storm(house, faults_of(house), stage, workshop.directory / "ends").run(result)
        except StreamerError as error:
            result.faults.append(str(error))
    if result.faults:
        result.notes += [f"the same again: {again}", f"files of all processes: {_kept(workshop.directory, plan.seed)}"]


def _again(plan: Plan, redis_url: str | None) -> str:
    """The command that has the same faults once more; the user knows the password."""
    sizes = ("duration_s", "nodes", "gateways", "clients", "rate", "seed", "fault_every_s")
    words = [f"--{name.replace('_', '-')}={getattr(plan, name):g}" for name in sizes if name != "seed"]
    words.append(f"--seed={plan.seed}")
    if redis_url is not None:
        words.append(f"--redis-url={without_password(redis_url)}")
    return shlex.join(["streamer", "bench", "storm", *words])


def _kept(directory: Path, seed: int) -> Path:
    """Copy what is there to where it stays."""
    kept = Path(tempfile.mkdtemp(prefix=f"streamer-storm-{seed}-"))
    shutil.copytree(directory, kept, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    return kept


def _forget(house: House) -> None:
    house.note_writers()
    for node, writers in house.writers.items():
        forget(house.redis_url, Keys(house.prefix), node, house.plan.content.job_names, writers)
