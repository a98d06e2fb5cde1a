"""A node that one process has for itself: nobody else writes, and a holder that lost it does not either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from streamer import InvalidSetting, NodeFencedError, NodeSettings, StateStreamer, state, state_streaming
from tests.commands import DEADLINE_S, environment, run, running, updates
from tests.proxies import Proxy
from tests.servers import RedisServer, free_port, wait_until

FLUSH_S = 20.0
LEASE_S = 1.0


@pytest.fixture
def settings(valkey: RedisServer) -> NodeSettings:
    return NodeSettings(redis_url=valkey.url, lease_s=LEASE_S)


@contextmanager
def exclusive(node: str, settings: NodeSettings) -> Iterator[StateStreamer]:
    """An exclusive streamer, as another process would have it: not this process's one instance."""
    streamer = StateStreamer(node, settings, exclusive=True)
    try:
        streamer._publisher.claim()
        yield streamer
    finally:
        with suppress(NodeFencedError):
            streamer.close(FLUSH_S)


def statuses(url: str, node: str) -> list[str]:
    return [update.status for update in updates(url, node)]


def test_while_one_has_the_node_a_second_is_refused_and_after_its_close_not(
    settings: NodeSettings, node: str, valkey: RedisServer
) -> None:
    with exclusive(node, settings) as first:
        first.update("first", {})
        with pytest.raises(NodeFencedError, match=f"node '{node}' is not this process's to write: another") as error:
            state_streaming(node, settings, exclusive=True)
        assert error.value.final
    second = state_streaming(node, settings, exclusive=True)
    assert second.exclusive
    state(node).add_state("second")
    second.close(FLUSH_S)
    assert statuses(valkey.url, node) == ["first", "second"]


def test_a_claim_is_renewed_for_as_long_as_its_process_lives(
    settings: NodeSettings, node: str, valkey: RedisServer
) -> None:
    with exclusive(node, settings) as first:
        time.sleep(2 * LEASE_S)
        with pytest.raises(NodeFencedError), exclusive(node, settings):
            pass
        first.update("first", {})
        first.flush(FLUSH_S)
        assert not first.statistics().fenced


def test_what_others_publish_is_refused_meanwhile_and_goes_on_afterwards(
    settings: NodeSettings, node: str, valkey: RedisServer
) -> None:
    shared = StateStreamer(node, settings)
    shared.update("before", {})
    shared.flush(FLUSH_S)
    with exclusive(node, settings) as holder:
        shared.update("meanwhile", {})
        with pytest.raises(NodeFencedError, match="another process has it for itself; 1 update is not sent") as error:
            shared.flush(0.5)
        assert error.value.temporary
        with pytest.raises(NodeFencedError):
            shared.update("refused", {})
        assert shared.statistics().fenced
        holder.update("holder", {})
        holder.flush(FLUSH_S)
    shared.flush(FLUSH_S)
    shared.update("after", {})
    shared.close(FLUSH_S)
    assert statuses(valkey.url, node) == ["before", "holder", "meanwhile", "after"]


def test_an_instance_that_is_there_and_shared_does_not_become_exclusive(settings: NodeSettings, node: str) -> None:
    shared = state_streaming(node, settings)
    with pytest.raises(InvalidSetting, match="is there already, and is not exclusive"):
        state_streaming(node, exclusive=True)
    shared.close()


def test_an_outage_longer_than_the_lease_costs_nothing(own_valkey: RedisServer, node: str) -> None:
    settings = NodeSettings(redis_url=own_valkey.url, lease_s=LEASE_S)
    with exclusive(node, settings) as streamer:
        streamer.update("before", {})
        streamer.flush(FLUSH_S)
        own_valkey.kill()
        streamer.update("meanwhile", {})
        time.sleep(2.5 * LEASE_S)
        own_valkey.start()
        streamer.update("after", {})
        streamer.flush(FLUSH_S)
        assert statuses(own_valkey.url, node) == ["before", "meanwhile", "after"]


def test_a_redis_that_was_emptied_is_claimed_again(own_valkey: RedisServer, node: str) -> None:
    settings = NodeSettings(redis_url=own_valkey.url, lease_s=LEASE_S)
    with exclusive(node, settings) as streamer:
        streamer.update("a", {})
        streamer.flush(FLUSH_S)
        with own_valkey.client() as client:
            client.flushall()
        streamer.update("b", {})
        streamer.flush(FLUSH_S)
        assert statuses(own_valkey.url, node) == ["a", "b"]
        with pytest.raises(NodeFencedError), exclusive(node, settings):
            pass


def test_without_redis_the_claim_is_made_once_it_is_there(node: str) -> None:
    server = RedisServer("valkey", free_port())
    settings = NodeSettings(redis_url=server.url, lease_s=LEASE_S)
    with exclusive(node, settings) as streamer:
        streamer.update("early", {})
        with server:
            streamer.flush(FLUSH_S)
            with pytest.raises(NodeFencedError), exclusive(node, settings):
                pass
            assert statuses(server.url, node) == ["early"]
            streamer.close(FLUSH_S)


PUBLISH_EXCLUSIVELY = """
import sys, time
from streamer import NodeFencedError, state_streaming

node, who = sys.argv[1:3]
streamer = state_streaming(node, exclusive=True)
print("claimed", flush=True)
n = 0
try:
    while True:
        streamer.update(who, {"n": n})
        n += 1
        time.sleep(0.002)
except NodeFencedError as error:
    print("update:", error, flush=True)
try:
    streamer.flush(5)
except NodeFencedError as error:
    print("flush:", error, flush=True)
"""


@contextmanager
def publishing(node: str, who: str, url: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the node for itself and publishes without end."""
    variables = environment(STREAMER_REDIS_URL=url, STREAMER_LEASE_S=str(LEASE_S), **variables)
    arguments = [sys.executable, "-c", PUBLISH_EXCLUSIVELY, node, who]
    with subprocess.Popen(arguments, env=variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert line(process) == "claimed\n"
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints; killed where it prints none in time."""
    assert process.stdout is not None
    timer = threading.Timer(DEADLINE_S, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def count(url: str, node: str, who: str) -> int:
    return statuses(url, node).count(who)


@pytest.mark.parametrize("turn", range(3))
def test_a_process_stopped_past_its_lease_writes_nothing_once_another_has_taken_over(
    valkey: RedisServer, node: str, turn: int
) -> None:
    with publishing(node, "first", valkey.url) as first:
        wait_until("it publishes", lambda: count(valkey.url, node, "first") > 10 * turn)
        os.kill(first.pid, signal.SIGSTOP)
        wait_until("the lease is over", lambda: claims(node, valkey.url))
        written = count(valkey.url, node, "first")
        with publishing(node, "second", valkey.url):
            wait_until("the second publishes", lambda: count(valkey.url, node, "second") > 10)
            os.kill(first.pid, signal.SIGCONT)
            assert line(first).startswith(f"update: node '{node}' is not this process's to write: ")
            assert line(first).startswith("flush: ")
            second = count(valkey.url, node, "second")
            wait_until("the second goes on", lambda: count(valkey.url, node, "second") > second + 10)
        assert count(valkey.url, node, "first") == written


def claims(node: str, url: str) -> bool:
    """Whether another could claim the node; gives it up again."""
    try:
        with exclusive(node, NodeSettings(redis_url=url, lease_s=LEASE_S)):
            return True
    except NodeFencedError:
        return False


def test_a_process_stopped_past_its_lease_writes_nothing_though_nobody_has_taken_over(
    valkey: RedisServer, node: str
) -> None:
    with publishing(node, "first", valkey.url) as first:
        wait_until("it publishes", lambda: count(valkey.url, node, "first") > 10)
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(LEASE_S * 1.5)
        written = count(valkey.url, node, "first")
        os.kill(first.pid, signal.SIGCONT)
        assert "stood still for longer than its lease" in line(first)
        assert first.wait(DEADLINE_S) == 0
        assert count(valkey.url, node, "first") == written


@pytest.mark.parametrize("taken_over", [True, False])
def test_an_append_that_arrives_after_the_end_of_its_lease_is_refused(
    valkey: RedisServer, node: str, settings: NodeSettings, taken_over: bool
) -> None:
    """As that of a process stopped in the midst of sending: what it checked before is no longer true."""
    with Proxy(valkey.port) as proxy, exclusive(node, replace(settings, redis_url=proxy.url)) as first:
        first.update("first", {})
        first.flush(FLUSH_S)
        proxy.asked.clear()
        proxy.hold_requests()
        first.update("late", {})
        assert proxy.asked.wait(DEADLINE_S)
        if taken_over:
            wait_until("the lease is over", lambda: claims(node, valkey.url))
        else:
            time.sleep(LEASE_S * 1.5)
        with exclusive(node, settings) if taken_over else nullcontext():
            proxy.release()
            with pytest.raises(NodeFencedError, match="1 update is not sent"):
                first.flush(FLUSH_S)
        assert statuses(valkey.url, node) == ["first"]


def test_what_a_killed_holder_left_on_the_disk_is_sent_by_the_next_holder(
    valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    with publishing(node, "first", valkey.url, STREAMER_OUTBOX_DIR=str(tmp_path)) as first:
        wait_until("it publishes", lambda: count(valkey.url, node, "first") > 10)
        first.kill()
        first.wait(DEADLINE_S)
    wait_until("the lease is over", lambda: claims(node, valkey.url))
    with publishing(node, "second", valkey.url, STREAMER_OUTBOX_DIR=str(tmp_path)):
        wait_until("the second publishes", lambda: count(valkey.url, node, "second") > 10)
    log = updates(valkey.url, node)
    numbers = [update.state["n"] for update in log if update.status == "first"]
    assert numbers == list(range(len(numbers)))


def test_the_command_claims_the_node_and_is_refused_where_another_has_it(valkey: RedisServer, node: str) -> None:
    arguments = ("node", "--exclusive", "--lease-s", "5", node, "--job", "job-1", "--")
    with running(*arguments, "sleep", "60", redis_url=valkey.url) as first:
        wait_until("it runs", lambda: "job-running" in statuses(valkey.url, node))
        second = run(*arguments, "true", redis_url=valkey.url)
        assert second.returncode == 1
        assert "another process has it for itself" in second.stderr
        first.send_signal(signal.SIGTERM)
        assert first.wait(DEADLINE_S) == 128 + signal.SIGTERM
    third = run(*arguments, "true", redis_url=valkey.url)
    assert third.returncode == 0, third.stderr


def test_a_forked_child_of_the_holder_is_refused(valkey: RedisServer, node: str) -> None:
    script = """
import os, sys
from streamer import NodeFencedError, state_streaming

streamer = state_streaming(sys.argv[1], exclusive=True)
streamer.update("parent", {})
streamer.flush(5)
child = os.fork()
if not child:
    streamer.update("child", {})
    try:
        streamer.flush(2)
    except NodeFencedError:
        os._exit(7)
    os._exit(8)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    variables = environment(STREAMER_REDIS_URL=valkey.url)
    done = subprocess.run(
        [sys.executable, "-c", script, node], env=variables, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    assert statuses(valkey.url, node) == ["parent"]
