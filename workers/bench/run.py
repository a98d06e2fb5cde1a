"""The steps that runs are made of: clients that connect, updates that are published, what everyone got."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from workers.bench.content import Content, View
from workers.bench.crew import Crew, Loader, Publisher
from workers.bench.figures import bottleneck
from workers.bench.lab import Lab
from workers.bench.meter import Meter
from workers.bench.orders import FINISH, GO, LoadNews, LoadOrder, LoadReport, PublishOrder, PublishReport
from workers.bench.progress import Stage
from workers.bench.usage import processors
from workers.local_parts import PartFailed

SETTLE_S = 2.0
"""Where only clients whose stream is wrong are left, so long without news is waited for the rest of it."""

COARSE_S = 0.3
"""Less CPU time than this cannot be measured well, as systems count it in ticks."""

REPORT_S = 30.0
"""So long a process may take for its verdict: it waits for connections that close."""


@dataclass(frozen=True)
class Plan:
    """What to do: so many clients and updates, at a rate per second (0 for no limit), padded by ``size`` bytes."""

    clients: int
    updates: int
    rate: float
    size: int
    seed: int
    timeout_s: float
    client_processes: int
    duration_s: float = 0.0
    jobs: int = 0


class Run:
    """One run on a node of its own."""

    def __init__(self, lab: Lab, plan: Plan, stage: Stage) -> None:
        self.lab, self.plan, self.stage = lab, plan, stage
        self.node = f"bench-{secrets.token_hex(4)}"
        self.content = Content(plan.seed, plan.updates, plan.size, plan.jobs)
        self.publisher: Publisher | None = None
        self.loaders: list[Loader] = []
        self.released_ns = 0
        # Between two updates of a slow rate nothing comes on either.
        self._timeout_s = plan.timeout_s + (1 / plan.rate if plan.rate else 0.0)
        self._crew = Crew(lab.parts, self._timeout_s)

    def start_publisher(self, *, prepared: bool = False, rate: float = 0.0) -> None:
        """Start the publisher, and return once it is ready."""
        lab, timeout_s = self.lab, self.plan.timeout_s
        order = PublishOrder(lab.redis_url, lab.prefix, self.node, self.content, rate, timeout_s, prepared)
        publisher = self.publisher = self._crew.publisher(order)
        self._must(lambda: publisher.news is not None, "the publisher is ready")

    def start_clients(self, *, at_once: int, restless_s: float = 0.0) -> None:
        """Start the processes of the clients, and return once they are ready."""
        plan, first = self.plan, 0
        processes = min(plan.client_processes, plan.clients)
        for number in range(processes):
            clients = (plan.clients - first) // (processes - number)
            order = LoadOrder(
                self.lab.gateway_url, self.node, self.content, first, clients, at_once, plan.timeout_s, restless_s
            )
            self.loaders.append(self._crew.loader(number + 1, order))
            first += clients
        self._must(lambda: all(loader.news is not None for loader in self.loaders), "the load processes are ready")

    def connect(self) -> None:
        """Let the clients connect, and return once they have, or failed to."""
        self.stage.begin("connecting", self.plan.clients)
        self.release_clients()
        self._crew.wait(
            lambda: (news := self.news()).connected + news.faulty >= self.plan.clients,
            self.progress,
            show=lambda: self.stage.reach(self.news().connected),
        )

    def release_clients(self) -> None:
        """Tell the clients to begin."""
        self.released_ns = time.monotonic_ns()
        for loader in self.loaders:
            loader.say(GO)

    def release_publisher(self) -> None:
        """Tell the publisher to begin."""
        assert self.publisher is not None
        self.publisher.say(GO)

    def publish(self) -> PublishReport:
        """Publish everything, and return once Redis has it."""
        self.stage.begin("publishing", self.plan.updates)
        self.release_publisher()
        return self.published()

    def published(self) -> PublishReport:
        """Return the publisher's report once there is one."""
        publisher = self.publisher
        assert publisher is not None
        # It has its own limit of time, and says more when that is over.
        self._crew.wait(
            lambda: publisher.report is not None,
            self.progress,
            self._timeout_s + REPORT_S,
            show=lambda: self.stage.reach(publisher.news.accepted if publisher.news else 0),
        )
        if publisher.report is None:
            raise PartFailed("the publisher does not come to an end")
        return publisher.report

    def deliver(self) -> None:
        """Wait until nothing more is due to any client, or nothing comes any more."""
        self.stage.begin("delivering", self.owed)
        clients = self.plan.clients
        self._crew.wait(
            lambda: (news := self.news()).done + news.faulty >= clients,
            self.progress,
            show=lambda: self.stage.reach(self.news().delivered),
        )
        self._crew.wait(lambda: self.news().done >= clients, self.progress, SETTLE_S)

    def finish(self) -> list[LoadReport]:
        """Have every client close; return what each process found."""
        for loader in self.loaders:
            loader.say(FINISH)
        self._must(lambda: all(loader.report is not None for loader in self.loaders), "every load process has reported")
        return [loader.report for loader in self.loaders if loader.report]

    def news(self) -> LoadNews:
        """How far the clients of all processes are."""
        all_news = [loader.news for loader in self.loaders if loader.news]
        return LoadNews(
            sum(news.connected for news in all_news),
            sum(news.delivered for news in all_news),
            sum(news.done for news in all_news),
            sum(news.faulty for news in all_news),
        )

    def progress(self) -> object:
        """Changes while anything comes on."""
        return self.news(), self.publisher and self.publisher.news, self.publisher and self.publisher.report

    @property
    def jobs(self) -> list[str]:
        """The names of the jobs that the updates belong to."""
        return [f"{self.content.job(number)}" for number in range(self.content.jobs)]

    @property
    def owed(self) -> int:
        """How many updates all clients together must get."""
        turns = [View(self.content), *(View(self.content, job) for job in range(self.content.jobs))]
        return sum(turns[number % len(turns)].owed for number in range(self.plan.clients))

    def meter(self) -> Meter:
        """Measure from now on all processes that are ours."""
        pids: dict[str, int | None] = {loader.name: loader.pid for loader in self.loaders}
        return Meter({**pids, "gateway": self.lab.gateway_pid})

    def limits(self, meter: Meter) -> list[str]:
        """Say what held the run back, and what was not measured."""
        shares = {loader.name: meter.share(loader.name) for loader in self.loaders}
        notes = bottleneck(shares, meter.share("gateway"), processors())
        if self.lab.gateway_pid is None:
            notes.append("the gateway's CPU time and memory are not measured: it was not started by this command")
        elif meter.cpu_s("gateway") is None:
            notes.append("the gateway's CPU time and memory are not measured: this system does not tell them")
        elif (cpu_s := meter.cpu_s("gateway") or 0.0) < COARSE_S:
            notes.append(
                f"the gateway used {cpu_s:.2f} s of CPU time, which is told to the nearest 0.01 s: "
                "for a figure to compare, let it do more"
            )
        return notes

    def _must(self, condition: Callable[[], bool], what: str) -> None:
        if not self._crew.wait(condition, self.progress, REPORT_S):
            raise PartFailed(f"it was waited {REPORT_S:g} s until {what}, in vain")
