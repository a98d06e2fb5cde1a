"""Everything that a storm shakes: gateways, nodes, clients, and what is between them and Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from streamer.core.records import Update
from streamer.log.url import Kind, parse
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer
from workers.bench.crew import Crew, Member
from workers.bench.lab import Workshop
from workers.bench.storm.orders import ClientsNews, ClientsOrder, ClientsReport, NodeOrder
from workers.bench.storm.parts import GatewayPart, NodePart, Server
from workers.bench.storm.plan import Plan
from workers.link import Link
from workers.local_parts import PartFailed

PATIENCE_S = 60.0
"""So long it is waited for the next of several processes."""

Each = TypeVar("Each")


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
