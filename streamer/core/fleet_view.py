"""What is known of the fleet: the newest summary of each node, in the order in which they changed.

Whoever watches stands at a number, that of the last change told, and is owed the nodes that have changed since, each
as it is now. So the memory is bounded by the number of nodes, however slow anybody is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from typing import NamedTuple

import msgspec


class NodeSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node's last update, in short: its time (ms since 1970), its status, its job, if any, and its index.

    ``gone``: the fleet knows the node no longer; then there is nothing else.
    """

    node: str
    last_seen: int | None = None
    status: str | None = None
    job: str | None = None
    index: int | None = None
    gone: bool = False

    def newer_than(self, other: NodeSummary) -> bool:
        """Whether it comes behind another summary of the node."""
        return (self.last_seen or 0, self.index or 0) > (other.last_seen or 0, other.index or 0)


class Changes(NamedTuple):
    """The next changes, and the number of the last of them."""

    nodes: list[NodeSummary]
    last: int


class FleetView:
    """The newest of each node. ``last`` is the number of the last change, 0 before the first."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[int, NodeSummary]] = {}
        self._gone: set[str] = set()
        # The numbers of changes and of which nodes they are, of which those are void that the node's is not any more.
        self._numbers: list[int] = []
        self._changed: list[str] = []
        self.last = 0

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self._nodes) - len(self._gone)

    def offer(self, summary: NodeSummary) -> bool:
        """Take what was heard of a node, unless what is known is as new; return whether it was taken."""
        _, known = self._nodes.get(summary.node, (0, None))
        if known is not None and not known.gone and not summary.newer_than(known):
            return False
        self._change(summary)
        return True

    def settle(self, found: Collection[NodeSummary], since: int) -> None:
        """Take what a look found, which is all that there was, begun when ``last`` was ``since``.

        What was heard of a node after that wins, if it is newer. Of all others the look is the truth: also where it is
        older, as after a clock was set back, and where it has not got a node.
        """
        for summary in found:
            number, known = self._nodes.get(summary.node, (0, None))
            if number > since:
                self.offer(summary)
            elif summary != known:
                self._change(summary)
        names = {summary.node for summary in found}
        for node, (number, known) in list(self._nodes.items()):
            if node not in names and number <= since and not known.gone:
                self._change(NodeSummary(node=node, gone=True))

    def after(self, number: int, most: int) -> Changes:
        """The changes behind a number, at most so many; none at the end."""
        nodes: list[NodeSummary] = []
        last = number
        for place in range(bisect_right(self._numbers, number), len(self._numbers)):
            current, summary = self._nodes.get(self._changed[place], (0, None))
            last = self._numbers[place]
            if summary is not None and current == last:
                nodes.append(summary)
                if len(nodes) == most:
                    break
        return Changes(nodes, last)

    def forget_gone(self, told: int) -> None:
        """Forget the nodes that are gone, of which everybody has been told who stands at ``told`` or behind it."""
        for node in [node for node in self._gone if self._nodes[node][0] <= told]:
            del self._nodes[node]
            self._gone.remove(node)

    def _change(self, summary: NodeSummary) -> None:
        self.last += 1
        self._nodes[summary.node] = self.last, summary
        (self._gone.add if summary.gone else self._gone.discard)(summary.node)
        self._numbers.append(self.last)
        self._changed.append(summary.node)
        if len(self._numbers) > 2 * len(self._nodes) + 100:
            self._compact()

    def _compact(self) -> None:
        current = sorted((number, node) for node, (number, _) in self._nodes.items())
        self._numbers = [number for number, _ in current]
        self._changed = [node for _, node in current]
