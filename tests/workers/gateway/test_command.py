"""`streamer gateway`: the process around the gateway."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.commands import DEADLINE_S, run, updates
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_clients_told_where_to_go_on(
    valkey: RedisServer, node: str, number: signal.Signals
) -> None:
    with GatewayProcess(valkey.url, "--drain-s", "0.2") as gateway:
        run("publish", node, "one", redis_url=valkey.url)
        with connect(f"{gateway.url}/nodes/{node}") as client:
            client.recv(timeout=DEADLINE_S)
            gateway.process.send_signal(number)
            wait_until("the client is closed", lambda: _closed(client))
            assert client.close_code == 1012
            assert client.close_reason is not None
            assert "go on with after=" in client.close_reason
        assert gateway.process.wait(DEADLINE_S) == 0
    assert len(updates(valkey.url, node)) == 1


def _closed(client: ClientConnection) -> bool:
    try:
        client.recv(timeout=0.01)
    except ConnectionClosed:
        return True
    except TimeoutError:
        pass
    return False


def test_with_notice_sigterm_fails_readiness_before_it_refuses_clients(valkey: RedisServer, node: str) -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(valkey.url, "--notice-s", "600", "--drain-s", "0"))
        before = stack.enter_context(connect(f"{gateway.url}/nodes/{node}"))
        gateway.process.terminate()
        wait_until("it is not ready", lambda: not gateway._ready())
        after = stack.enter_context(connect(f"{gateway.url}/nodes/{node}"))
        run("publish", node, "one", redis_url=valkey.url)
        for client in (before, after):
            assert json.loads(client.recv(timeout=DEADLINE_S))["status"] == "one"
        gateway.process.terminate()
        for client in (before, after):
            wait_until("the client is closed", lambda client=client: _closed(client))  # type: ignore[misc]
            assert client.close_code == 1012
        assert gateway.process.wait(DEADLINE_S) == 0


def test_ctrl_c_gives_no_notice(valkey: RedisServer) -> None:
    with GatewayProcess(valkey.url, "--notice-s", "600") as gateway:
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(DEADLINE_S) == 0


def test_a_second_signal_ends_the_drain(valkey: RedisServer, node: str) -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(valkey.url, "--drain-s", "600"))
        for _ in range(2):
            stack.enter_context(connect(f"{gateway.url}/nodes/{node}"))
        gateway.process.terminate()
        wait_until("it listens no more", lambda: not _listens(gateway.port))
        gateway.process.terminate()
        assert gateway.process.wait(DEADLINE_S) == 0


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("name", ["--port", "--internal-port"])
def test_the_port_that_is_in_use_is_named(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = run("gateway", "--port", "0", name, port)
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use; choose another with {name}\n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "80", "--internal-port", "80"], "must be another than the port"),
        (["--redis-url", "nonsense"], "no URL of a Redis"),
        (["--redis-url", "redis://user:secret@h:port/0"], "user:***@"),
        (["--drain-s", "-1"], "-1.0 is not in the range x>=0"),
        (["--prefix", "a{b}"], "cannot hold braces"),
        (["--port", "99999"], "is not in the range"),
    ],
)
def test_wrong_settings_get_a_sentence(options: list[str], says: str) -> None:
    done = run("gateway", *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
