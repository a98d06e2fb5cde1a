"""`streamer bench` as users run it: real processes, and faults that it must find."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.commands import DEADLINE_S, command, environment
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, free_port, wait_until
from tests.workers.bench.tampering import Tamper, altering, closing, doubling, losing, swapping, tampering_gateway
from tests.workers.processes import children, words_of
from tests.workers.shells import run_in_shell, running_at_terminal

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("--clients", "20", "--client-processes", "2")
BENCHES = {
    "fan-out": (*SMALL, "--updates", "200", "--rate", "0"),
    "join": (*SMALL, "--history", "200"),
    "publish": ("--updates", "2000"),
    "soak": (*SMALL, "--duration-s", "2", "--rate", "50"),
}


@pytest.fixture(scope="module")
def gateway(valkey: RedisServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(valkey.url) as gateway:
        yield gateway


def _bench(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A bench with nothing of the environment's own, so that it starts what it needs."""
    return subprocess.run(
        command("bench", *arguments),
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
    )


def _figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    result = json.loads(line)
    assert result["verified"] is True
    assert result["faults"] == []
    return dict(result["figures"])


def test_with_servers_of_its_own_it_verifies_and_shows_a_table() -> None:
    done = _bench("fan-out", *BENCHES["fan-out"])
    assert done.returncode == 0, done.stderr
    assert "streamer bench fan-out" in done.stdout
    assert (
        "every update once, in order, unaltered │       yes" in " ".join(done.stdout.split("\n"))
        or "yes" in done.stdout
    )
    assert "of its own" in done.stderr
    assert "Traceback" not in done.stderr


def test_fan_out_tells_what_was_delivered_and_what_it_cost() -> None:
    figures = _figures(_bench("fan-out", *BENCHES["fan-out"], "--json"))
    assert figures["delivered"] == 20 * 200
    for name in ("delivered_per_s", "latency_p50_ms", "latency_p99_ms", "latency_max_ms", "acknowledged_per_s"):
        assert figures[name] > 0
    assert figures["latency_p50_ms"] <= figures["latency_p99_ms"] <= figures["latency_max_ms"]
    for name in ("gateway_cpu_us_per_update", "gateway_kib_per_connection", "client_cpu_percent"):
        assert figures[name] is not None


def test_join_and_publish_tell_theirs() -> None:
    joined = _figures(_bench("join", *BENCHES["join"], "--json"))
    assert joined["delivered"] == 20 * 200
    assert 0 < joined["joining_p50_ms"] <= joined["joining_max_ms"]
    published = _figures(_bench("publish", "--updates", "2000", "--json"))
    assert 0 < published["update_p50_us"] <= published["update_p99_us"]
    assert published["acknowledged_per_s"] > 0


def test_soak_has_clients_come_and_go_by_its_seed() -> None:
    figures = _figures(_bench("soak", *BENCHES["soak"], "--json"))
    assert figures["delivered"] > 0
    assert figures["resumed"] > 0
    assert figures["lost"] == 0


def test_what_it_is_told_to_use_it_uses_and_leaves_no_trace(valkey: RedisServer, gateway: GatewayProcess) -> None:
    with valkey.client() as client:
        for name, options in BENCHES.items():
            used = [*options, "--redis-url", valkey.url, *(["--gateway-url", gateway.url] if name != "publish" else [])]
            done = _bench(name, *used, "--json", "--prefix", "streamer:")
            figures = _figures(done)
            if name != "publish":
                assert gateway.url in done.stderr
                assert figures["gateway_cpu_us_per_update"] is None
                assert "not started by this command" in str(json.loads(done.stdout)["notes"])
            assert f"the Redis at {valkey.url}" in done.stderr
            # A writer's number expires by itself.
            assert [key for key in client.scan_iter(match="*bench-*") if b":writer:" not in key] == []
            assert [node for node in client.hkeys("streamer:fleet") if b"bench-" in node] == []
            assert [
                key for key in client.scan_iter("streamer:job:*") if b"bench-" in b"".join(client.zrange(key, 0, -1))
            ] == []


def test_an_own_gateway_may_have_a_running_redis_and_options(valkey: RedisServer) -> None:
    done = _bench("join", *BENCHES["join"], "--redis-url", valkey.url, "--gateway-options", "--keep-s 0", "--json")
    assert _figures(done)["gateway_cpu_us_per_update"] is not None
    done = _bench("join", *BENCHES["join"], "--gateway-options=--nonsense")
    assert done.returncode == 1
    assert "the gateway has ended" in done.stderr
    assert "--nonsense" in done.stderr


def test_a_package_of_the_same_name_where_it_is_run_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise SystemExit('somebody else's')")
    arguments = ["bench", "fan-out", *BENCHES["fan-out"], "--gateway-options=--processes 2", "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "workers", *arguments],
        env=environment(PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
    )
    _figures(done)


FAULTS: list[tuple[str, Callable[[], Tamper], str]] = [
    ("fan-out", losing(17), "never got update 17"),
    ("fan-out", doubling(17), "got twice update 17"),
    ("fan-out", doubling(199), "got twice update 199"),
    ("fan-out", swapping(17), "got out of order update 17 behind 18"),
    ("fan-out", altering(17, '"n":17', '"n":18'), "got altered update 17: its state's n is not what was published"),
    (
        "fan-out",
        closing(17),
        "lost its connection (closed with code 4003: too slow), after 17 of 200 updates",
    ),
    ("join", losing(17), "never got update 17"),
    ("join", altering(0, '"previous":-1', '"previous":0'), "got altered update 0: its previous is 0, not -1"),
]


@pytest.mark.parametrize(("name", "tamper", "says"), FAULTS, ids=[f"{name}: {says}" for name, _, says in FAULTS])
async def test_a_fault_at_one_client_fails_the_run_and_is_named(
    valkey: RedisServer, gateway: GatewayProcess, name: str, tamper: Callable[[], Tamper], says: str
) -> None:
    # Its first client, so that all others are held against what that one got.
    async with tampering_gateway(gateway.url, tamper) as url:
        arguments = [*BENCHES[name], "--redis-url", valkey.url, "--gateway-url", url, "--json"]
        done = await asyncio.to_thread(_bench, name, *arguments)
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    [fault] = result["faults"]
    assert fault.startswith("client ")
    assert fault.endswith(says)
    assert not result["verified"]
    assert "Error: not every update arrived once, in order and unaltered:" in done.stderr
    assert fault in done.stderr


async def test_a_last_update_that_never_comes_is_waited_for_and_named(
    valkey: RedisServer, gateway: GatewayProcess
) -> None:
    async with tampering_gateway(gateway.url, losing(199)) as url:
        arguments = ["--redis-url", valkey.url, "--gateway-url", url, "--timeout-s", "5"]
        done = await asyncio.to_thread(_bench, "fan-out", *BENCHES["fan-out"], *arguments)
    assert done.returncode == 1
    assert "never got update 199" in done.stderr
    assert "NO" in done.stdout


async def test_a_fault_is_found_where_clients_come_and_go(valkey: RedisServer, gateway: GatewayProcess) -> None:
    async with tampering_gateway(gateway.url, losing(50), only=None) as url:
        arguments = ["--redis-url", valkey.url, "--gateway-url", url, "--json"]
        done = await asyncio.to_thread(_bench, "soak", *BENCHES["soak"], *arguments)
    assert done.returncode == 1
    # Of every three clients one watches the node, and one the job of the even updates.
    faulty = {int(fault.split()[1]) for fault in json.loads(done.stdout)["faults"]}
    assert faulty == {number for number in range(20) if number % 3 != 2}
    assert "never got update 50\n" in done.stderr


def test_a_soak_lives_through_a_gateway_that_is_killed_and_started_again(valkey: RedisServer) -> None:
    with GatewayProcess(valkey.url) as first:
        arguments = [*SMALL, "--duration-s", "4", "--rate", "50", "--redis-url", valkey.url, "--gateway-url", first.url]
        soak = subprocess.Popen(
            command("bench", "soak", *arguments, "--json"), env=environment(), stdout=subprocess.PIPE, text=True
        )
        with soak:
            try:
                wait_until("clients are connected", lambda: _live_clients(first.internal_port) > 5)
                first.kill()
                port = ["--port", str(first.port), "--log-level", "warning"]
                again = subprocess.Popen(command("gateway", *port, "--redis-url", valkey.url), env=environment())
                try:
                    out, _ = soak.communicate(timeout=DEADLINE_S)
                finally:
                    again.kill()
                    again.wait()
            finally:
                soak.terminate()
    result = json.loads(out)
    assert result["faults"] == []
    assert result["figures"]["lost"] > 0


def _live_clients(internal_port: int) -> float:
    with urlopen(f"http://127.0.0.1:{internal_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return max((float(line.split()[-1]) for line in lines if line.startswith("streamer_live ")), default=0.0)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_no_file_and_no_key(
    own_valkey: RedisServer, number: signal.Signals, running: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        options = [*SMALL, "--updates", "100000", "--rate", "100"]
        used = ["--redis-url", own_valkey.url] if running else []
        bench = subprocess.Popen(
            command("bench", "fan-out", *options, *used),
            env=environment(TMPDIR=name),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with bench:
            try:
                started = 4 if running else 5  # a Redis, a gateway, a publisher, two processes of clients
                wait_until("all has started", lambda: len(children(bench.pid)) == started or bench.poll() is not None)
                processes = children(bench.pid)
                if running:
                    with own_valkey.client() as client:
                        wait_until("updates are published", lambda: list(client.scan_iter(match="*bench-*")))
                bench.send_signal(number)
                out, err = bench.communicate(timeout=DEADLINE_S)
            finally:
                bench.terminate()
        assert len(processes) == started, err
        assert bench.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
        assert list(Path(name).iterdir()) == []
        with own_valkey.client() as client:
            assert [key for key in client.scan_iter() if b":writer:" not in key] == []


@pytest.mark.parametrize("part", ["workers gateway", "bench.load", "bench.publishing"])
def test_when_a_part_dies_it_says_which_and_ends(part: str) -> None:
    bench = subprocess.Popen(
        command("bench", "fan-out", *SMALL, "--updates", "100000", "--rate", "100"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    with bench:
        try:
            wait_until("all has started", lambda: len(children(bench.pid)) == 5 or bench.poll() is not None)
            processes = children(bench.pid)
            [victim, *_] = [pid for pid in processes if part in words_of(pid)]
            os.kill(victim, signal.SIGKILL)
            _, err = bench.communicate(timeout=DEADLINE_S)
        finally:
            bench.terminate()
    assert bench.returncode == 1
    assert "has ended, killed by SIGKILL" in err
    assert "Traceback" not in err
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fan-out", "--clients", "0"], "'--clients'"),
        (["fan-out", "--clients", "many"], "'--clients'"),
        (["fan-out", "--updates", "0"], "'--updates'"),
        (["fan-out", "--rate", "-1"], "'--rate'"),
        (["fan-out", "--rate", "nan"], "'--rate'"),
        (["fan-out", "--rate", "0.0001"], "less than an update in 1,000 seconds"),
        (["fan-out", "--size", "-1"], "'--size'"),
        (["fan-out", "--client-processes", "0"], "'--client-processes'"),
        (["fan-out", "--timeout-s", "0"], "'--timeout-s'"),
        (["fan-out", "--gateway-url", "nonsense"], "no URL of a gateway"),
        (["fan-out", "--gateway-options", "'"], "'--gateway-options'"),
        (["fan-out", "--gateway-url", "ws://h", "--gateway-options", "--keep-s 1"], "--gateway-options"),
        (["publish", "--redis-url", "http://h"], "no URL of a Redis"),
        (["join", "--history", "0"], "'--history'"),
        (["soak", "--duration-s", "0"], "'--duration-s'"),
        (["soak", "--rate", "0"], "'--rate'"),
        (["soak", "--duration-s", "1000000", "--rate", "1000"], "more than 1,000,000 updates"),
    ],
)
def test_wrong_arguments_get_a_sentence(arguments: list[str], says: str) -> None:
    done = _bench(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_options_are_variables() -> None:
    done = _bench("publish", "--json", STREAMER_UPDATES="300", STREAMER_SIZE="7")
    assert _figures(done)
    settings = json.loads(done.stdout)["settings"]
    assert (settings["updates"], settings["size"]) == (300, 7)


def test_a_gateway_that_is_not_there_is_said(valkey: RedisServer) -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    done = _bench("join", "--clients", "2", "--history", "5", "--gateway-url", url, "--redis-url", valkey.url)
    assert done.returncode == 1
    assert "client 0 of bench-" in done.stderr
    assert "could not connect: " in done.stderr


def test_a_redis_that_is_not_there_is_said(gateway: GatewayProcess) -> None:
    used = ["--redis-url", f"redis://127.0.0.1:{free_port()}/0", "--timeout-s", "1"]
    for arguments in (["publish"], ["join", "--gateway-url", gateway.url]):
        done = _bench(*arguments, *used)
        assert done.returncode == 1
        assert "does not answer as it should" in done.stderr
        assert "Traceback" not in done.stderr


def test_at_a_terminal_a_line_tells_how_far_it_is() -> None:
    with running_at_terminal("bench", "fan-out", *SMALL, "--updates", "50", "--rate", "100") as terminal:
        shown = b""
        with suppress(OSError):  # which is how a terminal says that nobody writes to it any more
            while chunk := os.read(terminal, 4096):
                shown += chunk
    for words in (b"connecting", b"delivering", b"/1000"):
        assert words in shown


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(("where", "why"), [(">/dev/full", b"No space left"), (">&-", b"is closed")])
def test_an_output_that_cannot_be_written_gets_a_sentence(
    valkey: RedisServer, where: str, why: bytes, options: list[str]
) -> None:
    arguments = ["bench", "publish", "--updates", "5", *options]
    done = run_in_shell(f'exec "$@" {where}', *arguments, redis_url=valkey.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(b"Error: the figures cannot be shown: ")
    assert why in done.stderr
