"""What is known of the fleet is, in the end, what the fleet's hash has, whatever was lost, late or interleaved."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamer.core.fleet_view import FleetView, NodeSummary

NODES = ["a", "b", "c", "d"]
nodes = st.sampled_from(NODES)


def summary(node: str, last_seen: int, index: int = 0) -> NodeSummary:
    return NodeSummary(node=node, last_seen=last_seen, status="s", index=index)


class Watcher:
    """Keeps the newest of each node, as it was told."""

    def __init__(self) -> None:
        self.number = 0
        self.nodes: dict[str, NodeSummary] = {}

    def read(self, view: FleetView, most: int) -> bool:
        """Take the next changes; return whether there were any."""
        changes = view.after(self.number, most)
        assert len(changes.nodes) <= most
        assert len({node.node for node in changes.nodes}) == len(changes.nodes)
        assert changes.last >= self.number
        self.number = changes.last
        for node in changes.nodes:
            if node.gone:
                self.nodes.pop(node.node, None)
            else:
                self.nodes[node.node] = node
        return bool(changes.nodes)

    def read_all(self, view: FleetView) -> None:
        while self.read(view, 2):
            pass


class ViewAgainstTheHash(RuleBasedStateMachine):
    """``found`` is what a look under way has seen: part of it when it began, the rest when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.view = FleetView()
        self.hash: dict[str, NodeSummary] = {}
        self.under_way: list[NodeSummary] = []
        self.watchers = [Watcher(), Watcher()]
        self.look: tuple[int, dict[str, NodeSummary], set[str]] | None = None
        self.index = 0

    @rule(node=nodes, last_seen=st.integers(1, 50))
    def report(self, node: str, last_seen: int) -> None:
        """A node's clock may be set back."""
        self.index += 1
        self.hash[node] = summary(node, last_seen, self.index)
        self.under_way.append(self.hash[node])

    @rule(node=nodes)
    def leave(self, node: str) -> None:
        self.hash.pop(node, None)

    @precondition(lambda self: self.under_way)
    @rule(place=st.integers(0, 9), lost=st.booleans())
    def deliver(self, place: int, lost: bool) -> None:
        message = self.under_way.pop(place % len(self.under_way))
        if not lost:
            self.view.offer(message)

    @precondition(lambda self: self.look is None)
    @rule(seen=st.sets(nodes))
    def begin_to_look(self, seen: set[str]) -> None:
        self.look = self.view.last, {node: self.hash[node] for node in seen if node in self.hash}, seen

    @precondition(lambda self: self.look is not None)
    @rule()
    def end_to_look(self) -> None:
        assert self.look is not None
        since, found, seen = self.look
        found |= {node: each for node, each in self.hash.items() if node not in seen}
        self.view.settle(found.values(), since)
        self.look = None

    @rule(place=st.integers(0, 1), most=st.integers(1, 3))
    def read(self, place: int, most: int) -> None:
        self.watchers[place].read(self.view, most)

    @rule()
    def forget_gone(self) -> None:
        self.view.forget_gone(min(watcher.number for watcher in self.watchers))

    @rule()
    def come_anew(self) -> None:
        self.watchers[0] = Watcher()

    @invariant()
    def memory_is_bounded_by_the_nodes(self) -> None:
        assert len(self.view._numbers) == len(self.view._changed) <= 2 * len(NODES) + 101

    def teardown(self) -> None:
        """All that is under way is lost, and one look sees all."""
        self.under_way.clear()
        if self.look is not None:
            self.end_to_look()
        self.begin_to_look(set())
        self.end_to_look()
        for watcher in (*self.watchers, Watcher()):
            watcher.read_all(self.view)
            assert watcher.nodes == self.hash
        assert len(self.view) == len(self.hash)


TestViewAgainstTheHash = ViewAgainstTheHash.TestCase
TestViewAgainstTheHash.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(nodes, st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_of_what_is_heard_the_newest_wins_in_whatever_order_it_comes(heard: list[tuple[str, int, int]]) -> None:
    view, watcher = FleetView(), Watcher()
    for node, last_seen, index in heard:
        view.offer(summary(node, last_seen, index))
        watcher.read(view, 1)
    watcher.read_all(view)
    newest = {node: max((seen, index) for name, seen, index in heard if name == node) for node, _, _ in heard}
    assert {node: (each.last_seen, each.index) for node, each in watcher.nodes.items()} == newest


def test_what_was_heard_while_it_was_looked_is_newer_than_what_was_found() -> None:
    view = FleetView()
    view.offer(summary("a", 1))
    since = view.last
    view.offer(summary("a", 3))
    view.offer(summary("b", 3))
    view.settle([summary("a", 2), summary("c", 2)], since)
    assert [(each.node, each.last_seen) for each in view.after(0, 9).nodes] == [("a", 3), ("b", 3), ("c", 2)]


def test_who_is_far_behind_is_told_of_each_node_once() -> None:
    view = FleetView()
    for n in range(5000):
        view.offer(summary(NODES[n % 4], n + 1))
    assert [each.last_seen for each in view.after(1, 9).nodes] == [4997, 4998, 4999, 5000]
