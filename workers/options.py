"""Options that several commands share. Every option is also an environment variable, `STREAMER_` and its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import TIMEOUT_MAX
from typing import Any, TypeVar

import click

from streamer.log.credentials import add_credentials
from streamer.settings import DEFAULT_REDIS_URL, NodeSettings

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PORT = 8080


class Seconds(click.FloatRange):
    """A time that can be waited for: from 0 on, or ``more_than_0``, and neither infinite nor NaN."""

    name = "seconds"

    def __init__(self, more_than_0: bool = False) -> None:
        super().__init__(min=0, min_open=more_than_0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number of seconds; fail with a sentence."""
        seconds = float(super().convert(value, param, ctx))
        # NaN is in every range.
        if not seconds <= TIMEOUT_MAX:
            self.fail(f"{value} is no number of seconds that can be waited for.", param, ctx)
        return seconds


def option(name: str, *parameter: str, **attributes: Any) -> Callable[[Command], Command]:
    """A click option whose environment variable follows from its name, and whose default is shown.

    ``parameter`` is what the command's function calls it, where that is not the name.
    """
    variable = "STREAMER_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, *parameter, envvar=variable, show_envvar=True, show_default=True, **attributes)


def _not_empty(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value:
        raise click.BadParameter("it cannot be empty: keys of others could not be told from ours")
    return value


prefix = option("--prefix", default=NodeSettings.prefix, callback=_not_empty, help="What all keys in Redis begin with.")


def with_credentials(_context: click.Context, _parameter: click.Parameter, url: str | None) -> str | None:
    """The URL of a Redis, with the user and the password from the environment: a command line is seen by all."""
    return None if url is None else add_credentials(url, os.environ)


def redis_options(command: Command) -> Command:
    """Where the log is."""
    return option(
        "--redis-url",
        default=DEFAULT_REDIS_URL,
        metavar="URL",
        callback=with_credentials,
        help="The Redis or Valkey that holds the log.",
    )(prefix(command))


def publish_options(command: Command) -> Command:
    """How a node publishes; the command gets NodeSettings' fields by name."""
    for name, kind, text in (
        ("--lease-s", Seconds(), "Seconds for which an exclusive node's claim holds without being renewed."),
        ("--wait-replicas-s", Seconds(), "Seconds that each try waits for the replicas."),
        ("--wait-replicas", int, "Replicas that must have an update before it counts as acknowledged."),
        ("--resend-s", Seconds(), "Seconds that acknowledged updates are kept, should a failover lose them."),
        ("--resend-bytes", int, "Bytes of acknowledged updates that are kept."),
        ("--resend-records", int, "Acknowledged updates that are kept."),
        ("--outbox-sync", click.Choice(("full", "normal")), "full: stored updates survive a loss of power, too."),
        ("--outbox-dir", str, "A directory in which updates are stored until Redis has them; empty: in memory only."),
        ("--outbox-block-s", Seconds(), "Seconds that an update waits, with block."),
        ("--outbox-full", click.Choice(("raise", "block", "spill")), "What becomes of an update when too many wait."),
        ("--outbox-bytes", int, "Bytes that may wait for Redis."),
        ("--outbox-records", int, "Updates that may wait for Redis."),
        ("--job-ttl-s", int, "Seconds without an update after which a job's history expires; 0 for never."),
        ("--retention-records", int, "Updates kept of each node and of each job."),
    ):
        default = getattr(NodeSettings, name.removeprefix("--").replace("-", "_"))
        command = option(name, type=kind, default=default, help=text)(command)
    return redis_options(command)


token_secret_file = option(
    "--token-secret-file", "--secret-file", metavar="FILE", help="A secret that tokens may be signed with (HS256)."
)


def token_claims(command: Command) -> Command:
    """What a token must name."""
    audience = option("--token-audience", "--audience", metavar="TEXT", help="The audience (`aud`) of tokens.")
    return option("--token-issuer", "--issuer", metavar="TEXT", help="The issuer (`iss`) of tokens.")(audience(command))


exit_flush = option(
    "--exit-flush-s", type=Seconds(), default=NodeSettings.exit_flush_s, help="Seconds to wait for Redis at the end."
)

gateway_url = option(
    "--gateway-url", default=f"ws://127.0.0.1:{DEFAULT_PORT}", metavar="URL", help="The gateway to watch through."
)
