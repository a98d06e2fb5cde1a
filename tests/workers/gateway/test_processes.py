"""`streamer gateway --processes N`: several processes on one port, and the one that keeps them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import ClientConnection, connect

from tests.commands import DEADLINE_S, NO_REDIS, command, environment, run
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, free_port, wait_until

if sys.platform != "linux":
    pytest.skip("whose child a process is, is read from /proc here", allow_module_level=True)

MANY = 3
NEVER_S = "1000000"
"""A drain that no test waits for."""

MOST_CLIENTS = 300


class Gateways(GatewayProcess):
    """A supervisor and its processes; a context manager that leaves none of them behind."""

    def __init__(self, redis_url: str, *options: str, log: Path | None = None, **variables: str) -> None:
        with ExitStack() as stack:
            stderr = stack.enter_context(log.open("w")) if log else None
            super().__init__(
                redis_url,
                "--processes",
                str(MANY),
                *options,
                env=environment(**variables),
                stderr=stderr,
                start_new_session=True,
            )
        self.ever: set[int] = set()

    def __enter__(self) -> Gateways:
        try:
            super().__enter__()
            wait_until("all serve", lambda: sum(self.metric("process_up").values()) == MANY)
        except BaseException:
            self.__exit__()
            raise
        self.children()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.children()
        self.kill()
        for child in self.ever:
            if is_running(child):
                os.kill(child, signal.SIGKILL)

    def children(self) -> list[int]:
        """The processes, by id."""
        found = [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]
        self.ever.update(found)
        return found

    def metric(self, name: str) -> dict[str, float]:
        """A metric's value by process."""
        for family in text_string_to_metric_families(self.ask("/metrics")[1]):
            if family.name == f"streamer_{name}":
                return {sample.labels["process"]: sample.value for sample in family.samples}
        pytest.fail(f"no metric streamer_{name}")

    def ask(self, path: str) -> tuple[int, str]:
        """The status and the body that the internal port answers with."""
        try:
            with urlopen(f"http://127.0.0.1:{self.internal_port}{path}", timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


def is_running(pid: int) -> bool:
    """Whether a process has not ended. Nobody may be there to fetch the status of one whose parent has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_ended(gateways: Gateways) -> bool:
    return not any(map(is_running, gateways.ever))


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


def is_closed(client: ClientConnection) -> bool:
    return client.close_code is not None


def wait_until_joined(gateways: Gateways, many: int) -> None:
    wait_until("all have joined", lambda: sum(gateways.metric("live").values()) == many)


def join_until_all_have_some(stack: ExitStack, gateways: Gateways, node: str) -> list[ClientConnection]:
    """Clients that watch a node, so many that each process has some."""
    clients: list[ClientConnection] = []
    while not (clients and all(gateways.metric("live").values())):
        assert len(clients) < MOST_CLIENTS, gateways.metric("live")
        clients += [stack.enter_context(connect(f"{gateways.url}/nodes/{node}")) for _ in range(MANY)]
        wait_until_joined(gateways, len(clients))
    return clients


def publish(valkey: RedisServer, node: str, status: str) -> None:
    assert run("publish", node, status, redis_url=valkey.url).returncode == 0


def received(client: ClientConnection) -> str:
    return str(json.loads(client.recv(timeout=DEADLINE_S))["status"])


def without_uvloop(directory: Path) -> str:
    """A PYTHONPATH on which there is no uvloop."""
    (directory / "uvloop.py").write_text("raise ImportError\n")
    return f"{directory}:{os.getcwd()}"


def test_all_serve_and_the_metrics_tell_them_apart(valkey: RedisServer, node: str) -> None:
    with Gateways(valkey.url) as gateways, ExitStack() as stack:
        clients = join_until_all_have_some(stack, gateways, node)
        publish(valkey, node, "one")
        assert {received(client) for client in clients} == {"one"}
        assert gateways.metric("appended") == {"1": 1, "2": 1, "3": 1}
        assert gateways.metric("process_restarts") == {"1": 0, "2": 0, "3": 0}
        assert gateways.ask("/healthz")[0] == gateways.ask("/readyz")[0] == 200
        assert gateways.ask("/elsewhere")[0] == 404


def test_one_that_is_killed_is_started_again_and_the_others_keep_their_clients(
    valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with Gateways(valkey.url, log=log) as gateways, ExitStack() as stack:
        clients = join_until_all_have_some(stack, gateways, node)
        before = gateways.metric("live")
        victim = gateways.children()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until("it is counted", lambda: sum(gateways.metric("process_restarts").values()) == 1)
        wait_until("it serves again", lambda: sum(gateways.metric("process_up").values()) == MANY)
        [number] = [number for number, times in gateways.metric("process_restarts").items() if times]
        wait_until("its clients know", lambda: sum(map(is_closed, clients)) == before[number])
        publish(valkey, node, "one")
        still = [client for client in clients if not is_closed(client)]
        assert {received(client) for client in still} == {"one"}
        assert victim not in gateways.children()
        assert len(gateways.children()) == MANY
        more = [stack.enter_context(connect(f"{gateways.url}/nodes/{node}")) for _ in range(MANY)]
        assert {received(client) for client in more} == {"one"}
    [line] = map(json.loads, log.read_text().splitlines())
    assert re.fullmatch(rf"gateway process {number} ended with SIGKILL; it is started again in .* s", line["event"])
    assert line["process"] == "supervisor"


def test_one_that_is_told_to_end_is_started_again(valkey: RedisServer, tmp_path: Path) -> None:
    with Gateways(valkey.url, log=tmp_path / "log") as gateways:
        os.kill(gateways.children()[0], signal.SIGTERM)
        wait_until("it is started again", lambda: sum(gateways.metric("process_restarts").values()) == 1)
        wait_until("it serves", lambda: sum(gateways.metric("process_up").values()) == MANY)
    assert "ended with exit status 0; it is started again" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("uvloop", [True, False])
def test_sigterm_drains_them_all(valkey: RedisServer, node: str, tmp_path: Path, uvloop: bool) -> None:
    variables = {} if uvloop else {"PYTHONPATH": without_uvloop(tmp_path)}
    log = tmp_path / "log"
    with Gateways(valkey.url, "--drain-s", "0.2", log=log, **variables) as gateways, ExitStack() as stack:
        clients = join_until_all_have_some(stack, gateways, node)
        gateways.process.terminate()
        wait_until("all are closed", lambda: all(map(is_closed, clients)))
        assert {client.close_code for client in clients} == {1012}
        assert gateways.process.wait(DEADLINE_S) == 0
        assert all_ended(gateways)
        assert refuses(gateways.port)
    assert log.read_text() == ""


def test_while_they_drain_they_are_not_ready_and_a_second_signal_ends_them_at_once(
    valkey: RedisServer, node: str
) -> None:
    with Gateways(valkey.url, "--drain-s", NEVER_S) as gateways, ExitStack() as stack:
        clients = join_until_all_have_some(stack, gateways, node)
        # Enough that each has somebody left when the first is told.
        more = [stack.enter_context(connect(f"{gateways.url}/nodes/{node}")) for _ in range(10 * MANY)]
        gateways.process.terminate()
        wait_until("they accept no more", lambda: refuses(gateways.port))
        assert gateways.ask("/readyz") == (503, '{"error":"the gateway is stopping"}')
        assert gateways.ask("/healthz")[0] == 200
        gateways.process.terminate()
        assert gateways.process.wait(DEADLINE_S) == 0
        assert all_ended(gateways)
        wait_until("all are closed", lambda: all(map(is_closed, clients + more)))
        assert {client.close_code for client in clients + more} == {1012}


def test_with_notice_they_are_not_ready_and_all_serve_on_until_a_second_signal(valkey: RedisServer, node: str) -> None:
    with Gateways(valkey.url, "--notice-s", NEVER_S, "--drain-s", "0") as gateways, ExitStack() as stack:
        gateways.process.terminate()
        wait_until("they are not ready", lambda: gateways.ask("/readyz")[0] == 503)
        clients = join_until_all_have_some(stack, gateways, node)
        publish(valkey, node, "one")
        assert {received(client) for client in clients} == {"one"}
        gateways.process.terminate()
        assert gateways.process.wait(DEADLINE_S) == 0
        assert all_ended(gateways)
        wait_until("all are closed", lambda: all(map(is_closed, clients)))
        assert {client.close_code for client in clients} == {1012}


def test_a_third_signal_kills_one_that_hangs(valkey: RedisServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Gateways(valkey.url, "--drain-s", NEVER_S, log=log) as gateways:
        os.kill(gateways.children()[0], signal.SIGSTOP)
        gateways.process.terminate()
        wait_until("they are to stop", lambda: "is stopping" in gateways.ask("/readyz")[1])
        # Two of the same kind might count as one.
        for number in (signal.SIGINT, signal.SIGTERM):
            gateways.process.send_signal(number)
        assert gateways.process.wait(DEADLINE_S) == 0
        assert all_ended(gateways)
    assert re.search("gateway process . ended with SIGKILL when it was to stop", log.read_text())


def test_who_sends_sigterm_to_all_processes_does_not_cut_the_drain_short(valkey: RedisServer, node: str) -> None:
    with Gateways(valkey.url, "--drain-s", NEVER_S) as gateways, ExitStack() as stack:
        clients = join_until_all_have_some(stack, gateways, node)
        clients += [stack.enter_context(connect(f"{gateways.url}/nodes/{node}")) for _ in range(30 * MANY)]
        for pid in [*gateways.children(), gateways.process.pid]:
            os.kill(pid, signal.SIGTERM)
        wait_until("they accept no more", lambda: refuses(gateways.port))
        wait_until("the first of each are told", lambda: sum(map(is_closed, clients)) == MANY)
        publish(valkey, node, "one")
        still = [client for client in clients if not is_closed(client)]
        assert {received(client) for client in still} == {"one"}


def test_ctrl_c_at_a_terminal_ends_them_all_at_once_and_quietly(valkey: RedisServer, node: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Gateways(valkey.url, "--drain-s", NEVER_S, log=log) as gateways, ExitStack() as stack:
        clients = join_until_all_have_some(stack, gateways, node)
        os.killpg(gateways.process.pid, signal.SIGINT)
        assert gateways.process.wait(DEADLINE_S) == 0
        assert all_ended(gateways)
        wait_until("all are closed", lambda: all(map(is_closed, clients)))
        assert {client.close_code for client in clients} == {1012}
    assert log.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_they_start_ends_them_quietly(number: signal.Signals, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as stderr:
        ports = ["--port", "0", "--processes", str(MANY)]
        process = subprocess.Popen(command("gateway", *ports), env=environment(), stderr=stderr)
    with process:
        try:
            wait_until("it starts them", lambda: "starting 3 processes" in log.read_text())
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events[-1] == "stopped"
    assert not any("ended with" in event for event in events)


def test_without_their_supervisor_they_drain_and_end(valkey: RedisServer, node: str) -> None:
    with Gateways(valkey.url, "--drain-s", "0.2") as gateways, ExitStack() as stack:
        clients = join_until_all_have_some(stack, gateways, node)
        gateways.kill()
        wait_until("all are closed", lambda: all(map(is_closed, clients)))
        assert {client.close_code for client in clients} == {1012}
        wait_until("all have ended", lambda: all_ended(gateways))
        assert refuses(gateways.port)


def test_one_that_does_not_answer_shows(valkey: RedisServer) -> None:
    with Gateways(valkey.url) as gateways:
        stuck = gateways.children()[-1]
        os.kill(stuck, signal.SIGSTOP)
        # At once, since each waits for it.
        with ThreadPoolExecutor() as pool:
            health, readiness = pool.map(gateways.ask, ["/healthz", "/readyz"])
            up = pool.submit(gateways.metric, "process_up").result()
        assert health[0] == 503
        assert re.search("process . does not answer", health[1])
        assert readiness == health
        assert sum(up.values()) == MANY - 1
        os.kill(stuck, signal.SIGCONT)
        wait_until("it answers again", lambda: gateways.ask("/healthz")[0] == gateways.ask("/readyz")[0] == 200)


def test_they_are_not_ready_without_redis() -> None:
    internal = free_port()
    arguments = ["--port", "0", "--internal-port", str(internal), "--processes", "2"]
    process = subprocess.Popen(command("gateway", *arguments), env=environment(STREAMER_REDIS_URL=NO_REDIS))
    with process:
        try:
            wait_until("they say why", lambda: b"does not hear" in _answer(internal, "/readyz"))
            assert _answer(internal, "/healthz") == b'{"status":"ok"}'
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()


def _answer(port: int, path: str) -> bytes:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_S) as answer:
            return bytes(answer.read())
    except HTTPError as error:
        with error:
            return error.read()
    except OSError:
        return b""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize("name", ["--port", "--internal-port"])
def test_a_port_of_another_program_is_named(taken: int, name: str) -> None:
    done = run("gateway", "--processes", "2", "--port", "0", name, str(taken))
    assert done.returncode == 1
    assert done.stderr.endswith(f"Error: port {taken} of 127.0.0.1 is in use; choose another with {name}\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_others_share_is_in_use(valkey: RedisServer, processes: str) -> None:
    with Gateways(valkey.url) as gateways:
        done = run("gateway", "--processes", processes, "--port", str(gateways.port))
        assert done.returncode == 1
        assert f"port {gateways.port} of 127.0.0.1 is in use; choose another with --port\n" in done.stderr


def test_port_0_is_one_port_for_all_and_no_password_is_shown(tmp_path: Path) -> None:
    log, internal = tmp_path / "log", free_port()
    arguments = ["--port", "0", "--internal-port", str(internal), "--processes", "2"]
    variables = environment(STREAMER_REDIS_URL="redis://:secret@127.0.0.1:1/0")
    with log.open("w") as stderr:
        process = subprocess.Popen(command("gateway", *arguments), env=variables, stderr=stderr)
    with process:
        try:
            wait_until("both serve", lambda: len(_serving(log)) == 2)
            [port] = set(_serving(log).values())
            assert not refuses(port)
            for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                assert b"secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
    assert "secret" not in log.read_text()


def _serving(log: Path) -> dict[str, int]:
    """The port that each process says it serves."""
    found = {}
    for line in log.read_text().rpartition("\n")[0].splitlines():
        entry = json.loads(line)
        if serving := re.match(r"serving http://127\.0\.0\.1:(\d+)/", entry["event"]):
            found[entry["process"]] = int(serving[1])
    return found


def test_a_first_start_that_fails_is_final(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise SystemExit(7)\n")
    variables = environment(STREAMER_REDIS_URL=NO_REDIS, PYTHONPATH=f"{tmp_path}:{os.getcwd()}")
    done = subprocess.run(
        command("gateway", "--port", "0", "--processes", "2"),
        env=variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 1
    assert re.search(r"^Error: gateway process [12] ended with exit status 7$", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--processes", "0"], "0 is not in the range x>=1"),
        (["--processes", "2", "--port", "80", "--internal-port", "80"], "must be another than the port"),
        (["--processes", "2", "--redis-url", "nonsense"], "no URL of a Redis"),
    ],
)
def test_wrong_settings_get_a_sentence(options: list[str], says: str) -> None:
    done = run("gateway", *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
