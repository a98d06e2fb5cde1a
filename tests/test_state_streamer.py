"""The streamer of a node: one per process, it publishes what it observes, reads it back, and serves connections."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from streamer import (
    InvalidName,
    InvalidSetting,
    InvalidUpdate,
    LogUnavailable,
    NodeSettings,
    NotAcknowledged,
    StateStreamer,
    StreamerClosed,
    state,
    state_streaming,
)
from streamer.core.cursor import START
from streamer.core.names import Topic
from streamer.fanout.hub import Hub, HubSettings
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from tests.commands import DEADLINE_S, NO_REDIS, environment, run, updates
from tests.proxies import Proxy
from tests.servers import RedisServer, free_port
from tests.streamers import Make

THREADS = 16


def log_id(url: str, node: str) -> str:
    with NodeLog(url, Keys(), node) as log:
        return log.read(None, START).log_id


def test_threads_that_race_for_a_node_get_one_streamer_that_observes_once(valkey: RedisServer, node: str) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for round_ in range(10):
            barrier, name = Barrier(THREADS), f"{node}-{round_}"

            def first_call(_: int, barrier: Barrier = barrier, name: str = name) -> StateStreamer:
                barrier.wait(DEADLINE_S)
                return state_streaming(name, NodeSettings(redis_url=valkey.url))

            [streamer] = set(pool.map(first_call, range(THREADS)))
            state(name).add_state("once")
            streamer.close()
            assert [update.status for update in updates(valkey.url, name)] == ["once"]


def test_it_publishes_what_it_observes(streaming: Make, valkey: RedisServer, node: str) -> None:
    state(node).add_state("before it was there")
    streamer = streaming(valkey.url)
    state(node).shared["region"] = "north"
    change = state(node).add_state("running", {"job": "job-1", "step": 1})
    streamer.flush()
    [update] = streamer.states()
    assert (update.status, update.state, update.timestamp, update.index) == (*change, 0)


def test_what_it_refuses_is_logged_and_the_state_changes_all_the_same(
    streaming: Make, valkey: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    streamer = streaming(valkey.url)
    state(node).add_state("running", {"job": "all"})
    assert state(node).status == "running"
    assert "a job's name cannot be 'all'" in caplog.text
    assert streamer.pending == 0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("", {}), InvalidUpdate, "status must be text that is not empty"),
        ((5, {}), InvalidUpdate, "status must be text that is not empty, not 5"),
        (("s", None), InvalidUpdate, "state must be a mapping, not NoneType"),
        (("s", [1]), InvalidUpdate, "state must be a mapping, not list"),
        (("s", {"x": object()}), InvalidUpdate, "must hold what JSON can hold"),
        (("s", {"x": "\ud800"}), InvalidUpdate, "must hold what JSON can hold"),
        (("s", {"x": "x" * (1 << 20)}), InvalidUpdate, "1,048,576 bytes at the most"),
        (("s", {}, -1), InvalidUpdate, "timestamp must be a whole number of ms"),
        (("s", {}, 1.5), InvalidUpdate, "timestamp must be a whole number of ms"),
        (("s", {}, True), InvalidUpdate, "timestamp must be a whole number of ms"),
        (("s", {}, 2**53), InvalidUpdate, "timestamp must be a whole number of ms"),
        (("s", {"job": "all"}), InvalidName, "a job's name cannot be 'all'"),
        (("s", {"job": ""}), InvalidName, "a job's name cannot be empty"),
        (("s", {"job": 5}), InvalidName, "a job's name must be text, not int"),
        (("s", {"job": "a\tb"}), InvalidName, "cannot hold control characters"),
        (("s", {"job": "x" * 257}), InvalidName, "256 bytes at the most, this one has 257"),
    ],
)
def test_what_cannot_be_published_is_refused_with_a_sentence_and_takes_no_index(
    streaming: Make, valkey: RedisServer, arguments: tuple[Any, ...], error: type[ValueError], says: str
) -> None:
    streamer = streaming(valkey.url)
    with pytest.raises(error, match=says):
        streamer.update(*arguments)
    streamer.update("fine", {"job": None})
    streamer.flush()
    assert [(update.status, update.index) for update in streamer.states()] == [("fine", 0)]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257, 5, None, []])
def test_a_name_that_no_node_may_have_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName, match="a node's name"):
        state_streaming(name)


def test_settings_count_in_the_first_call_only(valkey: RedisServer, node: str, streaming: Make) -> None:
    streamer = streaming(valkey.url, outbox_records=7)
    assert state_streaming(node, NodeSettings(redis_url=NO_REDIS)) is state_streaming(node) is streamer
    assert (streamer.settings.redis_url, streamer.settings.outbox_records) == (valkey.url, 7)


def test_settings_come_from_the_environment_and_wrong_ones_leave_nothing_behind(
    valkey: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMER_REDIS_URL", valkey.url)
    monkeypatch.setenv("STREAMER_OUTBOX_RECORDS", "none")
    with pytest.raises(
        InvalidSetting, match=r"STREAMER_OUTBOX_RECORDS: .* must be a whole number from 1 .* not 'none'"
    ):
        state_streaming(node)
    monkeypatch.setenv("STREAMER_OUTBOX_RECORDS", "9")
    streamer = state_streaming(node)
    assert streamer.settings.outbox_records == 9
    state(node).add_state("once")
    streamer.close()
    assert len(updates(valkey.url, node)) == 1


DEADLOCK = """
import faulthandler, sys, threading
from streamer import state, state_streaming

faulthandler.dump_traceback_later(8, exit=True)
node_state = state(sys.argv[1])
add_observer, adding = node_state.add_observer, threading.Event()

def note_and_add(observer):
    adding.set()
    add_observer(observer)

class Curious:
    def update(self, status, fields, timestamp):
        thread.start()
        adding.wait(5)
        state_streaming(sys.argv[1])

thread = threading.Thread(target=state_streaming, args=(sys.argv[1],))
add_observer(Curious())
node_state.add_observer = note_and_add
node_state.add_state("running")
thread.join()
"""


def test_an_observer_may_ask_for_the_streamer_while_another_thread_makes_it(node: str) -> None:
    script = [sys.executable, "-c", DEADLOCK, node]
    done = subprocess.run(script, env=environment(), capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr


def test_states_and_index_tell_what_redis_has_from_all_processes(
    streaming: Make, valkey: RedisServer, node: str
) -> None:
    streamer = streaming(valkey.url)
    assert (streamer.index, streamer.states(), streamer.states("job-1")) == (0, [], [])
    streamer.update("a", {"job": "job-1"}, 5)
    streamer.update("b", {})
    streamer.flush()
    assert run("publish", node, "c", "--job", "job-1", redis_url=valkey.url).returncode == 0
    assert streamer.index == 3
    assert [(u.status, u.index, u.previous) for u in streamer.states("all")] == [
        ("a", 0, -1),
        ("b", 1, -1),
        ("c", 2, 0),
    ]
    assert [u.status for u in streamer.states("job-1")] == ["a", "c"]
    assert streamer.states("job-1")[0].timestamp == 5
    with pytest.raises(InvalidName, match="a job's name cannot be empty"):
        streamer.states("")


def test_states_and_index_say_that_redis_is_down(streaming: Make) -> None:
    streamer = streaming(NO_REDIS)
    with pytest.raises(LogUnavailable, match="refused"):
        streamer.states()
    with pytest.raises(LogUnavailable, match="refused"):
        _ = streamer.index


def test_clear_starts_the_log_anew_after_what_was_accepted_before(
    streaming: Make, valkey: RedisServer, node: str
) -> None:
    streamer = streaming(valkey.url)
    streamer.update("old", {"job": "job-1"})
    streamer.flush()
    old_id = log_id(valkey.url, node)
    streamer.update("old", {"job": "job-1"})
    streamer.clear()
    assert (streamer.index, streamer.states(), streamer.states("job-1")) == (0, [], [])
    assert log_id(valkey.url, node) not in ("", old_id)
    with valkey.client() as redis:
        assert not redis.hexists(Keys().fleet, node), "the fleet's list tells of what is gone"
    streamer.update("new", {"job": "job-1"})
    streamer.flush()
    assert [(update.status, update.index, update.previous) for update in streamer.states("job-1")] == [("new", 0, -1)]


def test_clear_that_cannot_flush_raises_and_keeps_what_waits(streaming: Make) -> None:
    streamer = streaming(NO_REDIS)
    streamer.update("one", {})
    with pytest.raises(NotAcknowledged):
        streamer.clear(timeout=0)
    assert streamer.pending == 1


def test_close_flushes_and_ends_and_the_next_call_makes_a_new_streamer(
    streaming: Make, valkey: RedisServer, node: str
) -> None:
    old = streaming(valkey.url)
    state(node).add_state("old")
    old.close()
    assert [update.status for update in updates(valkey.url, node)] == ["old"]
    with pytest.raises(StreamerClosed, match=f"the streamer of node '{node}' is closed"):
        old.update("late", {})
    old.close()
    new = streaming(valkey.url)
    assert new is not old
    state(node).add_state("new")
    old.close()
    assert state_streaming(node) is new
    new.flush()
    assert [(update.status, update.index) for update in new.states()] == [("old", 0), ("new", 1)]


def test_close_that_cannot_flush_raises_and_gives_up_what_waits(
    streaming: Make, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    streamer = streaming(NO_REDIS)
    streamer.update("lost", {})
    with pytest.raises(NotAcknowledged, match=f"1 update of node '{node}'"):
        streamer.close(timeout=0)
    state(node).add_state("unobserved")
    assert "observer" not in caplog.text
    assert streaming(NO_REDIS) is not streamer


# Connections that watch.


@asynccontextmanager
async def connections(count: int = 1) -> AsyncIterator[list[tuple[ServerConnection, ClientConnection]]]:
    """Both ends of so many WebSockets."""
    arrived: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handler(ws: ServerConnection) -> None:
        arrived.put_nowait(ws)
        await ws.wait_closed()

    async with serve(handler, "127.0.0.1", 0, compression=None) as server, AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        pairs = []
        for _ in range(count):
            client = await stack.enter_async_context(connect(url, compression=None))
            pairs.append((await arrived.get(), client))
        async with asyncio.timeout(DEADLINE_S):
            yield pairs


async def received(client: ClientConnection, count: int) -> list[str]:
    return [json.loads(await client.recv())["status"] for _ in range(count)]


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds; `connections` has the deadline."""
    while not condition():
        await asyncio.sleep(0.01)


def publish(streamer: StateStreamer, *statuses: str, job: str | None = None) -> None:
    for status in statuses:
        streamer.update(status, {} if job is None else {"job": job})
    streamer.flush()


async def test_a_connection_gets_what_is_kept_of_a_job_and_then_what_comes(
    streaming: Make, valkey: RedisServer
) -> None:
    streamer = streaming(valkey.url)
    publish(streamer, "a", "b", job="job-1")
    publish(streamer, "other", job="job-2")
    async with connections(2) as [(job_ws, job_client), (all_ws, all_client)]:
        await streamer.subscribe(job_ws, "job-1")
        await streamer.subscribe(all_ws)
        assert await received(job_client, 2) == ["a", "b"]
        publish(streamer, "none")
        publish(streamer, "c", job="job-1")
        assert await received(all_client, 5) == ["a", "b", "other", "none", "c"]
        message = json.loads(await job_client.recv())
        assert streamer.clients == {"job-1": [job_ws], "all": [all_ws]}
    update = streamer.states("job-1")[-1]
    assert message == {
        "status": "c",
        "state": {"job": "job-1"},
        "timestamp": update.timestamp,
        "index": 4,
        "previous": 1,
        "cursor": update.cursor(message["cursor"].partition(".")[0]).token,
    }


async def test_connections_that_join_in_the_middle_of_a_stream_get_everything_once(
    streaming: Make, valkey: RedisServer
) -> None:
    streamer, total = streaming(valkey.url), 2000
    async with connections(10) as pairs:
        await streamer.subscribe(pairs[0][0])

        def stream() -> None:
            for n in range(total):
                streamer.update(str(n), {})

        streaming_now = asyncio.create_task(asyncio.to_thread(stream))
        got = await received(pairs[0][1], 1)
        for ws, _ in pairs[1:]:
            await streamer.subscribe(ws)
            got += await received(pairs[0][1], 20)
        everything = [str(n) for n in range(total)]
        assert got + await received(pairs[0][1], total - len(got)) == everything
        for _, client in pairs[1:]:
            assert await received(client, total) == everything
        await streaming_now


@pytest.mark.parametrize("racing", [False, True])
async def test_subscribing_twice_to_a_job_changes_nothing(streaming: Make, valkey: RedisServer, racing: bool) -> None:
    streamer = streaming(valkey.url)
    publish(streamer, "a", job="job-1")
    async with connections() as [(ws, client)]:
        if racing:
            await asyncio.gather(*(streamer.subscribe(ws, "job-1") for _ in range(3)))
        else:
            await streamer.subscribe(ws, "job-1")
            await streamer.subscribe(ws, "job-1")
        publish(streamer, "b", job="job-1")
        assert await received(client, 2) == ["a", "b"]
        await streamer.unsubscribe(ws)
        await ws.send('{"status": "the end"}')
        assert await received(client, 1) == ["the end"]


async def test_one_connection_may_watch_two_jobs(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    publish(streamer, "a", job="job-1")
    async with connections() as [(ws, client)]:
        await streamer.subscribe(ws, "job-1")
        await streamer.subscribe(ws, "job-2")
        assert await received(client, 1) == ["a"]
        for status, job in (("b", "job-2"), ("unseen", "job-3"), ("c", "job-1")):
            publish(streamer, status, job=job)
        assert sorted(await received(client, 2)) == ["b", "c"]
        assert streamer.clients == {"job-1": [ws], "job-2": [ws]}


async def test_unsubscribe_ends_all_jobs_of_a_connection_and_no_other(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    async with connections(2) as [(ws, client), (other_ws, other_client)]:
        await streamer.unsubscribe(ws)
        for job in ("all", "job-1"):
            await streamer.subscribe(ws, job)
        await streamer.subscribe(other_ws)
        await streamer.unsubscribe(ws)
        assert streamer.clients == {"all": [other_ws]}
        publish(streamer, "unseen", job="job-1")
        assert await received(other_client, 1) == ["unseen"]
        await ws.send('{"status": "the end"}')
        assert await received(client, 1) == ["the end"]
        await streamer.subscribe(ws, "job-1")
        assert await received(client, 1) == ["unseen"]


async def test_unsubscribe_ends_what_is_about_to_join(streaming: Make, valkey: RedisServer) -> None:
    with Proxy(valkey.port) as proxy:
        streamer = streaming(proxy.url)
        async with connections() as [(ws, client)]:
            proxy.hold()
            joining = asyncio.create_task(streamer.subscribe(ws))
            await until(proxy.asked.is_set)
            await streamer.unsubscribe(ws)
            proxy.release()
            await asyncio.gather(joining, return_exceptions=True)
            assert streamer.clients == {}
            publish(streamer, "unseen")
            await ws.send('{"status": "the end"}')
            assert await received(client, 1) == ["the end"]


async def test_of_two_racing_subscribes_the_second_has_the_outcome_of_the_first(
    streaming: Make, valkey: RedisServer
) -> None:
    with Proxy(valkey.port) as proxy:
        streamer = streaming(proxy.url)
        async with connections() as [(ws, client)]:
            proxy.hold()
            first, second, third = (asyncio.create_task(streamer.subscribe(ws)) for _ in range(3))
            await until(proxy.asked.is_set)
            assert not second.done()
            first.cancel()
            await asyncio.wait([first])
            third.cancel()
            proxy.release()
            await second
            assert [task.cancelled() for task in (first, second, third)] == [True, False, True]
            assert streamer.clients == {"all": [ws]}
            publish(streamer, "once")
            assert await received(client, 1) == ["once"]


async def test_close_ends_what_it_serves_and_the_connections_stay(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    async with connections() as [(ws, client)]:
        await streamer.subscribe(ws)
        publish(streamer, "last")
        assert await received(client, 1) == ["last"]
        await asyncio.to_thread(streamer.close)
        await until(lambda: streamer.clients == {})
        with pytest.raises(StreamerClosed, match="is closed"):
            await streamer.subscribe(ws)
        assert streamer.clients == {}
        publish(streaming(valkey.url), "unseen")
        await ws.send('{"status": "the end"}')
        assert await received(client, 1) == ["the end"]


async def test_a_subscribe_that_is_cancelled_leaves_nothing(streaming: Make, valkey: RedisServer) -> None:
    with Proxy(valkey.port) as proxy:
        streamer = streaming(proxy.url)
        async with connections() as [(ws, client)]:
            proxy.hold()
            joining = asyncio.create_task(streamer.subscribe(ws))
            await until(proxy.asked.is_set)
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
            assert streamer.clients == {}
            proxy.release()
            publish(streamer, "once")
            await streamer.subscribe(ws)
            publish(streamer, "live")
            assert await received(client, 2) == ["once", "live"]


async def test_a_closed_connection_is_forgotten_and_its_job_too(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    async with connections(2) as [(ws, client), (other_ws, _)]:
        for job in ("job-1", "job-2"):
            await streamer.subscribe(ws, job)
        await streamer.subscribe(other_ws, "job-2")
        await client.close()
        await until(lambda: streamer.clients == {"job-2": [other_ws]})
        await streamer.subscribe(ws, "job-1")
        await until(lambda: streamer.clients == {"job-2": [other_ws]})


async def test_behind_a_close_of_the_owner_no_update_is_sent(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    async with connections(2) as [(ws, client), (other_ws, other)]:
        sent: list[bytes] = []
        client.protocol.receive_data = sent.append  # it does not answer the close, so that the connection stays
        await streamer.subscribe(ws)
        await streamer.subscribe(other_ws)
        closing = asyncio.create_task(ws.close(4321, "bye"))
        await until(lambda: ws.protocol.state is State.CLOSING)
        publish(streamer, "too late")
        assert await received(other, 1) == ["too late"]
        ws.transport.abort()
        await closing
        await client.wait_closed()
        assert b"".join(sent) == b"\x88\x05" + (4321).to_bytes(2) + b"bye"


async def test_redis_hears_that_a_job_is_watched_no_more(
    streaming: Make, valkey: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.state_streamer.Hub", partial(Hub, settings=HubSettings(keep_s=0.05)))
    streamer = streaming(valkey.url)
    channel = Keys().records(Topic(node, "job-1"))
    with valkey.client() as redis:
        async with connections() as [(ws, client)]:
            await streamer.subscribe(ws, "job-1")
            assert redis.pubsub_numsub(channel) == [(channel.encode(), 1)]
            await streamer.unsubscribe(ws)
            await until(lambda: redis.pubsub_numsub(channel) == [(channel.encode(), 0)])
            publish(streamer, "meanwhile", job="job-1")
            await streamer.subscribe(ws, "job-1")
            publish(streamer, "live", job="job-1")
            assert await received(client, 2) == ["meanwhile", "live"]


async def test_without_redis_each_subscribe_raises_and_works_once_redis_is_there(
    streaming: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.state_streamer.Hub", partial(Hub, settings=HubSettings(open_timeout_s=0.3)))
    server = RedisServer("valkey", free_port())
    streamer = streaming(server.url)
    async with connections() as [(ws, client)]:
        outcomes = await asyncio.gather(*(streamer.subscribe(ws) for _ in range(2)), return_exceptions=True)
        assert streamer.clients == {}
        with server:
            while True:
                try:
                    await streamer.subscribe(ws)
                    break
                except LogUnavailable:
                    assert streamer.clients == {}
            await asyncio.to_thread(publish, streamer, "at last")
            assert await received(client, 1) == ["at last"]
        assert [type(outcome) for outcome in outcomes] == [LogUnavailable, LogUnavailable]


async def test_a_process_that_publishes_nothing_serves_what_another_publishes(
    streaming: Make, valkey: RedisServer, node: str
) -> None:
    streamer = streaming(valkey.url)
    async with connections() as [(ws, client)]:
        await streamer.subscribe(ws, "job-1")
        done = await asyncio.to_thread(run, "publish", node, "hello", "--job", "job-1", redis_url=valkey.url)
        assert done.returncode == 0
        assert await received(client, 1) == ["hello"]


async def test_clear_tells_those_who_watch(streaming: Make, valkey: RedisServer) -> None:
    streamer = streaming(valkey.url)
    publish(streamer, "a")
    async with connections() as [(ws, client)]:
        await streamer.subscribe(ws)
        assert await received(client, 1) == ["a"]
        streamer.clear()
        with pytest.raises(ConnectionClosed):
            await client.recv()
        assert client.close_code == 4001
        await until(lambda: streamer.clients == {})


@pytest.mark.parametrize("job", ["", "a\nb", "x" * 257])
async def test_subscribing_to_what_is_no_job_is_refused(streaming: Make, job: str) -> None:
    streamer = streaming(NO_REDIS)
    async with connections() as [(ws, _)]:
        with pytest.raises(InvalidName, match="a job's name"):
            await streamer.subscribe(ws, job)
        assert streamer.clients == {}


LOOPS_THAT_END = """
import asyncio, gc, sys, time
from streamer import state_streaming
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
import redis

streamer = state_streaming(sys.argv[1])
counter = redis.Redis.from_url(streamer.settings.redis_url)

async def watch():
    joined = asyncio.Event()
    async def handler(ws):
        await streamer.subscribe(ws)
        joined.set()
        await ws.wait_closed()
    async with serve(handler, "127.0.0.1", 0) as server:
        async with connect("ws://127.0.0.1:%d" % server.sockets[0].getsockname()[1]):
            await joined.wait()
            assert list(streamer.clients) == ["all"]

def left():
    return len(counter.client_list()) - 1

for _ in range(4):
    asyncio.run(watch())
gc.collect()
assert streamer.clients == {}
deadline = time.monotonic() + 5
while left() and time.monotonic() < deadline:
    time.sleep(0.01)
print(left())
"""


def test_an_event_loop_that_ends_with_subscriptions_open_leaves_no_warning_and_no_connection(
    own_valkey: RedisServer, node: str
) -> None:
    script = [sys.executable, "-X", "dev", "-W", "error", "-c", LOOPS_THAT_END, node]
    variables = environment(STREAMER_REDIS_URL=own_valkey.url)
    done = subprocess.run(script, env=variables, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("0\n", "")
