"""Where a run takes place: the Redis and the gateway that are there, or ones that it starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamer.client.address import websocket_url
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.log.blocking_client import BlockingClient
from streamer.log.connecting import unavailable_as_error
from streamer.log.credentials import add_credentials
from streamer.log.keys import Keys
from streamer.log.url import check_url, without_password
from streamer.settings import DEFAULT_REDIS_URL
from workers.local_parts import Parts, ignore_interrupts, interrupt_once
from workers.local_servers import (
    environment_without_settings,
    free_port,
    redis_command,
    start_gateway,
    start_redis,
)
from workers.sentences import say


@dataclass(frozen=True)
class Place:
    """What the user names is used; the rest is started. Who names a gateway names its Redis, or means the default."""

    redis_url: str | None
    gateway_url: str | None
    prefix: str
    gateway_options: Sequence[str] = ()


@dataclass(frozen=True)
class Lab:
    """A Redis and a gateway, each with its process if it was started. ``described`` says to people which they are."""

    parts: Parts
    redis_url: str
    prefix: str
    gateway_url: str
    redis_pid: int | None
    gateway_pid: int | None
    described: str
    afterwards: ExitStack
    """What is to be done when the processes have ended, since a publisher that runs could undo it."""

    def forget_at_end(self, node: str, jobs: Sequence[str]) -> None:
        """Have a node's traces removed from a Redis that stays; the publisher's number there expires by itself."""
        if self.redis_pid is None:
            self.afterwards.callback(forget, self.redis_url, Keys(self.prefix), node, jobs)


def forget(redis_url: str, keys: Keys, node: str, jobs: Iterable[str], writers: Iterable[str] = ()) -> None:
    """Remove a node's traces from a Redis, and of its writers those that are named; or say that they stay."""
    jobs = list(jobs)
    lists = [keys.records(Topic(node)), *(keys.records(Topic(node, job)) for job in jobs)]
    numbers = [keys.writer(node, writer) for writer in writers]
    try:
        with unavailable_as_error(redis_url), BlockingClient(redis_url) as client:
            client.ask_one(keys.log(node), "DEL", keys.log(node), keys.jobs(node), *lists, *numbers)
            client.ask_one(keys.fleet, "HDEL", keys.fleet, node)
            for index in map(keys.job, jobs):
                client.ask_one(index, "ZREM", index, node)
    except LogUnavailable as error:
        say(f"what node {node} has published stays: {error}")


@dataclass(frozen=True)
class Workshop:
    """Where the processes of a run are, and their files. ``afterwards`` is done once all have ended."""

    parts: Parts
    directory: Path
    afterwards: ExitStack


@contextmanager
def open_workshop(prefix: str, redis_url: str) -> Iterator[Workshop]:
    """Have room for processes that share a Redis and nothing of the user's settings; in the end nothing is left."""
    environment = environment_without_settings() | {"STREAMER_REDIS_URL": redis_url, "STREAMER_PREFIX": prefix}
    with (
        tempfile.TemporaryDirectory(prefix="streamer-bench-", ignore_cleanup_errors=True) as directory,
        ExitStack() as afterwards,
        Parts(Path(directory), environment) as parts,
    ):
        yield Workshop(parts, Path(directory), afterwards)


@contextmanager
def open_lab(place: Place, *, with_gateway: bool) -> Iterator[Lab]:
    """Have a Redis, and a gateway if wanted, ready; at the end no process and no file of ours is left.

    From here on SIGINT, SIGTERM and SIGHUP are KeyboardInterrupt, the first of them. Raises PartFailed,
    InvalidSetting.
    """
    gateway_url = None if place.gateway_url is None else websocket_url(place.gateway_url)
    redis_url = place.redis_url or (add_credentials(DEFAULT_REDIS_URL, os.environ) if gateway_url else None)
    if redis_url is not None:
        check_url(redis_url)
    interrupt_once()
    port = free_port()
    with open_workshop(place.prefix, redis_url or f"redis://127.0.0.1:{port}/0") as workshop:
        try:
            yield _lab(workshop, place, redis_url, gateway_url, port, with_gateway)
        finally:
            ignore_interrupts()


def _lab(
    workshop: Workshop,
    place: Place,
    redis_url: str | None,
    gateway_url: str | None,
    redis_port: int,
    with_gateway: bool,
) -> Lab:
    parts = workshop.parts
    redis_pid = gateway_pid = None
    redis_words = f"the Redis at {without_password(redis_url)}" if redis_url else ""
    if redis_url is None:
        name, command = redis_command(redis_port, str(workshop.directory))
        redis_url = f"redis://127.0.0.1:{redis_port}/0"
        redis_pid = start_redis(parts, name, command, redis_url).pid
        redis_words = f"a {name} of its own"
    gateway_words = f"the gateway at {gateway_url}"
    if gateway_url is None and with_gateway:
        port = free_port()
        gateway_pid = start_gateway(parts, port, place.gateway_options).pid
        gateway_url, gateway_words = f"ws://127.0.0.1:{port}", "a gateway of its own"
    described = f"{gateway_words} and {redis_words}" if with_gateway else redis_words
    return Lab(
        parts, redis_url, place.prefix, gateway_url or "", redis_pid, gateway_pid, described, workshop.afterwards
    )
