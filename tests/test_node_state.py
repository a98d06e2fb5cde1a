"""A node's state in its own process: one per node, a history, and observers."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from streamer import InvalidName, NodeState, state
from streamer.node_state import HISTORY_LIMIT
from tests.commands import DEADLINE_S, environment

THREADS = 16


class Recorder:
    """An observer that keeps what it is told, and is equal to every other."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Mapping[str, Any], int]] = []

    def update(self, status: str, state: Mapping[str, Any], timestamp: int) -> None:
        self.seen.append((status, state, timestamp))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorder)

    __hash__ = None  # type: ignore[assignment]

    @property
    def statuses(self) -> list[str]:
        return [status for status, _, _ in self.seen]


class Failing:
    """An observer that raises at `failing`."""

    def update(self, status: str, state: Mapping[str, Any], timestamp: int) -> None:
        if status == "failing":
            raise ZeroDivisionError("the observer's own fault")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield pool


def test_threads_that_race_for_a_node_get_the_same_state(node: str, pool: ThreadPoolExecutor) -> None:
    for round_ in range(20):
        barrier = Barrier(THREADS)

        def first_call(name: str, barrier: Barrier = barrier) -> NodeState:
            barrier.wait(DEADLINE_S)
            return state(name)

        name = f"{node}-{round_}"
        assert set(pool.map(first_call, [name] * THREADS)) == {state(name)}
    assert state(node) is not state(f"{node}-0")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "cannot be empty"),
        ("x" * 257, "256 bytes"),
        ("a\nb", "control characters"),
        ("\ud800", "Unicode"),
        (5, "must be text, not int"),
        (None, "must be text, not NoneType"),
        ([], "must be text, not list"),
    ],
)
def test_a_name_that_no_node_may_have_is_refused_with_a_sentence(name: Any, says: str) -> None:
    for make in (state, NodeState):
        with pytest.raises(InvalidName, match=f"a node's name .*{says}"):
            make(name)


def test_a_state_gets_the_shared_fields_that_it_does_not_have_itself(node: str) -> None:
    node_state = NodeState(node)
    recorder = Recorder()
    node_state.add_observer(recorder)
    node_state.shared.update(region="north", step=0)
    fields = {"step": 1}
    change = node_state.add_state("running", fields)
    fields["step"] = node_state.shared["step"] = 2
    assert change == ("running", {"region": "north", "step": 1}, change.timestamp)
    assert recorder.seen == list(node_state.history) == [change]
    assert node_state.add_state("idle").state == {"region": "north", "step": 2}


def test_history_keeps_the_last_changes_and_no_more(node: str) -> None:
    node_state = NodeState(node, history_limit=3)
    for n in range(5):
        node_state.add_state(str(n))
    assert [change.status for change in node_state.history] == ["2", "3", "4"]
    assert state(node).history.maxlen == HISTORY_LIMIT


def test_status_is_that_of_the_last_change(node: str) -> None:
    node_state = NodeState(node)
    assert node_state.status is None
    node_state.add_state("one")
    node_state.add_state("two")
    assert node_state.status == "two"


def test_a_change_is_stamped_with_the_time_in_ms(node: str) -> None:
    before = time.time_ns() // 1_000_000
    change = NodeState(node).add_state("now")
    assert before <= change.timestamp <= time.time_ns() // 1_000_000


def test_an_observer_that_is_added_twice_is_told_once(node: str) -> None:
    node_state, recorder = NodeState(node), Recorder()
    node_state.add_observer(recorder)
    node_state.add_observer(recorder)
    node_state.add_state("one")
    assert recorder.statuses == ["one"]


def test_observers_are_known_by_identity_though_they_are_equal(node: str) -> None:
    node_state, one, other = NodeState(node), Recorder(), Recorder()
    node_state.add_observer(one)
    node_state.remove_observer(other)
    node_state.add_observer(other)
    node_state.add_state("both")
    node_state.remove_observer(one)
    node_state.remove_observer(one)
    node_state.add_state("other")
    assert one.statuses == ["both"]
    assert other.statuses == ["both", "other"]


def test_an_observer_that_raises_is_logged_and_does_not_keep_the_others_from_learning(
    node: str, caplog: pytest.LogCaptureFixture
) -> None:
    node_state, recorder = NodeState(node), Recorder()
    for observer in (Failing(), recorder):
        node_state.add_observer(observer)
    change = node_state.add_state("failing")
    node_state.add_state("next")
    assert node_state.history[0] is change
    assert recorder.statuses == ["failing", "next"]
    [error] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert node in error.getMessage()
    assert "the observer's own fault" in caplog.text


def test_while_a_failure_is_logged_other_threads_change_the_state(node: str, pool: ThreadPoolExecutor) -> None:
    """Else a log handler that reports what is logged as a state waits for a thread that waits for the handler."""
    node_state, changed = NodeState(node), []
    node_state.add_observer(Failing())

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            changed.append(pool.submit(node_state.add_state, "logged").exception(timeout=5))

    handler = Handler()
    logger = logging.getLogger("streamer")
    logger.addHandler(handler)
    try:
        node_state.add_state("failing")
    finally:
        logger.removeHandler(handler)
    assert changed == [None]


def test_an_observer_may_change_the_state_in_turn_and_all_learn_in_the_order_of_history(node: str) -> None:
    node_state, before, after = NodeState(node), Recorder(), Recorder()

    class Reacting:
        def update(self, status: str, state: Mapping[str, Any], timestamp: int) -> None:
            if status == "job-failed":
                node_state.add_state("cleaning-up")
                node_state.add_state("idle")

    for observer in (before, Reacting(), after):
        node_state.add_observer(observer)
    node_state.add_state("job-failed")
    node_state.add_state("next")
    statuses = ["job-failed", "cleaning-up", "idle", "next"]
    assert [change.status for change in node_state.history] == statuses
    assert before.statuses == statuses
    assert after.statuses == statuses


def test_an_interrupt_in_an_observer_leaves_what_follows_in_order(node: str) -> None:
    node_state, recorder = NodeState(node), Recorder()

    class Interrupted:
        def update(self, status: str, state: Mapping[str, Any], timestamp: int) -> None:
            if status == "first":
                node_state.add_state("second")
                raise KeyboardInterrupt

    for observer in (Interrupted(), recorder):
        node_state.add_observer(observer)
    with pytest.raises(KeyboardInterrupt):
        node_state.add_state("first")
    node_state.add_state("third")
    assert recorder.statuses == ["second", "third"]


def test_observers_learn_of_the_changes_of_all_threads_in_the_order_of_history(
    node: str, pool: ThreadPoolExecutor
) -> None:
    each = 200
    node_state, recorder, barrier = NodeState(node, history_limit=THREADS * each), Recorder(), Barrier(THREADS)
    node_state.add_observer(recorder)

    def change(thread: int) -> None:
        barrier.wait(DEADLINE_S)
        for n in range(each):
            node_state.add_state("running", {"thread": thread, "n": n})

    list(pool.map(change, range(THREADS)))
    assert recorder.seen == list(node_state.history)
    for thread in range(THREADS):
        own = [fields["n"] for _, fields, _ in recorder.seen if fields["thread"] == thread]
        assert own == list(range(each))


def test_an_observer_may_remove_itself(node: str) -> None:
    node_state, recorder = NodeState(node), Recorder()

    class Once(Recorder):
        def update(self, status: str, state: Mapping[str, Any], timestamp: int) -> None:
            super().update(status, state, timestamp)
            node_state.remove_observer(self)

    once = Once()
    for observer in (once, recorder):
        node_state.add_observer(observer)
    node_state.add_state("one")
    node_state.add_state("two")
    assert once.statuses == ["one"]
    assert recorder.statuses == ["one", "two"]


def test_clear_forgets_history_and_shared_fields_and_keeps_the_observers(node: str) -> None:
    node_state, recorder = NodeState(node), Recorder()
    node_state.add_observer(recorder)
    node_state.shared["region"] = "north"
    node_state.add_state("one")
    node_state.clear()
    assert (list(node_state.history), node_state.shared, node_state.status) == ([], {}, None)
    assert node_state.add_state("two").state == {}
    assert recorder.statuses == ["one", "two"]


def test_node_info_tells_where_the_node_runs(node: str) -> None:
    info = NodeState(node).node_info
    assert info["node"] == node
    assert info["pid"] == os.getpid()
    assert info["host"] == platform.node()
    assert info["python"] == platform.python_version()


FORK_WHILE_ANOTHER_THREAD_IS_IN_AN_OBSERVER = """
import os, signal, threading
from streamer import state

node_state, inside, done = state("n"), threading.Event(), threading.Event()

class Slow:
    def update(self, status, fields, timestamp):
        if status == "slow":
            inside.set()
            done.wait()

node_state.add_observer(Slow())
thread = threading.Thread(target=node_state.add_state, args=("slow",))
thread.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(10)
    node_state.add_state("child")
    node_state.clear()
    os._exit(state("n") is not node_state)
_, status = os.waitpid(child, 0)
done.set()
thread.join()
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_can_change_the_state_though_a_thread_of_the_parent_was_changing_it() -> None:
    script = [sys.executable, "-c", FORK_WHILE_ANOTHER_THREAD_IS_IN_AN_OBSERVER]
    assert subprocess.run(script, env=environment(), timeout=DEADLINE_S).returncode == 0
