"""A storm from its first fault to the verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from streamer.core.errors import LogUnavailable
from workers.bench.figures import Figure, Result, durations
from workers.bench.histogram import Histogram
from workers.bench.progress import Stage
from workers.bench.storm.content import Name
from workers.bench.storm.course import Seen
from workers.bench.storm.house import House
from workers.bench.storm.orders import ClientsReport, Ends, Judge, NodeReport, Places
from workers.bench.storm.parts import NodePart
from workers.bench.storm.schedule import Fault, Strike, schedule
from workers.bench.storm.verdict import NodeLogView, check_log, has_all

LOOK_S = 0.1


class Storm:
    """Shakes a house that has started, and then judges what everyone has; once. Raises PartFailed.

    ``heal`` is to return once the last of the ``faults`` is over, where some take longer than they last. ``file`` is
    for what the clients are to have in the end.
    """

    def __init__(
        self,
        house: House,
        faults: Sequence[Fault],
        stage: Stage,
        file: Path,
        heal: Callable[[], None] = lambda: None,
    ) -> None:
        self._house, self._faults, self._stage, self._file = house, faults, stage, file
        self._heal = heal
        self._strikes: Counter[str] = Counter()

    def run(self, result: Result) -> None:
        """Have it rage for as long as planned, and put what came of it into the result."""
        self._rage()
        self._heal()
        self._pause_nodes()
        self._house.note_writers()
        self._await_log()
        nodes = self._finish_nodes(result)
        views = self._read_logs()
        self._await_clients(views)
        reports = self._judge(result)
        for node, view in zip(self._house.nodes, views, strict=True):
            faults = [*view.faults, *check_log(view.everything, node.accepted)]
            result.faults += [f"the log of {node.name} {fault}" for fault in faults]
        self._tell(result, nodes, reports)

    def _rage(self) -> None:
        plan = self._house.plan
        events: list[tuple[float, Callable[[Strike], None], Strike]] = []
        for strike in schedule(self._faults, plan.seed, plan.duration_s, plan.fault_every_s):
            events.append((strike.at_s, self._begin, strike))
            if strike.fault.end is not None:
                events.append((strike.at_s + strike.lasts_s, strike.fault.end, strike))
        began = time.monotonic()
        self._stage.begin("raging", round(plan.duration_s))
        for at_s, happen, strike in sorted(events, key=lambda event: event[0]):
            self._pass_time(began, at_s)
            happen(strike)
        self._pass_time(began, plan.duration_s)

    def _begin(self, strike: Strike) -> None:
        self._stage.say(f"{strike.at_s:6.1f} s  {strike}")
        self._strikes[strike.fault.name] += 1
        strike.fault.begin(strike)

    def _pass_time(self, began: float, until_s: float) -> None:
        while True:
            self._house.check()
            self._stage.reach(round(now_s := time.monotonic() - began))
            if now_s >= until_s:
                return
            time.sleep(min(LOOK_S, until_s - now_s))

    def _pause_nodes(self) -> None:
        self._stage.begin("calming down", len(nodes := self._house.nodes))
        for node in nodes:
            node.pause()
        self._house.await_all("every node has paused", nodes, lambda node: node.paused)

    def _await_log(self) -> None:
        """Wait until the logs have all that was accepted, or nothing comes on any more."""
        nodes = self._house.nodes
        accepted = [node.accepted for node in nodes]
        complete: set[int] = set()
        heads = [0] * len(nodes)
        self._stage.begin("publishing the rest", len(nodes))

        def all_there() -> bool:
            for at, node in enumerate(nodes):
                if at not in complete:
                    log = self._try_to_read(node)
                    heads[at] = len(log.everything) if log is not None else heads[at]
                    if log is not None and has_all(log.everything, accepted[at]):
                        complete.add(at)
            return len(complete) == len(nodes)

        self._house.wait(all_there, lambda: (len(complete), *heads), lambda: self._stage.reach(len(complete)))

    def _finish_nodes(self, result: Result) -> list[NodeReport]:
        nodes = self._house.nodes
        for node in nodes:
            node.finish()
        self._house.wait(lambda: all(node.report for node in nodes), lambda: [node.report for node in nodes], _nothing)
        reports = []
        for node in nodes:
            if node.report is None:
                result.faults.append(f"{node.name} does not come to an end")
            else:
                reports.append(node.report)
                if node.report.fault:
                    result.faults.append(f"{node.name} failed: {node.report.fault}")
                elif node.leaves:
                    result.faults.append(f"{node.name} has ended, and left its outbox")
        return reports

    def _read_logs(self) -> list[NodeLogView]:
        return [self._read(node) for node in self._house.nodes]

    def _read(self, node: NodePart) -> NodeLogView:
        return NodeLogView(node.name_in_log, self._house.read_log(node), self._house.plan.content)

    def _try_to_read(self, node: NodePart) -> NodeLogView | None:
        try:
            return self._read(node)
        except LogUnavailable:
            return None

    def _await_clients(self, views: Sequence[NodeLogView]) -> None:
        house, clients = self._house, self._house.plan.clients
        views_by_node = dict(zip((node.name_in_log for node in house.nodes), views, strict=True))
        places = {
            node: Places({job or "": list(map(_place, way)) for job, way in view.topics.items()})
            for node, view in views_by_node.items()
        }
        self._file.write_bytes(msgspec.msgpack.encode(places))
        house.tell_clients(Ends(str(self._file)))
        self._stage.begin("delivering the rest", clients)
        house.wait(
            lambda: house.clients_news().done == clients,
            house.clients_news,
            lambda: self._stage.reach(house.clients_news().done),
        )

    def _judge(self, result: Result) -> list[ClientsReport]:
        loaders = self._house.loaders
        self._house.tell_clients(Judge())
        self._house.await_all("every client is judged", loaders, lambda loader: loader.report is not None)
        reports = [loader.report for loader in loaders if loader.report]
        for report in reports:
            result.faults += report.faults
            result.more_faults += report.more_faults
        return reports

    def _tell(self, result: Result, nodes: Sequence[NodeReport], reports: Sequence[ClientsReport]) -> None:
        accepted = sum(each.count for node in self._house.nodes for each in node.accepted.values())
        latency = Histogram()
        for report in reports:
            latency.merge(report.latency)

        def total(key: str, label: str, field: str, of: Sequence[NodeReport] | Sequence[ClientsReport]) -> Figure:
            return Figure(key, label, sum(getattr(each, field) for each in of))

        result.figures += [
            *(Figure(fault.key, fault.name, self._strikes[fault.name]) for fault in self._faults),
            Figure("accepted", "updates accepted", accepted),
            total("resent", "updates sent again after a loss in Redis", "resent", nodes),
            total("delivered", "updates delivered", "delivered", reports),
            total("replaced", "updates replaced under a new epoch, at all clients", "replaced", reports),
            total("connections_lost", "connections lost", "lost", reports),
            total("connections_closed", "of these closed by a gateway in order", "closed", reports),
            total("connections_failed", "tries to connect that failed", "failed", reports),
            Figure(
                "longest_outage_s",
                "longest time that a client was without a connection",
                max(report.outage_ns for report in reports) / 1e9,
                "s",
            ),
            *durations("latency", "latency where connected and not stalled", latency),
        ]


def _place(seen: Seen[Name]) -> tuple[int, int, int, tuple[int, int]]:
    return seen.epoch, seen.index, seen.before, (seen.name.process, seen.name.number)


def _nothing() -> None:
    pass
