"""How a gateway stops: not ready first, then nobody new, then everybody is told where to go on, and nothing stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from streamer.fanout.hub import HubSettings
from streamer.fanout.locating import Position
from streamer.fanout.session import Session
from streamer.gateway.connection import GatewayConnection
from streamer.gateway.server import Gateway
from tests.gateway.clients import (
    DEADLINE_S,
    PROMPT_S,
    End,
    Node,
    ask,
    connect,
    early,
    end,
    eventually,
    indexes,
    path,
    publishing,
    read_until,
    receive,
    serving,
)
from tests.servers import RedisServer

SLOW_DRAIN_S = SLOW_NOTICE_S = 600.0


@asynccontextmanager
async def stopping(gateway: Gateway, drain_s: float, notice_s: float = 0) -> AsyncIterator[asyncio.Task[None]]:
    """A gateway that has begun to stop; made quick, if need be, at the end of the block."""
    task = asyncio.create_task(gateway.stop(drain_s, notice_s))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def _join(stack: AsyncExitStack, gateway: Gateway, target: str, many: int) -> list[ClientConnection]:
    return [await stack.enter_async_context(connect(gateway, target)) for _ in range(many)]


def _is_closed(client: ClientConnection) -> bool:
    return client.close_code is not None


async def test_it_is_not_ready_and_accepts_nobody_while_its_clients_are_still_served(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.count(1)
    port, internal = gateway.port, gateway.settings.internal_port or 0
    async with AsyncExitStack() as stack:
        clients = await _join(stack, gateway, path(publisher.name), 3)
        for client in clients:
            await receive(client, 1)
        await stack.enter_async_context(stopping(gateway, SLOW_DRAIN_S))
        answer = await ask(internal, "/readyz")
        assert (answer.status, answer.error) == (503, "the gateway is stopping")
        assert (await ask(internal, "/healthz")).status == 200
        assert await _refused(port)
        await eventually("the first is told", lambda: any(map(_is_closed, clients)))
        publisher.count(1)
        still = [client for client in clients if not _is_closed(client)]
        assert len(still) == 2
        for client in still:
            assert await indexes(client, 1) == [1]


async def test_with_notice_it_is_not_ready_and_serves_whoever_comes_as_before(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.count(1)
    internal = gateway.settings.internal_port or 0
    async with (
        connect(gateway, path(publisher.name)) as before,
        stopping(gateway, 0, SLOW_NOTICE_S) as task,
        connect(gateway, path(publisher.name)) as after,
    ):
        answer = await ask(internal, "/readyz")
        assert (answer.status, answer.error) == (503, "the gateway is stopping")
        assert (await ask(gateway.port, "/api/nodes")).status == 200
        publisher.count(1)
        for client in (before, after):
            assert await indexes(client, 2) == [0, 1]
        assert not task.done()


async def test_who_came_after_the_notice_is_drained_like_everybody(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with AsyncExitStack() as stack:
        port = gateway.port
        clients = await _join(stack, gateway, path(publisher.name), 1)
        task = await stack.enter_async_context(stopping(gateway, SLOW_DRAIN_S, 0.5))
        clients += await _join(stack, gateway, path(publisher.name), 2)
        assert not any(map(_is_closed, clients))
        await eventually("the first is told", lambda: any(map(_is_closed, clients)))
        assert await _refused(port)
        assert sum(map(_is_closed, clients)) == 1
        task.cancel()
        for client in clients:
            assert (await end(client)).code == 1012


async def test_cancelling_the_notice_makes_it_quick_and_everybody_is_still_told(
    gateway: Gateway, publisher: Node
) -> None:
    publisher.count(1)
    port = gateway.port
    async with (
        connect(gateway, path(publisher.name)) as before,
        stopping(gateway, SLOW_DRAIN_S, SLOW_NOTICE_S) as task,
        connect(gateway, path(publisher.name)) as after,
    ):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, DEADLINE_S)
        await _assert_released(gateway, port)
        for client in (before, after):
            assert (await end(client)).code == 1012


async def _until_last(client: ClientConnection) -> list[int]:
    """The indexes of the messages up to the one that is marked as the last, without it."""
    got = []
    while not (message := (await receive(client, 1))[0])["state"].get("last"):
        got.append(message["index"])
    return got


@pytest.mark.parametrize("query", [{}, {"history": "none"}, {"history": 30}, {"after": 50}])
@pytest.mark.parametrize("job", [None, "a"])
async def test_everybody_goes_on_elsewhere_and_misses_and_repeats_nothing(
    gateway: Gateway, valkey: RedisServer, publisher: Node, job: str | None, query: dict[str, object]
) -> None:
    publisher.publish(*({"job": "ab"[n % 2]} for n in range(100)))
    async with (
        serving(valkey) as other,
        connect(gateway, path(publisher.name, job, **query)) as first,
        connect(other, path(publisher.name, job, **query)) as unbroken,
    ):
        ending = asyncio.create_task(end(first))
        publisher.count(10, job="a")
        await asyncio.wait_for(gateway.stop(0), DEADLINE_S)
        publisher.count(10, job="a")
        publisher.publish({"job": "a", "last": True})
        closed = await ending
        assert closed.code == 1012
        assert closed.reason.startswith("service restart; go on with after=")
        async with connect(other, path(publisher.name, job, after=closed.after)) as second:
            resumed = await _until_last(second)
        assert [message["index"] for message in closed.messages] + resumed == await _until_last(unbroken)


async def test_a_node_without_a_log_has_no_cursor_to_go_on_with(gateway: Gateway, node: str) -> None:
    async with connect(gateway, path(node)) as client:
        await asyncio.wait_for(gateway.stop(0), DEADLINE_S)
        assert await end(client) == End(1012, "service restart; come back", [])


async def test_clients_are_closed_one_after_another_over_the_drain_time(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with AsyncExitStack() as stack:
        clients = await _join(stack, gateway, path(publisher.name), 10)
        open_when_one_closed: list[int] = []

        async def watch(client: ClientConnection) -> None:
            assert (await end(client)).code == 1012
            open_when_one_closed.append(sum(not _is_closed(client) for client in clients))

        watching = [asyncio.create_task(watch(client)) for client in clients]
        task = await stack.enter_async_context(stopping(gateway, 1))
        await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done()
        assert open_when_one_closed[0] >= 5
        await asyncio.wait_for(asyncio.gather(*watching), DEADLINE_S)
        assert len(set(open_when_one_closed)) > 3, "they went in several steps"


async def test_a_drain_of_many_clients_takes_no_longer_than_it_may(gateway: Gateway, publisher: Node) -> None:
    """Sleeps that are each a little too long would add up."""
    publisher.count(1)
    async with AsyncExitStack() as stack:
        clients = await _join(stack, gateway, path(publisher.name), 200)
        dismissed = gateway._dismiss

        def dismiss_slowly(connection: GatewayConnection) -> None:
            time.sleep(0.005)
            dismissed(connection)

        gateway._dismiss = dismiss_slowly  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        await gateway._drain(2)
        assert asyncio.get_running_loop().time() - began < 2.5
        for client in clients:
            assert (await end(client)).code == 1012


async def test_who_is_joining_when_the_door_closes_is_drained_in_turn(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    joining, joined = asyncio.Event(), asyncio.Event()
    join = gateway.hub.join

    async def join_late(session: Session, position: Position | None = None) -> None:
        joining.set()
        await joined.wait()
        await join(session, position)

    async with AsyncExitStack() as stack:
        clients = await _join(stack, gateway, path(publisher.name), 20)
        for client in clients:
            await receive(client, 1)
        gateway.hub.join = join_late  # type: ignore[method-assign]
        late = await _join(stack, gateway, path(publisher.name), 20)
        await asyncio.wait_for(joining.wait(), DEADLINE_S)
        await eventually("all are about to join", lambda: sum(1 for each in gateway._connections if each.session) == 40)
        await stack.enter_async_context(stopping(gateway, SLOW_DRAIN_S))
        joined.set()
        await eventually("the first is told", lambda: any(map(_is_closed, clients + late)))
        for client in late:
            if not _is_closed(client):
                assert await indexes(client, 1) == [0]
        assert sum(map(_is_closed, clients + late)) == 1


async def test_all_who_got_in_before_it_closed_the_door_are_told(gateway: Gateway, publisher: Node) -> None:
    """Whoever is in the middle of the handshake is refused in words, or let in and told to go on elsewhere."""
    publisher.count(1)
    outcomes: list[str] = []

    async def watch() -> None:
        try:
            async with connect(gateway, path(publisher.name)) as client:
                outcomes.append(str((await end(client)).code))
        except InvalidHandshake as error:
            outcomes.append(str(error))
        except ConnectionError:
            outcomes.append("refused")

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(watch())
        await eventually("some are in", lambda: gateway.hub.statistics().live > 5)
        await gateway.stop(0.05)
    assert len(outcomes) == 100
    assert outcomes.count("1012") > 5
    assert set(outcomes) <= {
        "1012",
        "server rejected WebSocket connection: HTTP 503",
        "did not receive a valid HTTP response",  # was never accepted
        "refused",
    }


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n"])
async def test_a_connection_that_never_finishes_its_request_does_not_hold_it_up(
    gateway: Gateway, data: bytes, public: bool
) -> None:
    port = gateway.port if public else gateway.settings.internal_port or 0
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await ask(port, "/")  # by now the one before is in, too
        async with asyncio.timeout(PROMPT_S):
            await gateway.stop(0)
    finally:
        writer.close()


async def test_a_request_whose_body_goes_on_does_not_hold_it_up(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 200_000)
        await read_until(reader, b"405")
        async with asyncio.timeout(PROMPT_S):
            await gateway.stop(0)
    finally:
        writer.close()


async def test_a_handshake_that_waits_for_redis_does_not_hold_it_up(own_valkey: RedisServer, node: str) -> None:
    async with serving(own_valkey, hub=HubSettings(open_timeout_s=SLOW_DRAIN_S)) as gateway:
        own_valkey.kill()
        waiting = asyncio.create_task(_try_to_join(gateway, node))
        await eventually("the handshake waits", lambda: gateway.hub.statistics().feeds == 1)
        async with asyncio.timeout(PROMPT_S):
            await gateway.stop(0)
            await waiting


async def _try_to_join(gateway: Gateway, node: str) -> None:
    with suppress(OSError, InvalidHandshake, ConnectionClosed):
        async with connect(gateway, path(node)):
            pass


async def test_a_client_that_reads_nothing_does_not_hold_it_up(gateway: Gateway, publisher: Node) -> None:
    async with connect(gateway, path(publisher.name)) as client:
        client.transport.pause_reading()
        async with asyncio.timeout(DEADLINE_S):
            while not gateway.hub.statistics().behind:
                publisher.count(20, text="x" * 50_000)
                await asyncio.sleep(0.01)
        async with asyncio.timeout(PROMPT_S):
            await gateway.stop(0)
        client.transport.abort()


async def _assert_released(gateway: Gateway, port: int) -> None:
    assert await _refused(port)
    assert await _refused(gateway.settings.internal_port or 0)
    statistics = gateway.hub.statistics()
    assert (statistics.listening, statistics.feeds, statistics.live, statistics.behind) == (False, 0, 0, 0)


async def test_once_stopped_nothing_stays(own_valkey: RedisServer, node: str) -> None:
    with own_valkey.client() as redis, publishing(own_valkey, node) as publisher:
        publisher.count(1)
        clients = len(redis.client_list())
        tasks = asyncio.all_tasks()
        async with serving(own_valkey) as gateway:
            port = gateway.port
            async with connect(gateway, path(node)) as client:
                await receive(client, 1)
                await asyncio.wait_for(gateway.stop(0), DEADLINE_S)
            await _assert_released(gateway, port)
            await eventually("no connection to Redis is left", lambda: len(redis.client_list()) == clients)
            await eventually("no task is left", lambda: asyncio.all_tasks() <= tasks | {asyncio.current_task()})


async def test_stopping_twice_is_the_same_as_once(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    port = gateway.port
    async with connect(gateway, path(publisher.name)) as client:
        await asyncio.wait_for(asyncio.gather(gateway.stop(0.1), gateway.stop(0.1)), DEADLINE_S)
        assert (await end(client)).code == 1012
    await asyncio.wait_for(gateway.stop(), DEADLINE_S)
    await _assert_released(gateway, port)


async def test_a_second_stop_cuts_the_drain_short(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with AsyncExitStack() as stack:
        clients = await _join(stack, gateway, path(publisher.name), 3)
        await stack.enter_async_context(stopping(gateway, SLOW_DRAIN_S))
        await asyncio.wait_for(gateway.stop(0), DEADLINE_S)
        for client in clients:
            assert (await end(client)).code == 1012


async def test_cancelling_it_makes_it_quick_and_everybody_is_still_told(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    async with AsyncExitStack() as stack:
        clients = await _join(stack, gateway, path(publisher.name), 3)
        port = gateway.port
        async with stopping(gateway, SLOW_DRAIN_S) as task:
            await eventually("the first is told", lambda: any(map(_is_closed, clients)))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, DEADLINE_S)
        await _assert_released(gateway, port)
        for client in clients:
            assert (await end(client)).code == 1012


async def test_cancelled_while_it_waits_for_last_words_it_still_lets_go_of_everything(
    gateway: Gateway, publisher: Node
) -> None:
    port = gateway.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(early(path(publisher.name)))
        await read_until(reader, b"101")
        async with stopping(gateway, 0) as task:
            await read_until(reader, b"service restart")  # and it is not answered
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, DEADLINE_S)
        await _assert_released(gateway, port)
    finally:
        writer.close()


async def test_cancelled_at_any_step_it_lets_go_of_everything(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(1)
    tasks = asyncio.all_tasks()
    for steps in range(1, 20):
        async with serving(valkey) as gateway, connect(gateway, path(publisher.name)):
            port = gateway.port
            task = asyncio.create_task(gateway.stop(0))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(PROMPT_S):
                await asyncio.wait([task])
            hub = gateway.hub
            await eventually("Redis is let go of", lambda hub=hub: not hub.statistics().listening)
            await _assert_released(gateway, port)
            assert not gateway._connections
    await eventually("no task is left", lambda: asyncio.all_tasks() <= tasks | {asyncio.current_task()})


async def test_a_gateway_that_never_started_can_be_stopped(valkey: RedisServer) -> None:
    async with serving(valkey) as other:
        settings = other.settings
    await asyncio.wait_for(Gateway(settings).stop(), DEADLINE_S)


@pytest.mark.parametrize("which", ["port", "internal_port"])
async def test_a_port_in_use_fails_the_start_and_nothing_listens(valkey: RedisServer, which: str) -> None:
    async with serving(valkey) as other:
        taken = other.port
        gateway = Gateway(other.settings.__class__(valkey.url, **{"port": 0, "internal_port": 0, which: taken}))
        with pytest.raises(OSError, match="address already in use"):
            await gateway.start()
        assert not gateway.hub.statistics().listening
