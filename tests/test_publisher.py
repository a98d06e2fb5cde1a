"""The way of a node's updates to Redis: in order, once, whatever fails on it, and however its process ends."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest

from streamer import NotAcknowledged, OutboxFull, StateStreamer, Update
from streamer.core.names import Topic
from streamer.log.fleet import Summary
from streamer.log.keys import Keys
from tests.commands import DEADLINE_S, NO_REDIS, environment, updates
from tests.proxies import Proxy
from tests.servers import RedisServer, free_port, wait_until
from tests.streamers import Make

FLUSH_S = 20.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def proxy(valkey: RedisServer) -> Iterator[Proxy]:
    with Proxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def stopped_valkey() -> Iterator[RedisServer]:
    """A Valkey that the test starts itself."""
    with ExitStack() as stack:
        server = RedisServer("valkey", free_port())
        stack.push(server)
        yield server


def publish(streamer: StateStreamer, numbers: range, job: str | None = None) -> None:
    for n in numbers:
        streamer.update("running", {"n": n} if job is None else {"n": n, "job": job})


def has_all(log: list[Update], count: int) -> bool:
    """Whether the log has the numbers from 0 on, each once and in order, and indexes without a hole."""
    return [(update.index, update.state["n"]) for update in log] == [(n, n) for n in range(count)]


def waits_because(streamer: StateStreamer, reason: str) -> bool:
    """Whether the streamer says that updates wait for this reason."""
    try:
        streamer.flush(timeout=0)
    except NotAcknowledged as error:
        return reason in str(error)
    return False


def test_updates_accepted_before_redis_is_there_arrive_in_order_once_it_is(
    streaming: Make, stopped_valkey: RedisServer, node: str
) -> None:
    streamer = streaming(stopped_valkey.url)
    publish(streamer, range(1500))
    wait_until("the publisher has tried", lambda: waits_because(streamer, "refused"))
    assert streamer.pending == 1500
    stopped_valkey.start()
    streamer.flush(FLUSH_S)
    assert streamer.pending == 0
    assert has_all(updates(stopped_valkey.url, node), 1500)


def test_update_returns_while_redis_has_accepted_and_does_not_answer(
    streaming: Make, proxy: Proxy, node: str, pool: ThreadPoolExecutor
) -> None:
    proxy.hold()
    streamer = streaming(proxy.url)
    pool.submit(publish, streamer, range(1)).result(timeout=5)
    assert proxy.asked.wait(DEADLINE_S)
    pool.submit(publish, streamer, range(1, 10)).result(timeout=5)
    assert streamer.pending == 10
    proxy.release()
    streamer.flush(FLUSH_S)
    assert has_all(streamer.states(), 10)


def test_update_returns_while_the_failure_is_being_logged(streaming: Make, pool: ThreadPoolExecutor) -> None:
    """Else a handler that waits, or that reports what is logged as an update, stops the node."""
    logging_, logged = Event(), Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging_.set()
            logged.wait(DEADLINE_S)

    handler = Handler()
    logger = logging.getLogger("streamer")
    logger.addHandler(handler)
    try:
        streamer = streaming(NO_REDIS)
        publish(streamer, range(1))
        assert logging_.wait(DEADLINE_S)
        pool.submit(publish, streamer, range(1, 2)).result(timeout=5)
        assert streamer.pending == 2
    finally:
        logged.set()
        logger.removeHandler(handler)


def test_a_full_outbox_refuses_with_a_sentence_and_what_was_accepted_arrives(
    streaming: Make, stopped_valkey: RedisServer, node: str
) -> None:
    streamer = streaming(stopped_valkey.url, outbox_records=3)
    publish(streamer, range(3))
    wait_until("the publisher has tried", lambda: waits_because(streamer, "refused"))
    with pytest.raises(
        OutboxFull, match=rf"outbox of node '{node}' is full: 3 updates wait for Redis \(.*refused"
    ) as full:
        streamer.update("refused", {})
    assert (full.value.node, full.value.pending, full.value.temporary) == (node, 3, True)
    stopped_valkey.start()
    streamer.flush(FLUSH_S)
    publish(streamer, range(3, 4))
    streamer.flush(FLUSH_S)
    assert has_all(updates(stopped_valkey.url, node), 4)


def test_an_outbox_smaller_than_one_update_takes_one_at_a_time(streaming: Make, proxy: Proxy) -> None:
    proxy.hold()
    streamer = streaming(proxy.url, outbox_bytes=1)
    publish(streamer, range(1))
    with pytest.raises(OutboxFull, match="1 update waits for Redis; try again later"):
        publish(streamer, range(1, 2))
    proxy.release()
    streamer.flush(FLUSH_S)
    publish(streamer, range(1, 2))
    streamer.flush(FLUSH_S)
    assert has_all(streamer.states(), 2)


def test_great_updates_arrive_too(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    for n in range(12):
        streamer.update("great", {"n": n, "text": "x" * 1_000_000})
    streamer.flush(FLUSH_S)
    assert has_all(streamer.states(), 12)


def test_nothing_is_lost_or_doubled_though_redis_is_killed_in_the_middle_of_a_stream(
    streaming: Make, own_valkey: RedisServer, pool: ThreadPoolExecutor
) -> None:
    streamer = streaming(own_valkey.url)
    publish(streamer, range(500))
    streamer.flush(FLUSH_S)
    publishing = pool.submit(publish, streamer, range(500, 30_000))
    wait_until("the stream goes on", lambda: streamer.index > 1000)
    own_valkey.kill()
    publishing.result(DEADLINE_S)
    wait_until("the publisher has noticed", lambda: waits_because(streamer, "refused"))
    own_valkey.start()
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        stored = client.hget(Keys().log(streamer.node), "next")
    assert stored == b"30000"
    kept = [(update.index, update.state["n"]) for update in streamer.states()]
    assert kept == [(n, n) for n in range(20_000, 30_000)]


def test_nothing_is_lost_or_doubled_though_connections_are_killed_in_the_middle_of_a_stream(
    streaming: Make, own_valkey: RedisServer, pool: ThreadPoolExecutor
) -> None:
    streamer = streaming(own_valkey.url)
    publishing = pool.submit(publish, streamer, range(8_000))
    with own_valkey.client() as client:
        for part in range(1, 5):
            wait_until("the stream goes on", lambda part=part: streamer.index >= part * 1000)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    publishing.result(DEADLINE_S)
    streamer.flush(FLUSH_S)
    assert has_all(streamer.states(), 8_000)


@pytest.mark.parametrize(
    "answer", [b"", b"-ERR something unheard of\r\n", b"+OK\r\n", b":5\r\n", b"HTTP/1.1 400\r\n\r\n"]
)
def test_an_append_whose_answer_is_lost_or_wrong_is_repeated_without_doubling(
    streaming: Make, proxy: Proxy, valkey: RedisServer, node: str, answer: bytes
) -> None:
    streamer = streaming(proxy.url)
    publish(streamer, range(2))
    streamer.flush(FLUSH_S)
    proxy.replace_next_answer(answer)
    publish(streamer, range(2, 3))
    assert proxy.failed.wait(DEADLINE_S)
    assert has_all(updates(valkey.url, node), 3), "the answer that was lost is not that of the append"
    publish(streamer, range(3, 5))
    streamer.flush(FLUSH_S)
    assert has_all(streamer.states(), 5)


@pytest.mark.parametrize(
    ("breaking", "mending", "reason"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "read only replica"),
        ("RENAME {log} kept, SET {log} text", "RENAME kept {log}", "WRONGTYPE"),
        ("RENAME {all} kept, SET {all} text", "RENAME kept {all}", "WRONGTYPE"),
        ("RENAME {job} kept, SET {job} text", "RENAME kept {job}", "WRONGTYPE"),
        ("ACL SETUSER default -evalsha", "ACL SETUSER default +evalsha", "permission"),
        ("ACL SETUSER default -rpush", "ACL SETUSER default +rpush", "permission"),
        ("ACL SETUSER default -expire", "ACL SETUSER default +expire", "permission"),
        ("CONFIG SET requirepass secret, CLIENT KILL TYPE normal", "CONFIG SET requirepass ''", "uthentication"),
    ],
)
def test_while_redis_answers_with_an_error_updates_wait_and_then_each_arrives_once(
    streaming: Make, own_valkey: RedisServer, node: str, breaking: str, mending: str, reason: str
) -> None:
    keys = {"log": Keys().log(node), "all": Keys().records(Topic(node)), "job": Keys().records(Topic(node, "job"))}
    streamer = streaming(own_valkey.url)
    publish(streamer, range(1), "job")
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        for command in breaking.split(", "):
            client.execute_command(*command.format(**keys).split())
        publish(streamer, range(1, 5), "job")
        wait_until(f"updates wait because of {reason}", lambda: waits_because(streamer, reason))
        assert streamer.pending == 4
        client.execute_command(*mending.replace("''", "").format(**keys).split(" "))
    streamer.flush(FLUSH_S)
    assert has_all(streamer.states(), 5)
    assert has_all(streamer.states("job"), 5)


def test_updates_arrive_where_redis_forbids_to_publish_them(streaming: Make, own_valkey: RedisServer) -> None:
    """Watchers read the log now and then, whatever they are told."""
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "resetchannels")
    streamer = streaming(own_valkey.url)
    publish(streamer, range(3), "job")
    streamer.flush(FLUSH_S)
    assert has_all(streamer.states("job"), 3)


def test_a_flush_leaves_a_true_summary_of_the_node(streaming: Make, valkey: RedisServer, node: str) -> None:
    streamer = streaming(valkey.url)
    with valkey.client() as client:
        for n in range(5):
            publish(streamer, range(n, n + 1), "job")
            streamer.flush(FLUSH_S)
            summary = Summary.unpack(client.hget(Keys().fleet, node))
            assert (summary.status, summary.job, summary.index) == ("running", "job", n)


def test_updates_are_not_held_up_where_the_summary_of_the_fleet_cannot_be_written(
    streaming: Make, own_valkey: RedisServer, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sender.backoff", lambda rng: repeat(3600.0))
    with own_valkey.client() as client:
        client.set(Keys().fleet, "no hash")
    streamer = streaming(own_valkey.url)
    publish(streamer, range(1))
    wait_until("the first arrives", lambda: streamer.pending == 0)
    publish(streamer, range(1, 2))
    pool.submit(streamer.flush, 10).result(timeout=5)
    assert has_all(streamer.states(), 2)


def test_flush_tries_again_at_once_however_long_the_next_wait_is(
    streaming: Make, stopped_valkey: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that ends in the middle of a long wait loses its updates, though Redis is back."""
    monkeypatch.setattr("streamer.sender.backoff", lambda rng: repeat(3600.0))
    streamer = streaming(stopped_valkey.url)
    publish(streamer, range(3))
    wait_until("the publisher has tried", lambda: waits_because(streamer, "refused"))
    stopped_valkey.start()
    streamer.flush(timeout=5)
    assert has_all(updates(stopped_valkey.url, node), 3)


@pytest.mark.parametrize("timeout", [0.05, 0, -1])
def test_flush_raises_with_what_waits_and_why(streaming: Make, node: str, timeout: float) -> None:
    streamer = streaming(NO_REDIS)
    publish(streamer, range(4))
    wait_until("the publisher has tried", lambda: waits_because(streamer, "refused"))
    with pytest.raises(
        NotAcknowledged, match=rf"4 updates of node '{node}' were not acknowledged within {timeout} s: "
    ) as error:
        streamer.flush(timeout)
    assert isinstance(error.value, TimeoutError)
    assert (error.value.node, error.value.pending, error.value.timeout_s) == (node, 4, timeout)
    assert "refused" in (error.value.reason or "")


def test_flush_from_several_threads_returns_in_each_once_its_updates_are_there(
    streaming: Make, valkey: RedisServer, pool: ThreadPoolExecutor
) -> None:
    streamer, barrier = streaming(valkey.url), Barrier(8)

    def publish_and_flush(thread: int) -> list[int]:
        barrier.wait(DEADLINE_S)
        for n in range(200):
            streamer.update("running", {"thread": thread, "n": n})
        streamer.flush(FLUSH_S)
        return [update.state["n"] for update in streamer.states() if update.state["thread"] == thread]

    assert list(pool.map(publish_and_flush, range(8))) == [list(range(200))] * 8
    assert streamer.index == 1600


@pytest.mark.parametrize("timeout", [0.0, 0.4])
def test_close_takes_no_longer_than_its_timeout_though_redis_never_answers(
    streaming: Make, proxy: Proxy, timeout: float
) -> None:
    proxy.hold()
    streamer = streaming(proxy.url)
    publish(streamer, range(1))
    assert proxy.asked.wait(DEADLINE_S)
    began = time.monotonic()
    with pytest.raises(NotAcknowledged):
        streamer.close(timeout)
    assert timeout <= time.monotonic() - began < timeout + 0.35


def test_flush_with_nothing_accepted_returns_without_redis(streaming: Make) -> None:
    streaming(NO_REDIS).flush(timeout=0)


def test_an_update_for_which_no_thread_could_be_started_does_not_stop_those_after_it(
    streaming: Make, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    streamer = streaming(valkey.url)
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", fail)
        with pytest.raises(RuntimeError):
            streamer.update("refused", {})
    publish(streamer, range(1))
    streamer.flush(timeout=5)
    assert has_all(streamer.states(), 1)


# How a process ends, and forks. Scripts, so that pytest's own threads are not forked.

PUBLISH = """
import multiprocessing, os, sys
from streamer import state_streaming

def publish():
    streamer = state_streaming(sys.argv[1])
    for n in range(1000):
        streamer.update("running", {"n": n})

"""

ENDINGS = {
    "falls off its end": ("publish()", 0),
    "calls sys.exit": ("publish(); sys.exit(3)", 3),
    "has an unhandled exception": ("publish(); raise ValueError('the end')", 1),
    "publishes in a thread": ("import threading; threading.Thread(target=publish).start()", 0),
    "is a forked child": (
        "child = os.fork()\n"
        "if not child: publish(); sys.exit(4)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
        4,
    ),
    "is a child of multiprocessing": (
        "child = multiprocessing.get_context('fork').Process(target=publish)\n"
        "child.start(); child.join(); sys.exit(child.exitcode)",
        0,
    ),
    "is a child of multiprocessing that fails": (
        "def fail(): publish(); raise ValueError('the end')\n"
        "child = multiprocessing.get_context('fork').Process(target=fail)\n"
        "child.start(); child.join(); sys.exit(child.exitcode)",
        1,
    ),
}


def run_script(
    script: str, node: str, redis_url: str, exit_flush_s: float = FLUSH_S, timeout_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    variables = environment(STREAMER_REDIS_URL=redis_url, STREAMER_EXIT_FLUSH_S=str(exit_flush_s))
    arguments = [sys.executable, "-X", "dev", "-c", script, node]
    return subprocess.run(arguments, env=variables, capture_output=True, text=True, timeout=timeout_s)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_pending_is_flushed_when_a_process(valkey: RedisServer, node: str, ending: str) -> None:
    script, status = ENDINGS[ending]
    done = run_script(PUBLISH + script, node, valkey.url)
    assert done.returncode == status, done.stderr
    assert ("the end" in done.stderr) or not done.stderr
    assert has_all(updates(valkey.url, node), 1000)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_loss_is_logged_when_redis_is_down_and_a_process(node: str, ending: str) -> None:
    script, status = ENDINGS[ending]
    done = run_script(PUBLISH + script, node, NO_REDIS, exit_flush_s=0.3)
    assert done.returncode == status, done.stderr
    assert f"updates are lost: 1,000 updates of node '{node}'" in done.stderr


def test_a_process_ends_within_its_bound_though_redis_never_answers(proxy: Proxy, node: str) -> None:
    """The bound of the test is less than the time that Redis has for an answer."""
    proxy.hold()
    done = run_script(PUBLISH + "publish()", node, proxy.url, exit_flush_s=0.3, timeout_s=8)
    assert done.returncode == 0, done.stderr
    assert f"updates are lost: 1,000 updates of node '{node}'" in done.stderr


def test_a_process_that_publishes_for_many_nodes_waits_for_all_of_them_once(node: str) -> None:
    script = """
import sys
from streamer import state_streaming
import multiprocessing.util

for n in range(6):
    state_streaming(f"{sys.argv[1]}-{n}").update("s", {})
"""
    done = run_script(script, node, NO_REDIS, exit_flush_s=0.3)
    losses = [line for line in done.stderr.splitlines() if "updates are lost" in line]
    assert sorted(line.partition("1 update of node ")[2].split()[0] for line in losses) == [
        f"'{node}-{n}'" for n in range(6)
    ]


def test_a_process_that_is_ended_hard_does_not_hang(valkey: RedisServer, node: str) -> None:
    done = run_script(PUBLISH + "publish(); os._exit(7)", node, NO_REDIS)
    assert done.returncode == 7
    assert "lost" not in done.stderr


def test_what_a_process_publishes_while_it_ends_is_flushed_too(valkey: RedisServer, node: str) -> None:
    """A function registered before the package was imported runs after what the package has registered."""
    done = run_script("import atexit; atexit.register(lambda: publish())\n" + PUBLISH, node, valkey.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert has_all(updates(valkey.url, node), 1000)


FORK_WITH_UPDATES_PENDING = """
import os, sys
from streamer import state, state_streaming

streamer = state_streaming(sys.argv[1])
for n in range(700):
    state(sys.argv[1]).add_state("parent", {"n": n})
child = os.fork()
if not child:
    for n in range(300):
        state(sys.argv[1]).add_state("child", {"n": n})
    assert state_streaming(sys.argv[1]) is streamer
    assert streamer.pending == 300
    sys.exit()
print("forked", flush=True)
for n in range(700, 800):
    state(sys.argv[1]).add_state("parent", {"n": n})
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_publishes_its_own_updates_and_the_parent_those_that_were_pending(
    stopped_valkey: RedisServer, node: str
) -> None:
    variables = environment(STREAMER_REDIS_URL=stopped_valkey.url, STREAMER_EXIT_FLUSH_S=str(FLUSH_S))
    arguments = [sys.executable, "-c", FORK_WITH_UPDATES_PENDING, node]
    with subprocess.Popen(arguments, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "forked\n"
            stopped_valkey.start()
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
    log = updates(stopped_valkey.url, node)
    assert [update.index for update in log] == list(range(1100))
    for who, count in (("parent", 800), ("child", 300)):
        assert [update.state["n"] for update in log if update.status == who] == list(range(count))


FORK_WITH_AN_INSTANCE_OF_ITS_OWN = """
import os, sys
from streamer import NodeSettings, StateStreamer

streamer = StateStreamer(sys.argv[1], NodeSettings.from_environ(os.environ))
closed = StateStreamer(sys.argv[1], streamer.settings)
closed.close()
streamer.update("parent", {})
streamer.flush(20)
child = os.fork()
if not child:
    streamer.update("child", {})
    try:
        closed.update("refused", {})
    except Exception as error:
        assert "is closed" in str(error)
        sys.exit(5)
    sys.exit(6)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_an_instance_that_was_made_directly_publishes_in_a_forked_child_too(valkey: RedisServer, node: str) -> None:
    done = run_script(FORK_WITH_AN_INSTANCE_OF_ITS_OWN, node, valkey.url)
    assert (done.returncode, done.stderr) == (5, "")
    assert [update.status for update in updates(valkey.url, node)] == ["parent", "child"]


IMPORTS_OF_THE_THREAD = """
import sys
from streamer import NotAcknowledged, state_streaming

streamer = state_streaming(sys.argv[1])
modules = set(sys.modules)
streamer.update("running", {"job": "job"})
try:
    streamer.flush(2)
except NotAcknowledged:
    pass
print(*sorted(set(sys.modules) - modules))
"""


@pytest.mark.parametrize("there", [True, False])
def test_the_thread_imports_nothing_that_a_forked_child_could_inherit_half_made(
    valkey: RedisServer, node: str, there: bool
) -> None:
    url = valkey.url.replace("127.0.0.1", "localhost") if there else NO_REDIS
    assert run_script(IMPORTS_OF_THE_THREAD, node, url, exit_flush_s=0).stdout == "\n"


FORK_WHILE_A_THREAD_PUBLISHES = """
import os, signal, sys, threading
from streamer import state, state_streaming

node = sys.argv[1]
streamer, enough = state_streaming(node), threading.Event()

def publish():
    while not enough.is_set():
        state(node).add_state("parent", {})
        streamer.flush(5)

thread = threading.Thread(target=publish)
thread.start()
children = []
for n in range(12):
    child = os.fork()
    if not child:
        enough.set()
        signal.alarm(20)
        state(node).add_state("child", {"n": n})
        sys.exit()
    children.append(child)
statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
enough.set()
thread.join()
sys.exit(f"children ended with {statuses}" if any(statuses) else 0)
"""


def test_children_forked_at_any_moment_of_a_publishing_thread_publish_too(valkey: RedisServer, node: str) -> None:
    done = run_script(FORK_WHILE_A_THREAD_PUBLISHES, node, valkey.url, exit_flush_s=8)
    assert done.returncode == 0, done.stderr
    log = updates(valkey.url, node)
    assert sorted(update.state["n"] for update in log if update.status == "child") == list(range(12))


MULTIPROCESSING = """
import multiprocessing, sys
from streamer import state, state_streaming

def publish(node, who):
    state_streaming(node)
    for n in range(500):
        state(node).add_state(who, {"n": n})

if __name__ == "__main__":
    method, node = sys.argv[1:]
    publish(node, "parent")
    child = multiprocessing.get_context(method).Process(target=publish, args=(node, "child"))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_parent_and_child_of_multiprocessing_share_one_log(
    valkey: RedisServer, node: str, method: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(MULTIPROCESSING)
    variables = environment(STREAMER_REDIS_URL=valkey.url, STREAMER_EXIT_FLUSH_S=str(FLUSH_S))
    subprocess.run([sys.executable, script, method, node], env=variables, check=True, timeout=DEADLINE_S)
    log = updates(valkey.url, node)
    assert [update.index for update in log] == list(range(1000))
    for who in ("parent", "child"):
        assert [update.state["n"] for update in log if update.status == who] == list(range(500))
