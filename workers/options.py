"""Options that several commands share. Every option is also an environment variable, `STREAMER_` and its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from streamer.settings import DEFAULT_REDIS_URL, NodeSettings

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PORT = 8080


def option(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """A click option whose environment variable follows from its name, and whose default is shown."""
    variable = "STREAMER_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, show_default=True, **attributes)


def redis_options(command: Command) -> Command:
    """Where the log is."""
    command = option("--prefix", default=NodeSettings.prefix, help="What all keys in Redis begin with.")(command)
    return option(
        "--redis-url", default=DEFAULT_REDIS_URL, metavar="URL", help="The Redis or Valkey that holds the log."
    )(command)


def publish_options(command: Command) -> Command:
    """How a node publishes; the command gets NodeSettings' fields by name."""
    for name, kind, text in (
        ("--exit-flush-s", float, "Seconds to wait for Redis at the end."),
        ("--outbox-bytes", int, "Bytes that may wait for Redis."),
        ("--outbox-records", int, "Updates that may wait for Redis."),
        ("--job-ttl-s", int, "Seconds without an update after which a job's history expires; 0 for never."),
        ("--retention-records", int, "Updates kept of each node and of each job."),
    ):
        default = getattr(NodeSettings, name.removeprefix("--").replace("-", "_"))
        command = option(name, type=kind, default=default, help=text)(command)
    return redis_options(command)


gateway_url = option(
    "--gateway-url", default=f"ws://127.0.0.1:{DEFAULT_PORT}", metavar="URL", help="The gateway to watch through."
)
