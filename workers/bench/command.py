"""`streamer bench`: what the user says, a run, and what is shown of it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from typing import Any

import click

from workers.bench import scenarios
from workers.bench.faulty import Faulty
from workers.bench.figures import Result
from workers.bench.lab import Place, open_lab
from workers.bench.open_files import allow_connections
from workers.bench.progress import Stage
from workers.bench.run import Plan, Run
from workers.bench.showing import show
from workers.bench.storm.command import storm
from workers.bench.usage import processors
from workers.options import Command, Seconds, option, prefix, with_credentials
from workers.sentences import say

MOST_CLIENTS = 25_000
"""More connections to one port there cannot be from one address."""

MOST_UPDATES = 1_000_000
"""Each process of clients holds them all, once."""

MOST_PADDING_BYTES = 1_000_000


class Rate(click.FloatRange):
    """Updates per second: 0, or at least one in 1,000 seconds."""

    name = "rate"

    def __init__(self) -> None:
        super().__init__(min=0, max=1_000_000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the rate; fail with a sentence."""
        rate = float(super().convert(value, param, ctx))
        if math.isnan(rate):
            self.fail(f"{value} is no number of updates per second.", param, ctx)
        if 0 < rate < 0.001:
            self.fail(f"{value} is less than an update in 1,000 seconds.", param, ctx)
        return rate


@click.group(short_help="Measure a gateway and a Redis under load, and verify every update.")
def bench() -> None:
    """Measure a gateway and a Redis under load, and verify every update at every client.

    \b
      streamer bench fan-out --clients 500 --rate 200       clients wait, updates are published
      streamer bench join --clients 500 --history 1000      updates wait, clients connect all at once
      streamer bench publish --updates 100000               one process publishes as fast as it can
      streamer bench soak --duration-s 600                  clients come, go, stall and resume
      streamer bench storm --duration-s 600                 everything fails, and nothing may be lost

    Without --gateway-url and --redis-url, a Redis and a gateway are started for the run on this machine; whatever
    of the two is given is used as it runs. The exit status is 1 where an update was missing at a client, came twice,
    altered, or out of order: each update's index, and a digest of its content, are checked at each client. Ctrl-C
    ends all of it and leaves nothing behind.
    """


bench.add_command(storm)


def _options(*names: str, defaults: dict[str, Any]) -> Callable[[Command], Command]:
    """The options of that name and those of all benches, in this order."""

    def add(command: Command) -> Command:
        command = prefix(command)
        for name in reversed((*names, *_COMMON)):
            attributes = _OPTIONS[name]
            command = option(name, **attributes, **({"default": defaults[name]} if name in defaults else {}))(command)
        return command

    return add


_PROCESSES = max(1, processors() - 1)

_OPTIONS: dict[str, dict[str, Any]] = {
    "--clients": {"type": click.IntRange(1, MOST_CLIENTS), "help": "How many clients connect."},
    "--client-processes": {
        "type": click.IntRange(1, 64),
        "default": _PROCESSES,
        "help": "Over so many processes they are spread.",
    },
    "--updates": {"type": click.IntRange(1, MOST_UPDATES), "help": "How many updates are published."},
    "--history": {"type": click.IntRange(1, MOST_UPDATES), "help": "How many updates are there already."},
    "--rate": {"type": Rate(), "help": "Updates per second; 0 for as fast as can be."},
    "--duration-s": {"type": Seconds(more_than_0=True), "help": "For so many seconds updates are published."},
    "--size": {
        "type": click.IntRange(0, MOST_PADDING_BYTES),
        "default": 100,
        "help": "Bytes of padding in each update; what else it has is about 200.",
    },
    "--seed": {"type": int, "default": 1, "help": "What the updates' content and the clients' moods follow from."},
    "--timeout-s": {
        "type": Seconds(more_than_0=True),
        "default": 30.0,
        "help": "Seconds in which nothing comes on, after which a run is given up.",
    },
    "--gateway-url": {"metavar": "URL", "help": "The running gateway to use. Left out, one is started."},
    "--gateway-options": {
        "default": "",
        "metavar": "OPTIONS",
        "help": "What the gateway that is started is told, as in '--keep-s 60'.",
    },
    "--redis-url": {
        "metavar": "URL",
        "callback": with_credentials,
        "help": "The running Redis or Valkey to use, that of the gateway if one is given. Left out, one is started, "
        "or with --gateway-url it is redis://127.0.0.1:6379/0.",
    },
    "--json": {"is_flag": True, "help": "Print one JSON object."},
}
_COMMON = ("--size", "--seed", "--timeout-s", "--redis-url", "--json")
_CLIENTS = ("--clients", "--client-processes", "--gateway-url", "--gateway-options")


@bench.command("fan-out", short_help="Clients wait, then updates are published to all of them.")
@_options(*_CLIENTS, "--updates", "--rate", defaults={"--clients": 200, "--updates": 2000, "--rate": 200})
def fan_out(**options: Any) -> None:
    """Connect clients to one node, then publish updates by a process of its own; each is owed to every client.

    \b
      streamer bench fan-out --clients 1000 --rate 200
      streamer bench fan-out --clients 1000 --rate 0 --updates 5000      as fast as can be: a burst
      streamer bench fan-out --gateway-url wss://gw.example --redis-url rediss://redis.example --json

    The latency is from the publisher's call until a client process has read the update, both included. The gateway's
    CPU time is what it and its children use from the first update to the last delivery, in user and system mode.
    """
    _bench("fan-out", scenarios.fan_out, **options)


@bench.command(short_help="Updates wait, then clients connect all at once.")
@_options(*_CLIENTS, "--history", defaults={"--clients": 200, "--history": 1000})
def join(history: int, **options: Any) -> None:
    """Publish updates, then connect clients all at once, each of which is owed all of them.

    \b
      streamer bench join --clients 1000 --history 1000

    This is what a gateway meets when it takes over the clients of another one.
    """
    _bench("join", scenarios.join, updates=history, **options)


@bench.command(short_help="One process publishes; no gateway takes part.")
@_options("--updates", "--rate", defaults={"--updates": 50_000, "--rate": 0})
def publish(**options: Any) -> None:
    """Publish updates from one process, and read the log back. No gateway takes part.

    \b
      streamer bench publish --updates 100000
      streamer bench publish --rate 1000 --redis-url redis://redis.example:6379/0

    It tells how long update() takes, which does not wait for Redis, and how many updates per second Redis has
    acknowledged by the time that flush() returns.
    """
    _bench("publish", scenarios.publish, **options)


@bench.command(short_help="For a time, clients come, go, stall and resume.")
@_options(*_CLIENTS, "--duration-s", "--rate", defaults={"--clients": 50, "--duration-s": 60.0, "--rate": 20})
def soak(duration_s: float, rate: float, **options: Any) -> None:
    """Publish at a steady rate, while clients come, go, stall, and resume by their cursor, at random.

    \b
      streamer bench soak --duration-s 3600 --clients 200 --rate 20
      streamer bench soak --gateway-url ws://127.0.0.1:8080       meanwhile, restart that gateway

    A third of the clients watch the node, the others a job each; what each one gets, across all its connections,
    must be the topic's every update, once and in order. A lost connection is no fault: the client comes back.
    """
    if not rate:
        raise click.BadParameter("it must be more than 0", param_hint="'--rate'")
    updates = max(1, round(rate * duration_s))
    if updates > MOST_UPDATES:
        raise click.UsageError(f"{rate:g} updates/s for {duration_s:g} s are more than {MOST_UPDATES:,} updates")
    _bench("soak", scenarios.soak, updates=updates, rate=rate, duration_s=duration_s, jobs=2, **options)


def _bench(
    name: str,
    scenario: Callable[[Run, Result], None],
    *,
    redis_url: str | None,
    prefix: str,
    json: bool,
    gateway_url: str | None = None,
    gateway_options: str = "",
    clients: int = 0,
    client_processes: int = 0,
    rate: float = 0.0,
    **plan: Any,
) -> None:
    """Make a run and show what came of it. Raises Faulty where the run has faults."""
    if gateway_url is not None and gateway_options:
        raise click.UsageError("--gateway-options are for a gateway that is started, and --gateway-url names another")
    place = Place(redis_url, gateway_url, prefix, _split(gateway_options))
    allow_connections(clients)
    processes = {"clients": clients, "client_processes": client_processes} if clients else {}
    result = Result(name, {**processes, "rate": rate, **plan})
    with open_lab(place, with_gateway=clients > 0) as lab:
        say(f"bench {name}: using {lab.described}")
        stage = Stage()
        run = Run(lab, Plan(clients=clients, rate=rate, client_processes=client_processes, **plan), stage)
        lab.forget_at_end(run.node, run.jobs)
        with stage:
            scenario(run, result)
    show(result, json)
    if result.faults:
        raise Faulty(result.verdict())


def _split(options: str) -> list[str]:
    try:
        return shlex.split(options)
    except ValueError as error:
        raise click.BadParameter(f"{options!r} cannot be split: {error}", param_hint="'--gateway-options'") from None
