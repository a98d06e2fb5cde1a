"""The JavaScript client in Node: each update once and in order, whatever happens to gateways."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from streamer import NodeSettings
from streamer.state_streamer import StateStreamer
from tests.client.node_js import CLIENT, DEADLINE_S, HERE, Following, following, node_modules
from tests.faults.flow import Flow
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


def ended(program: Following) -> None:
    """Wait for the program's end, which comes by itself once the client is closed."""
    program.until("closed")
    assert program.process.wait(DEADLINE_S) == 0


def test_gateways_die_and_each_follow_gets_everything_once_and_in_order(valkey: RedisServer, node: str) -> None:
    streamer = StateStreamer(node, NodeSettings(redis_url=valkey.url))
    with ExitStack() as stack:
        stack.callback(streamer.close)
        gateways = [stack.enter_context(GatewayProcess(valkey.url)) for _ in range(3)]
        urls = [gateway.url for gateway in gateways]
        follows = [{"name": "all", "node": node}, {"name": "job", "node": node, "job": "job"}]
        program = stack.enter_context(following(urls, *({**each, "last": 10**6} for each in follows)))
        with Flow(streamer) as flow:
            for gateway in gateways[:2]:
                program.until("status", "open")
                seen = len(program.updates("all"))
                while len(program.updates("all")) < seen + 20:
                    program.until("update", "all")
                gateway.kill()
            program.until("status", "open")
        streamer.update("last", {"job": "job", "n": flow.sent})
        streamer.flush()
        for name in ("all", "job"):
            while not program.updates(name) or program.updates(name)[-1][1] != flow.sent:
                program.until("update")
            assert program.updates(name) == [(n, n) for n in range(flow.sent + 1)]


def test_a_follow_goes_on_in_another_process_where_the_last_one_stopped(
    gateway: GatewayProcess, publisher: Node
) -> None:
    publisher.count(10)
    with following([gateway.url], {"name": "a", "node": publisher.name, "last": 3}) as program:
        ended(program)
        *_, cursor = [line for line in program.said if line[0] == "update"][-1]
        assert program.updates("a") == [(n, n) for n in range(4)]
    with following([gateway.url], {"name": "a", "node": publisher.name, "after": cursor, "last": 9}) as program:
        ended(program)
        assert program.updates("a") == [(n, n) for n in range(4, 10)]


def test_a_slow_loop_gets_everything_while_another_follow_goes_on(gateway: GatewayProcess, publisher: Node) -> None:
    # More than a follow may hold, several times.
    publisher.count(200, job="large", padding="x" * 100_000)
    large = {"name": "large", "node": publisher.name, "job": "large", "last": 199}
    with following([gateway.url], large, slow_ms=2) as program:
        ended(program)
        assert program.updates("large") == [(n, n) for n in range(200)]


def test_history_is_as_long_as_asked_for(gateway: GatewayProcess, publisher: Node) -> None:
    publisher.count(10)
    with following([gateway.url], {"name": "a", "node": publisher.name, "history": 2, "last": 9}) as program:
        ended(program)
        assert program.updates("a") == [(8, 8), (9, 9)]


def test_a_reset_is_an_error_or_an_event(gateway: GatewayProcess, publisher: Node) -> None:
    publisher.count(3)
    plain = {"name": "plain", "node": publisher.name}
    asking = {"name": "asking", "node": publisher.name, "events": True}
    with following([gateway.url], plain) as one, following([gateway.url], asking) as other:
        one.until("update", "plain", 2)
        other.until("event", "asking")
        publisher.clear()
        publisher.count(1)
        assert one.until("error", "plain")[2:4] == ["ResetError", "reset"]
        ended(one)
        assert other.until("event", "asking")[2]["type"] == "reset"
        assert other.until("update", "asking")[2:4] == [0, 3]


def test_a_gap_is_an_error_or_an_event(gateway: GatewayProcess, valkey: RedisServer, node: str) -> None:
    with ExitStack() as stack, publishing(valkey, node, keep=5) as publisher:
        publisher.count(1)
        with following([gateway.url], {"name": "a", "node": node, "last": 0}) as program:
            cursor = program.until("update", "a")[4]
        publisher.count(20)
        # One that never had them, either.
        other = stack.enter_context(GatewayProcess(valkey.url)).url
        with following([other], {"name": "plain", "node": node, "after": cursor}) as program:
            assert program.until("error", "plain")[2:4] == ["GapError", "gap"]
            ended(program)
        asking = {"name": "asking", "node": node, "after": cursor, "events": True, "last": 20}
        with following([other], asking) as program:
            ended(program)
            gap = next(line[2] for line in program.said if line[0] == "event")
            first, _ = program.updates("asking")[0]
            assert (gap["type"], gap["from"], gap["to"]) == ("gap", 1, first - 1)
            assert program.updates("asking") == [(n, n) for n in range(first, 21)]


def test_what_will_never_be_served_is_an_error_with_the_gateway_s_reason(
    gateway: GatewayProcess, publisher: Node
) -> None:
    with following([gateway.url], {"name": "a", "node": "x" * 300}) as program:
        assert program.until("error", "a")[2:4] == ["StreamError", "invalid_name"]
        ended(program)
    with following([f"{gateway.url}/nowhere"], {"name": "a", "node": publisher.name}) as program:
        error = program.until("error", "a")
        assert (error[2:4], error[4].startswith("nothing is here")) == (["StreamError", 404], True)
        ended(program)


def test_a_gateway_that_is_not_there_yet_is_waited_for(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(1)
    port = free_port()
    with following([f"http://127.0.0.1:{port}"], {"name": "a", "node": publisher.name, "last": 0}) as program:
        program.until("status", "waiting")
        program.until("status", "waiting")
        with GatewayProcess(valkey.url, "--port", str(port)):
            ended(program)
    assert program.updates("a") == [(0, 0)]


def test_redis_goes_and_comes_back(own_valkey: RedisServer, node: str) -> None:
    with publishing(own_valkey, node) as publisher, GatewayProcess(own_valkey.url) as gateway:
        publisher.count(1)
        with following([gateway.url], {"name": "a", "node": node}) as program:
            program.until("update", "a", 0)
            own_valkey.kill()
            wait_until("the gateway knows", lambda: not gateway._ready())
            own_valkey.start()
            publisher.count(1)
            program.until("update", "a", 1)
            assert program.updates("a") == [(0, 0), (1, 1)]


def test_the_types_say_what_the_client_does() -> None:
    tsc = node_modules() / "typescript" / "bin" / "tsc"
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    done = subprocess.run(
        ["node", str(tsc), *options, str(HERE / "types.mts")], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_package_has_what_users_need() -> None:
    node_modules()
    done = subprocess.run(
        ["npm", "pack", "--dry-run", "--json"], cwd=CLIENT, capture_output=True, text=True, timeout=60, check=True
    )
    for file in ("client.js", "client.d.ts", "README.md", "package.json"):
        assert f'"path": "{file}"' in done.stdout
