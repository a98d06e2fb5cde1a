"""`connect_sync`: the client for scripts and notebooks."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import pytest

from streamer.client import (
    ClientClosed,
    GatewayRefused,
    GatewayUnreachable,
    Live,
    Missed,
    SyncFollow,
    Update,
    connect_sync,
)
from streamer.core.errors import InvalidName, InvalidSetting
from tests.client.following import Hasty
from tests.commands import DEADLINE_S, environment, first_line
from tests.gateway.clients import Node, publishing
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, free_port, wait_until


@pytest.fixture(scope="module")
def gateway(valkey: RedisServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(valkey.url) as gateway:
        yield gateway


@pytest.fixture
def publisher(valkey: RedisServer, node: str) -> Iterator[Node]:
    with publishing(valkey, node) as publisher:
        yield publisher


def indexes(follow: SyncFollow[Update], count: int) -> list[int]:
    return [update.index for update in islice(follow, count)]


def test_it_follows_without_async(gateway: GatewayProcess, publisher: Node) -> None:
    publisher.publish({"job": "j"}, {})
    with connect_sync(gateway.url) as client:
        everything, job = client.follow(publisher.name), client.follow(publisher.name, "j", events=True)
        assert indexes(everything, 2) == [0, 1]
        assert [type(event) for event in islice(job, 2)] == [Update, Live]
        publisher.count(2)
        assert indexes(everything, 2) == [2, 3]
        cursor = everything.cursor
    publisher.count(1)
    with connect_sync(gateway.url, format="json") as client:
        assert indexes(client.follow(publisher.name, after=cursor), 1) == [4]


def test_it_goes_on_after_its_gateway_was_killed(valkey: RedisServer, publisher: Node) -> None:
    with (
        GatewayProcess(valkey.url) as first,
        GatewayProcess(valkey.url) as second,
        connect_sync([first.url, second.url], rng=Hasty()) as client,
    ):
        follow = client.follow(publisher.name)
        publisher.count(2)
        assert indexes(follow, 2) == [0, 1]
        first.kill()
        publisher.count(2)
        assert indexes(follow, 2) == [2, 3]


def test_what_is_missing_is_raised_and_the_next_step_goes_on(
    valkey: RedisServer, gateway: GatewayProcess, node: str
) -> None:
    with publishing(valkey, node, keep=10) as publisher:
        publisher.count(25)
    with connect_sync(gateway.url) as client:
        follow = client.follow(node, after=3)
        with pytest.raises(Missed):
            next(follow)
        assert indexes(follow, 10) == list(range(15, 25))


async def test_it_works_where_an_event_loop_runs_already(gateway: GatewayProcess, publisher: Node) -> None:
    """As in a notebook."""
    assert asyncio.get_running_loop().is_running()
    publisher.count(2)
    with connect_sync(gateway.url) as client:
        assert indexes(client.follow(publisher.name), 2) == [0, 1]


def test_threads_may_share_a_client(gateway: GatewayProcess, publisher: Node) -> None:
    publisher.publish(*({"job": f"job-{n % 4}"} for n in range(400)))
    got: dict[str, list[int]] = {}
    with connect_sync(gateway.url) as client:

        def follow(job: str) -> None:
            got[job] = indexes(client.follow(publisher.name, job), 100)

        threads = [threading.Thread(target=follow, args=[f"job-{n}"]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert got == {f"job-{n}": list(range(n, 400, 4)) for n in range(4)}


def test_closing_from_another_thread_ends_the_loops(gateway: GatewayProcess, publisher: Node) -> None:
    publisher.count(2)
    with connect_sync(gateway.url) as client:
        closing = threading.Thread(target=client.close)
        seen = []
        for update in client.follow(publisher.name):
            seen.append(update.index)
            if len(seen) == 2:
                closing.start()
        assert seen == [0, 1]
        closing.join(DEADLINE_S)
        with pytest.raises(ClientClosed):
            next(client.follow(publisher.name))


def test_a_step_at_the_moment_of_closing_ends_and_does_not_hang(gateway: GatewayProcess, node: str) -> None:
    def take_all(follow: SyncFollow[Update]) -> None:
        with suppress(ClientClosed):  # it may not have begun before
            assert list(follow) == []

    for _ in range(30):
        with connect_sync(gateway.url) as client:
            follows = [client.follow(node, f"job-{n}") for n in range(8)]
            threads = [threading.Thread(target=take_all, args=[follow]) for follow in follows]
            threads.insert(4, threading.Thread(target=client.close))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE_S)
                assert not thread.is_alive()


def test_a_follow_can_be_closed_by_another_thread_and_by_leaving_the_loop(
    gateway: GatewayProcess, publisher: Node
) -> None:
    publisher.count(2)
    with connect_sync(gateway.url) as client:
        for _ in range(2):
            for update in client.follow(publisher.name):
                assert update.index == 0
                break
            gc.collect()
            wait_until("it is left", lambda: len(client._client._dialogue) == 0)
        with client.follow(publisher.name) as follow:
            assert indexes(follow, 2) == [0, 1]
            closing = threading.Timer(0.05, follow.close)
            closing.start()
            assert list(follow) == []
            closing.join()


def test_no_thread_is_left(gateway: GatewayProcess, node: str) -> None:
    with connect_sync(gateway.url) as client:
        client.follow(node)
        assert "streamer-client" in [thread.name for thread in threading.enumerate()]
    client.close()
    assert "streamer-client" not in [thread.name for thread in threading.enumerate()]


def test_closing_while_it_waits_for_the_first_connection_ends_it() -> None:
    tried = threading.Event()
    client = connect_sync(f"ws://127.0.0.1:{free_port()}", notify=lambda _: tried.set())

    def close() -> None:
        tried.wait(DEADLINE_S)
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(ClientClosed), client:
        pass
    closing.join(DEADLINE_S)
    with pytest.raises(ClientClosed), client:
        pass


def test_what_cannot_be_is_raised_where_it_is_asked_for(gateway: GatewayProcess) -> None:
    with pytest.raises(InvalidSetting):
        connect_sync("nonsense")
    with pytest.raises(GatewayRefused), connect_sync(f"{gateway.url}/nowhere"):
        pass
    with pytest.raises(GatewayUnreachable), connect_sync(f"ws://127.0.0.1:{free_port()}", timeout=0.2):
        pass
    with pytest.raises(ClientClosed):
        next(connect_sync(gateway.url).follow("n"))
    with connect_sync(gateway.url) as client, pytest.raises(InvalidName):
        client.follow("")
    assert "streamer-client" not in [thread.name for thread in threading.enumerate()]


INTERRUPTED = """
import sys
from streamer.client import connect_sync

with connect_sync(sys.argv[1]) as client:
    follow = client.follow(sys.argv[2])
    try:
        print(next(follow).index, flush=True)
        next(follow)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(next(follow).index, flush=True)
    next(follow)
"""


def test_ctrl_c_interrupts_a_step_and_takes_nothing_away(gateway: GatewayProcess, publisher: Node) -> None:
    publisher.count(1)
    command = [sys.executable, "-c", INTERRUPTED, gateway.url, publisher.name]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert first_line(process) == "0\n"
            process.send_signal(signal.SIGINT)
            assert first_line(process) == "interrupted\n"
            publisher.count(1)
            assert first_line(process) == "1\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == -signal.SIGINT
            assert process.stderr is not None
            assert process.stderr.read().splitlines()[-1] == "KeyboardInterrupt"
        finally:
            process.kill()


SLOW = """
import resource, sys
from streamer.client import connect_sync

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

with connect_sync(sys.argv[1]) as client:
    before = peak()
    follow = client.follow(sys.argv[2])
    numbers = [next(follow).state["n"]]
    print("waits", flush=True)
    sys.stdin.readline()
    print(peak() - before, flush=True)
    numbers += [next(follow).state["n"] for _ in range(9_999)]
    print(numbers == list(range(10_000)), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_the_memory_of_a_slow_consumer_is_bounded(valkey: RedisServer, publisher: Node) -> None:
    for _ in range(100):
        publisher.count(100, text="x" * 3000)
    with GatewayProcess(valkey.url, "--stall-s", "1") as gateway:
        command = [sys.executable, "-c", SLOW, gateway.url, publisher.name]
        with subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert first_line(process) == "waits\n"
                wait_until("the gateway gives up", lambda: gateway.metrics()["streamer_behind"] == 0)
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                assert int(first_line(process)) < 10_000, "KiB, of 30 MB that wait"
                assert first_line(process) == "True\n"
            finally:
                process.kill()


WAITING = """
import sys
from streamer.client import connect_sync

with connect_sync(sys.argv[1], notify=lambda sentence: print(sentence, flush=True)):
    pass
"""


def test_ctrl_c_ends_the_wait_for_the_first_connection() -> None:
    command = [sys.executable, "-c", WAITING, f"ws://127.0.0.1:{free_port()}"]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert "cannot be reached" in first_line(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE_S) == -signal.SIGINT
        finally:
            process.kill()
