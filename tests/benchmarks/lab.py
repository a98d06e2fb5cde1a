"""Where the benchmarks run: a Redis of their own, a gateway or the floor for each measurement, clients, publishers."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from streamer.core.outbox import Batch, Entry
from streamer.core.records import pack_tail
from streamer.log.connecting import connect
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Retention, new_id
from tests.benchmarks.building import Programs, build
from tests.benchmarks.clients import Clients
from tests.servers import free_port
from workers.bench.content import Content
from workers.bench.crew import Crew, Publisher
from workers.bench.open_files import allow_connections
from workers.bench.orders import GO, PublishOrder, PublishReport
from workers.bench.usage import usage_of
from workers.local_parts import PartFailed, Parts
from workers.local_servers import environment_without_settings, redis_command, start_gateway, start_redis

PADDING_BYTES = 90
"""With this padding an update is a record of 200 bytes in the log, and a message of about 290."""

QUIET_S = 0.5
"""So long a server is left alone before it is measured, for what connecting has left it to do."""

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


class Lab:
    """What all measurements share. `open_lab` makes it."""

    def __init__(self, parts: Parts, directory: Path, environment: dict[str, str], redis: str) -> None:
        self.redis_url, self.redis = environment["STREAMER_REDIS_URL"], redis
        self._parts, self._directory, self._environment = parts, directory, environment
        self._programs: Programs = build(directory)

    @contextmanager
    def gateway(self, *options: str) -> Iterator[Server]:
        """A gateway of its own, with these options, which ends with the block."""
        with Parts(self._directory, self._environment) as parts:
            port = free_port()
            yield Server(start_gateway(parts, port, options).pid, port)

    @contextmanager
    def floor(self, channel: str) -> Iterator[Server]:
        """The floor, for what is published to a channel of Redis; it ends with the block."""
        with Parts(self._directory, self._environment) as parts:
            port = free_port()
            redis_port = urlsplit(self.redis_url).port
            process = parts.start("the floor", [str(self._programs.floor), str(port), str(redis_port), channel])
            with connect(self.redis_url) as client:
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
        with self._client_parts() as parts:
            arguments = ["--port", server.port, "--path", path, "--clients", clients, "--timeout", TIMEOUT_S]
            arguments += ["--updates", content.updates if content else 0, "--jobs", (content and content.jobs) or 1]
            arguments += ["--stalled", stalled, "--at-once", at_once, *(["--per-job"] if per_job else [])]
            yield Clients(parts, [str(self._programs.load), *map(str, arguments)])

    def _client_parts(self) -> Parts:
        return Parts(self._directory, self._environment)

    @contextmanager
    def publisher(
        self, node: str, content: Content, rate: float = 0.0, *, prepared: bool = False
    ) -> Iterator[Callable[[], PublishReport]]:
        """A process that is ready to publish the content to a node; the function has it do so, and returns the report.

        A ``rate`` of 0 is as fast as can be.
        """
        with Parts(self._directory, self._environment) as parts:
            crew = Crew(parts, TIMEOUT_S)
            prefix = self._environment["STREAMER_PREFIX"]
            publisher = crew.publisher(
                PublishOrder(self.redis_url, prefix, node, content, rate, TIMEOUT_S, prepared or not rate)
            )
            if not crew.wait(lambda: publisher.news is not None, lambda: None):
                raise PartFailed("the publisher does not become ready")
            yield lambda: _publish(crew, publisher)

    def publish(self, node: str, content: Content) -> None:
        """Publish the content to a node, and return once Redis has it."""
        with self.publisher(node, content) as publish:
            publish()

    def make_log(self, node: str) -> None:
        """Have the node's log there, without an update.

        Where the first update makes the log, each topic that is watched reads it once, as it does not know it yet.
        """
        with NodeLog(self.redis_url, Keys(self._environment["STREAMER_PREFIX"]), node) as log:
            log.append(new_id(), Batch(1, [Entry(None, pack_tail("making the log", {}, 0))]), Retention())
            log.clear()

    def empty(self) -> None:
        """Have Redis forget all that was published."""
        with connect(self.redis_url) as client:
            client.flushall()


def _publish(crew: Crew, publisher: Publisher) -> PublishReport:
    publisher.say(GO)
    crew.wait(lambda: publisher.report is not None, lambda: publisher.news)
    report = publisher.report
    if report is None or report.fault:
        raise PartFailed(f"the publisher failed: {report.fault if report else 'it does not come to an end'}")
    return report


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Have the programs compiled and a Redis ready; at the end no process and no file is left. Raises PartFailed."""
    environment = environment_without_settings()
    with tempfile.TemporaryDirectory(prefix="streamer-benchmarks-", ignore_cleanup_errors=True) as directory:
        port = free_port()
        environment |= {"STREAMER_REDIS_URL": f"redis://127.0.0.1:{port}/0", "STREAMER_PREFIX": Keys.prefix}
        with Parts(Path(directory), environment) as parts:
            name, command = redis_command(port, directory)
            start_redis(parts, name, command, environment["STREAMER_REDIS_URL"])
            yield Lab(parts, Path(directory), environment, name)


def new_node() -> str:
    """A node's name that no other measurement uses."""
    return f"benchmark-{secrets.token_hex(4)}"


def content_of(updates: int, jobs: int = 1) -> Content:
    """So many updates of 200 bytes, of the jobs in turn."""
    return Content(SEED, updates, PADDING_BYTES, jobs)


def settle() -> None:
    """Let a server finish what it does on its own account."""
    time.sleep(QUIET_S)
