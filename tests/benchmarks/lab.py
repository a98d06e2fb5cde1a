"""Where the benchmarks run: a Redis of their own, a gateway or the floor for each measurement, clients, publishers."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import redis

from streamer.core.outbox import Batch, Entry
from streamer.core.records import pack_tail
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Retention, new_id
from tests.benchmarks.building import build
from tests.benchmarks.clients import Clients
from tests.benchmarks.publishers import Publisher
from tests.servers import free_port
from workers.bench.content import Content
from workers.bench.open_files import allow_connections
from workers.bench.orders import PublishOrder
from workers.bench.usage import usage_of
from workers.local_parts import PartFailed, Parts
from workers.local_servers import environment_without_settings, redis_command, start_gateway, start_redis

PADDING_BYTES = 90
"""With this padding an update is a record of 200 bytes in the log, and a message of about 290."""

QUIET_S = 0.5
TIMEOUT_S = 60.0
SEED = 1


class Server(NamedTuple):
    """A gateway or the floor that runs."""

    pid: int
    port: int

    def memory_bytes(self) -> int:
        """What it and its children hold now. Raises PartFailed where this system does not tell."""
        usage = usage_of(self.pid)
        if usage is None:
            raise PartFailed("this system does not tell the memory of processes")
        return usage.memory_bytes

    def peak_memory_bytes(self) -> int:
        """The most that it, without children, has held. Raises PartFailed where this system does not tell."""
        status = Path(f"/proc/{self.pid}/status")
        peak = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.exists() else None
        if peak is None:
            raise PartFailed("this system does not tell the greatest memory of a process")
        return int(peak[1]) * 1024


class Lab:
    """What all measurements share. `open_lab` makes it."""

    prefix = Keys.prefix

    def __init__(self, directory: Path, redis_url: str, redis_name: str, quiet_s: float) -> None:
        self.redis_url, self.redis_name = redis_url, redis_name
        self._quiet_s = quiet_s
        self._directory = directory
        self._programs = build(directory)

    def parts(self) -> Parts:
        """Processes that end with a block."""
        environment = environment_without_settings() | {"STREAMER_REDIS_URL": self.redis_url}
        return Parts(self._directory, environment)

    @contextmanager
    def gateway(self, *options: str) -> Iterator[Server]:
        """A gateway of its own, with these options, which ends with the block."""
        with self.parts() as parts:
            port = free_port()
            yield Server(start_gateway(parts, port, options).pid, port)

    @contextmanager
    def floor(self, channel: str) -> Iterator[Server]:
        """The floor, for what is published to a channel of Redis; it ends with the block."""
        with self.parts() as parts:
            port = free_port()
            redis_port = urlsplit(self.redis_url).port
            process = parts.start("the floor", [str(self._programs.floor), str(port), str(redis_port), channel])
            with self.redis_client() as client:
                parts.wait_until("the floor listens to Redis", lambda: client.pubsub_numsub(channel)[0][1] == 1)
            yield Server(process.pid, port)

    @contextmanager
    def clients(
        self,
        server: Server,
        path: str,
        *,
        clients: int,
        content: Content | None = None,
        per_job: bool = False,
        stalled: int = 0,
        at_once: int = 100,
    ) -> Iterator[Clients]:
        """Clients that connect to a server now, ``at_once`` at a time, and end with the block.

        They are owed the content, if any, each all of it or with ``per_job`` a job's, whose number stands in the path
        in place of %d. ``stalled`` of them do not read once they are connected.
        """
        allow_connections(clients)
        arguments = ["--port", server.port, "--path", path, "--clients", clients, "--timeout", TIMEOUT_S]
        arguments += ["--updates", content.updates if content else 0, "--jobs", (content and content.jobs) or 1]
        arguments += ["--stalled", stalled, "--at-once", at_once, *(["--per-job"] if per_job else [])]
        with self.parts() as parts, closing(Clients(parts, [str(self._programs.load), *map(str, arguments)])) as load:
            yield load

    @contextmanager
    def publisher(self, node: str, content: Content, rate: float = 0.0) -> Iterator[Publisher]:
        """A process that is ready to publish the content to a node, and ends with the block.

        A ``rate`` of 0 is as fast as can be: the updates are then made before it begins.
        """
        order = PublishOrder(self.redis_url, self.prefix, node, content, rate, TIMEOUT_S, prepared=not rate)
        with self.parts() as parts, closing(Publisher(parts, order)) as publisher:
            yield publisher

    def publish(self, node: str, content: Content) -> None:
        """Publish the content to a node, and return once Redis has it."""
        with self.publisher(node, content) as publisher:
            publisher.go()
            publisher.report()

    def make_log(self, node: str) -> None:
        """Have the node's log there, without an update.

        Where the first update makes the log, each topic that is watched reads it once, as it does not know it yet.
        """
        with NodeLog(self.redis_url, Keys(self.prefix), node) as log:
            log.append(new_id(), Batch(1, [Entry(None, pack_tail("making the log", {}, 0))]), Retention())
            log.clear()

    def redis_client(self) -> redis.Redis:
        """A client of the Redis."""
        return redis.Redis.from_url(self.redis_url)

    def settle(self) -> None:
        """Leave a server alone, for what connecting has left it to do."""
        time.sleep(self._quiet_s)

    def empty(self) -> None:
        """Have Redis forget all that was published."""
        with self.redis_client() as client:
            client.flushall()


@contextmanager
def open_lab(quiet_s: float = QUIET_S) -> Iterator[Lab]:
    """Have the programs compiled and a Redis ready; at the end no process and no file is left.

    A server is left alone for ``quiet_s`` seconds before it is measured. Raises PartFailed.
    """
    with tempfile.TemporaryDirectory(prefix="streamer-benchmarks-", ignore_cleanup_errors=True) as directory:
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        name, command = redis_command(port, directory)
        lab = Lab(Path(directory), url, name, quiet_s)
        with lab.parts() as parts:
            start_redis(parts, name, command, url)
            yield lab


def new_node() -> str:
    """A node's name that no other measurement uses."""
    return f"benchmark-{secrets.token_hex(4)}"


def content_of(updates: int, jobs: int = 1) -> Content:
    """So many updates of 200 bytes, of the jobs in turn."""
    return Content(SEED, updates, PADDING_BYTES, jobs)
