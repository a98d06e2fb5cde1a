"""Whether a node's log has what its processes accepted, each update once, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from streamer.core.records import Update
from workers.bench.storm.content import Altered, Content, Name
from workers.bench.storm.course import Seen, listed
from workers.bench.storm.ledger import Accepted


class NodeLogView:
    """A node's log as it was read: what each topic must carry, and which faults its records have by themselves."""

    def __init__(self, node: str, updates: Sequence[Update], content: Content) -> None:
        self.faults: list[str] = []
        self.topics: dict[str | None, list[Seen[Name]]] = {None: [], **{job: [] for job in content.job_names}}
        for update in updates:
            self._take(node, update, content)

    @property
    def everything(self) -> list[Seen[Name]]:
        """All updates of the node."""
        return self.topics[None]

    def _take(self, node: str, update: Update, content: Content) -> None:
        try:
            name = content.name(node, update.status, update.state, update.timestamp)
        except Altered as altered:
            self.faults.append(f"has update {update.index} altered: {altered}")
            name = Name(-1, update.index)
        job = update.state.get("job")
        everything = self.everything
        due = everything[-1].index if everything else -1
        if update.index != due + 1:
            self.faults.append(f"has index {update.index} behind {due}")
        everything.append(Seen(update.epoch, update.index, due, name))
        if job in self.topics and job is not None:
            of_job = self.topics[job]
            due = of_job[-1].index if of_job else -1
            if update.previous != due:
                self.faults.append(f"has update {update.index}, whose previous is {update.previous}, not {due}")
            of_job.append(Seen(update.epoch, update.index, due, name))


def check_log(log: Sequence[Seen[Name]], accepted: Mapping[int, Accepted]) -> Iterator[str]:
    """Say what is wrong with a log, in words that follow on "the log of node 3"."""
    by_process: dict[int, list[int]] = {process: [] for process in accepted}
    for seen in log:
        by_process.setdefault(seen.name.process, []).append(seen.name.number)
    for process, numbers in sorted(by_process.items()):
        faults = _faults(numbers, accepted.get(process, Accepted(0)))
        yield from (f"{fault} of process {process}" for fault in faults)


def _faults(numbers: list[int], accepted: Accepted) -> Iterator[str]:
    """What is wrong with the numbers of one process, as they stand in the log."""
    known = set(numbers)
    if missing := [number for number in range(accepted.count) if number not in known]:
        yield f"lacks {listed(missing)}"
    if alien := sorted(number for number in known if not 0 <= number < accepted.count + accepted.maybe_more):
        yield f"has what was never accepted: {listed(alien)}"
    if len(numbers) > len(known):
        yield f"has twice {listed(sorted(number for number in known if numbers.count(number) > 1))}"
    firsts = list(dict.fromkeys(numbers))
    if late := [two for one, two in pairwise(firsts) if two < one]:
        yield f"has out of order {listed(late)}"


def has_all(log: Sequence[Seen[Name]], accepted: Mapping[int, Accepted]) -> bool:
    """Whether nothing that was accepted is missing."""
    names = {seen.name for seen in log}
    owed = (Name(process, number) for process, each in accepted.items() for number in range(each.count))
    return all(name in names for name in owed)
