"""The doctor at real servers: good ones, and with each bad setting that can be made."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from streamer import NodeSettings, StateStreamer
from tests.commands import run
from tests.proxies import Proxy
from tests.servers import REAL_KINDS, RedisServer, free_port, redis_command, wait_until
from tests.workers.doctor.good import Server, configured, found_at, user
from workers.doctor import trying
from workers.doctor.findings import Level, Promise

OK, NOTE, WARNING, PROBLEM = Level
DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def contents(server: RedisServer) -> dict[bytes, Any]:
    """Every key and its value."""
    with server.client() as client:
        return {key: client.dump(key) for key in client.keys("*")}


def test_with_good_settings_there_is_no_problem_and_nothing_is_left_behind(good_store: RedisServer, node: str) -> None:
    streamer = StateStreamer(node, NodeSettings(redis_url=good_store.url))
    streamer.update("running", {"job": "j"})
    streamer.close(timeout=10)
    before = contents(good_store)
    done = run("doctor", "--strict", redis_url=good_store.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(good_store) == before
    with good_store.client() as client:
        client.flushall()


def test_output_is_for_people_at_80_columns(good_store: RedisServer) -> None:
    with configured(good_store, "maxmemory-policy", "allkeys-lru"):
        done = run("doctor", redis_url=good_store.url)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in done.stdout
    assert lines[-1].startswith("1 problem, 0 warnings, 1 note, ")
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "At risk: The whole history" in text
    assert "To do: Set maxmemory-policy noeviction" in text
    assert text.index("problem") < text.index("note") < text.index(" ok ")


def test_output_is_for_scripts_as_json(good_store: RedisServer) -> None:
    with user(good_store, "~*", "&*", "+@all") as url, configured(good_store, "timeout", "10"):
        done = run("doctor", "--json", redis_url=url)
        strict = run("doctor", "--json", "--strict", redis_url=url)
    assert (done.returncode, strict.returncode) == (0, 1)
    answer = json.loads(done.stdout)
    assert answer["redis"] == f"redis://limited:***@127.0.0.1:{good_store.port}/0"
    assert answer["worst"] == "warning"
    [found] = [each for each in answer["findings"] if each["level"] == "warning"]
    assert found == {
        "level": "warning",
        "title": "idle connections",
        "found": found["found"],
        "known": True,
        "promise": Promise.RECONNECTED.value,
        "remedy": "Set timeout 0; tcp-keepalive finds those who are gone.",
    }


def deployed() -> dict[str, list[str]]:
    """The options of the servers that we deploy, but for where they keep their data and whom they let in."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["valkey"]["command"]
    manifest = yaml.safe_load((DEPLOY / "kustomize" / "base" / "valkey-configmap.yaml").read_text())
    lines = [line.split(maxsplit=1) for line in manifest["data"]["valkey.conf"].splitlines()]
    settings = [line for line in lines if line and line[0] not in ("#", "dir", "include", "protected-mode")]
    kustomize = [word for name, value in settings for word in (f"--{name}", value.replace('""', ""))]
    return {"compose": compose[1:], "kustomize": kustomize}


@pytest.mark.parametrize("how", ["compose", "kustomize"])
def test_the_servers_that_we_deploy_are_well(how: str) -> None:
    with Server("valkey", *deployed()[how]) as server:
        done = run("doctor", "--strict", redis_url=server.url)
    assert done.returncode == 0, done.stdout


def test_a_redis_that_is_not_there_is_a_sentence() -> None:
    done = run("doctor")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Redis at redis://127.0.0.1:1/0 does not answer")


@pytest.mark.parametrize("arguments", [["--redis-url", "http://x"], ["--prefix", ""], ["--prefix", "{"], ["--no"]])
def test_arguments_that_cannot_be_used_are_wrong_usage(arguments: list[str]) -> None:
    done = run("doctor", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "value", "title", "level", "promise"),
    [
        ("maxmemory-policy", "allkeys-lru", "eviction", PROBLEM, Promise.HISTORY),
        ("maxmemory-policy", "volatile-lru", "eviction", PROBLEM, Promise.HISTORY),
        ("maxmemory", "0", "memory", WARNING, Promise.RESTARTED),
        ("appendonly", "no", "persistence", PROBLEM, Promise.RESTARTED),
        ("appendfsync", "no", "fsync", WARNING, Promise.RESTARTED),
        ("no-appendfsync-on-rewrite", "yes", "fsync during rewrites", NOTE, Promise.RESTARTED),
        ("auto-aof-rewrite-percentage", "0", "rewrites of the append-only file", WARNING, Promise.OUTAGE),
        ("client-output-buffer-limit", "pubsub 100kb 0 0", "pub/sub buffers", PROBLEM, Promise.REPAIRED),
        ("client-output-buffer-limit", "pubsub 4mb 0 0", "pub/sub buffers", WARNING, Promise.REPAIRED),
        ("client-output-buffer-limit", "pubsub 0 0 0", "pub/sub buffers", WARNING, Promise.OUTAGE),
        ("timeout", "10", "idle connections", WARNING, Promise.RECONNECTED),
        ("tcp-keepalive", "0", "keep-alive", WARNING, Promise.RECONNECTED),
        ("maxclients", "20", "number of connections", WARNING, Promise.RECONNECTED),
        ("proto-max-bulk-len", "1mb", "size of an update", PROBLEM, Promise.ACCEPTED),
        ("lua-time-limit", "100", "time limit of scripts", WARNING, Promise.LIVE),
        ("min-replicas-to-write", "1", "replicas for writes", PROBLEM, Promise.ACCEPTED),
    ],
)
def test_a_bad_setting_is_found_with_the_promise_at_risk(
    good_store: RedisServer, setting: str, value: str, title: str, level: Level, promise: Promise
) -> None:
    good = found_at(good_store, title)
    assert good.level is OK
    with configured(good_store, setting, value):
        found = found_at(good_store, title)
    assert (found.level, found.promise, found.known) == (level, promise, True)
    assert found.remedy


def test_appends_that_are_refused_are_told_with_the_servers_words(good_store: RedisServer) -> None:
    with configured(good_store, "min-replicas-to-write", "1"):
        found = found_at(good_store, "append and read")
    assert found.level is PROBLEM
    assert "NOREPLICAS" in found.found or "Not enough good replicas" in found.found
    assert contents(good_store) == {}


@pytest.mark.parametrize("asking", ["-acl", "+acl"])
@pytest.mark.parametrize(
    ("rules", "title", "words"),
    [
        ("~* &* +@all -rpush", "rights to commands", "may not run rpush (nodes)"),
        ("~* &* +@all -zrevrange -hscan", "rights to commands", "may not run hscan, zrevrange (gateways)"),
        ("~* &* +@all -evalsha", "rights to commands", "may not run evalsha (nodes and gateways)"),
        ("~other:* &* +@all", "rights to keys", "streamer:fleet"),
        ("~* &other:* +@all", "rights to channels", ":all"),
    ],
)
def test_a_user_that_lacks_a_right_is_told_which(
    good_store: RedisServer, rules: str, title: str, words: str, asking: str
) -> None:
    with user(good_store, *rules.split(), asking) as url:
        found = found_at(good_store, title, url)
        assert found_at(good_store, "append and read", url).known is False
    assert found.level is PROBLEM
    assert words in found.found
    assert found.remedy.startswith("ACL SETUSER ")
    assert contents(good_store) == {}


def test_where_config_is_forbidden_it_is_a_note_and_no_failure(good_store: RedisServer) -> None:
    with user(good_store, "~*", "&*", "+@all", "-config") as url:
        done = run("doctor", "--strict", "--json", redis_url=url)
    assert done.returncode == 0
    unknown = {each["title"]: each for each in json.loads(done.stdout)["findings"] if not each["known"]}
    assert {"fsync", "pub/sub buffers", "idle connections", "replicas for writes"} <= unknown.keys()
    assert {(each["level"], each["found"]) for each in unknown.values()} == {("note", "could not be checked")}
    # These INFO tells as well.
    assert not unknown.keys() & {"eviction", "memory", "persistence", "number of connections"}


@pytest.mark.parametrize("kind", REAL_KINDS)
def test_a_replica_is_no_place_for_a_log_and_a_master_tells_of_it(kind: str) -> None:
    with Server(kind, "--repl-diskless-sync-delay", "0") as master:
        options = ["--replicaof", f"127.0.0.1 {master.port}"]
        with Server(kind, *options) as replica:
            with master.client() as client:
                info: Any = client.info
                wait_until("the replica is in step", lambda: (info()).get("slave0", {}).get("state") == "online")
            found = found_at(replica, "role")
            assert (found.level, found.promise) == (PROBLEM, Promise.ACCEPTED)
            assert found_at(replica, "rights to commands").level is OK
            assert found_at(master, "replicas").found == "1 in step"
            assert found_at(master, "Sentinels").level is NOTE
            with configured(master, "min-replicas-to-write", "1"):
                assert found_at(master, "replicas for writes").level is WARNING


@pytest.mark.parametrize("kind", REAL_KINDS)
def test_a_server_of_a_cluster_tells_of_slots_that_nobody_has(kind: str) -> None:
    with Server(kind, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        with server.client() as client:
            ask: Any = client.execute_command
            ask("CLUSTER", "ADDSLOTSRANGE", 0, 8000)
            found = found_at(server, "slots of the cluster")
            assert (found.level, found.promise) == (PROBLEM, Promise.ACCEPTED)
            assert "8,383 slots have no server" in found.found
            assert found_at(server, "append and read").level is PROBLEM

            ask("CLUSTER", "ADDSLOTSRANGE", 8001, 16383)
            wait_until("it is ready", lambda: b"cluster_state:ok" in ask("CLUSTER", "INFO"))
            assert found_at(server, "slots of the cluster").level is OK
            assert found_at(server, "append and read").level is OK
            assert "without a replica" in found_at(server, "masters of the cluster").found
            assert found_at(server, "URL of the cluster").level is PROBLEM
        assert contents(server) == {}


def test_what_cannot_be_removed_expires(good_store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(redis.Redis, "delete", lambda *keys: 0)
        assert found_at(good_store, "append and read").level is OK
    with good_store.client() as client:
        left = client.keys("*")
        assert len(left) == 3
        assert all(client.ttl(key) > 0 for key in left)
        client.delete(*left)


class Swallowing(Proxy):
    """Swallows what the server pushes of a kind."""

    def __init__(self, port: int, kind: bytes) -> None:
        super().__init__(port)
        self._swallowed = b"*3\r\n$%d\r\n%s" % (len(kind), kind)

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not data.startswith(self._swallowed):
                    sink.sendall(data)


@pytest.mark.parametrize(
    ("kind", "says"), [(b"message", "what was published did not arrive"), (b"subscribe", "was not confirmed")]
)
def test_pubsub_that_delivers_nothing_is_noticed(
    good_store: RedisServer, monkeypatch: pytest.MonkeyPatch, kind: bytes, says: str
) -> None:
    monkeypatch.setattr(trying, "DELIVERY_S", 0.3)
    with Swallowing(good_store.port, kind) as proxy:
        found = found_at(good_store, "pub/sub", proxy.url)
    assert (found.level, found.promise) == (PROBLEM, Promise.LIVE)
    assert says in found.found
    assert contents(good_store) == {}


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_published_arrives_on_channels_of_both_kinds(good_store: RedisServer, sharded: bool) -> None:
    with good_store.client() as client, trying.listening(client, "streamer:x", sharded) as arrives:
        client.execute_command("SPUBLISH" if sharded else "PUBLISH", "streamer:x", "m")  # type: ignore[no-untyped-call]
        assert arrives() == ""


@contextmanager
def sentinel(kind: str, master: RedisServer, directory: Path) -> Iterator[str]:
    """The URL of a Sentinel that watches a master."""
    binary, port, settings = redis_command(kind), free_port(), directory / "sentinel.conf"
    assert binary is not None
    settings.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor m 127.0.0.1 {master.port} 1\n")
    with subprocess.Popen([binary, str(settings), "--sentinel"], stdout=subprocess.DEVNULL) as process:
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def test_sentinels_are_noticed(good_store: RedisServer, tmp_path: Path) -> None:
    with sentinel(good_store.kind, good_store, tmp_path) as url:
        wait_until("it watches", lambda: found_at(good_store, "Sentinels").level is WARNING)
        found = found_at(good_store, "Sentinels")
        assert found.found.startswith("1 watch this server, but the URL names the server")
        assert found.promise is Promise.FAILED_OVER
        done = run("doctor", redis_url=url)
    assert done.returncode == 1
    assert "leads to a Sentinel" in " ".join(done.stdout.replace("│", " ").split())
