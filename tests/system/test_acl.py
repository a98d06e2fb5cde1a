"""With the users of `deploy/redis/users.acl` all works, and no node can touch another's log."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest
import redis

from streamer import NodeSettings
from streamer.core.cursor import START
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.log.fleet import Summary
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.url import with_credentials
from streamer.state_streamer import StateStreamer
from tests.acl_users import ADMIN, GATEWAY, NODE, NODE_USER, PASSWORD, shipped, with_passwords
from tests.commands import DEADLINE_S, command, environment, first_line, run, running
from tests.gateways import GatewayProcess
from tests.log.writing import Writer
from tests.servers import REAL_KINDS, RedisServer, wait_until
from workers.doctor.allowing import Asked
from workers.doctor.gathering import gather

KEYS = Keys()
OTHER = "gpu-2"
ALL, JOB = KEYS.records(Topic(OTHER)), KEYS.records(Topic(OTHER, "job"))


@pytest.fixture(scope="module", params=REAL_KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that was started with the file, and has a log of another node."""
    users = tmp_path_factory.mktemp("acl") / "users.acl"
    users.write_text(with_passwords(), encoding="utf-8")
    server = RedisServer(request.param, None, "--aclfile", str(users))
    server.url = with_credentials(server.url, ADMIN, PASSWORD)
    with server:
        with NodeLog(server.url, KEYS, OTHER) as log:
            Writer(log).append("job", None)
            log.report(Summary(1, "running", "job", 1))
        yield server


def _url(server: RedisServer, user: str) -> str:
    return with_credentials(f"redis://127.0.0.1:{server.port}/0", user, PASSWORD)


def _as(server: RedisServer, user: str) -> redis.Redis:
    client: redis.Redis = redis.Redis.from_url(_url(server, user), protocol=2, socket_timeout=5)
    return client


def _everything(client: redis.Redis) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.keys("*")}


def _published(admin: redis.Redis) -> int:
    return int(admin.info("commandstats")["cmdstat_publish"]["calls"])


def test_a_gateway_and_a_node_with_their_own_users_work_and_miss_no_right(server: RedisServer) -> None:
    with server.client() as admin, GatewayProcess(_url(server, GATEWAY)) as gateway:
        admin.execute_command("ACL", "LOG", "RESET")  # type: ignore[no-untyped-call]
        with running("watch", NODE, "--json", "--gateway-url", gateway.url, stdout=subprocess.PIPE) as watching:
            script = ["sh", "-c", 'echo \'{"status": "halfway", "loss": 0.5}\'']
            done = subprocess.run(
                command("node", NODE, "--job", "job", "--exclusive", "--", *script),
                env=environment(STREAMER_REDIS_URL=_url(server, NODE_USER)),
                capture_output=True,
                timeout=DEADLINE_S,
            )
            assert (done.returncode, done.stderr) == (0, b"")
            seen = [json.loads(first_line(watching)) for _ in range(4)]
            assert [update["status"] for update in seen] == ["job-starting", "job-running", "halfway", "job-finished"]
            streamer = StateStreamer(NODE, NodeSettings(redis_url=_url(server, NODE_USER)))
            streamer.update("by hand", {"job": "other"})
            streamer.flush()
            assert json.loads(first_line(watching))["status"] == "by hand"
            assert [update.status for update in streamer.states("other")] == ["by hand"]
            streamer.clear()
            streamer.update("anew", {})
            streamer.close()
            assert json.loads(first_line(watching))["status"] == "anew"
        http = gateway.url.replace("ws", "http")
        for path in ("/api/nodes", f"/api/nodes/{OTHER}", f"/api/nodes/{OTHER}/jobs/job/updates"):
            with urlopen(f"{http}{path}", timeout=DEADLINE_S) as answer:
                assert b"job" in answer.read() or path.endswith("updates")
        published = _published(admin)
        wait_until("the gateway probes", lambda: _published(admin) >= published + 2)
        log: Any = admin.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]
        refused = {entry[entry.index(b"object") + 1] for entry in log}
        assert refused <= {b"client|setinfo"}, "which redis-py does without, and Redis 7.0 does not know"


ATTACKS: list[tuple[Any, ...]] = [
    ("RPUSH", ALL, "x"),
    ("LPUSH", ALL, "x"),
    ("LSET", ALL, 0, "x"),
    ("LTRIM", JOB, 1, 0),
    ("DEL", ALL),
    ("UNLINK", KEYS.log(OTHER)),
    ("HSET", KEYS.log(OTHER), "next", 0),
    ("HDEL", KEYS.log(OTHER), "id"),
    ("SET", KEYS.writer(OTHER, "w"), 9),
    ("SET", KEYS.claim(OTHER), 1),
    ("HSET", KEYS.claim(OTHER), "holder", "x"),
    ("ZADD", KEYS.jobs(OTHER), 0, "x"),
    ("ZREM", KEYS.jobs(OTHER), "job"),
    ("EXPIRE", ALL, 1),
    ("PERSIST", ALL),
    ("RENAME", ALL, KEYS.records(Topic(NODE))),
    ("COPY", ALL, KEYS.records(Topic(NODE))),
    ("RESTORE", ALL, 0, "x"),
    ("PUBLISH", ALL, "x"),
    ("PUBLISH", JOB, "x"),
    ("PUBLISH", "streamer:probe:1", "x"),
    ("SPUBLISH", ALL, "x"),
    ("DEL", KEYS.fleet),
    ("EXPIRE", KEYS.fleet, 1),
    ("SET", KEYS.fleet, "x"),
    ("SET", "anything", "x"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", 1),
    ("SHUTDOWN",),
    ("BGREWRITEAOF",),
    ("ACL", "SETUSER", NODE_USER, "+@all"),
    ("ACL", "LIST"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "FLUSH"),
    ("CLIENT", "KILL", "TYPE", "pubsub"),
    ("CLIENT", "LIST"),
    ("MONITOR",),
    ("REPLICAOF", "NO", "ONE"),
    ("SWAPDB", 0, 1),
    ("MIGRATE", "127.0.0.1", 1, ALL, 0, 1),
    ("SORT", KEYS.records(Topic(NODE)), "BY", "x", "STORE", ALL),
]
"""What changes another's log, its channels, the fleet's whole list, or the server."""

PRYING: list[tuple[Any, ...]] = [
    ("LRANGE", ALL, 0, -1),
    ("LINDEX", JOB, 0),
    ("HMGET", KEYS.log(OTHER), "id"),
    ("HGETALL", KEYS.log(OTHER)),
    ("GET", KEYS.writer(OTHER, "w")),
    ("EXISTS", ALL),
    ("DUMP", ALL),
    ("HGETALL", KEYS.fleet),
    ("HMGET", KEYS.fleet, OTHER),
    ("KEYS", "*"),
    ("SCAN", 0),
    ("RANDOMKEY",),
    ("SUBSCRIBE", ALL),
    ("PSUBSCRIBE", "streamer:*"),
    ("SSUBSCRIBE", ALL),
    ("PUBSUB", "CHANNELS"),
]
"""What tells of others."""


REFUSED = ("permission", "script can't run", "script can't access", "script can't publish", "not allowed from script")


def _refuses(client: redis.Redis, words: tuple[Any, ...]) -> str:
    """What the server says to a command: '' where it does not say that it is not permitted."""
    for each in (words, ("EVAL", "return redis.call(unpack(ARGV))", 0, *words)):
        try:
            client.execute_command(*each)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            # In a script, some commands exist for nobody.
            if any(said in str(error) for said in REFUSED):
                continue
            return f"{each}: {error}"
        return f"{each} was done"
    return ""


def test_a_nodes_user_may_touch_and_see_nothing_of_others_not_even_by_a_script(server: RedisServer) -> None:
    with server.client() as admin, _as(server, NODE_USER) as node:
        before = _everything(admin)
        assert [said for words in ATTACKS + PRYING if (said := _refuses(node, words))] == []
        with NodeLog(_url(server, NODE_USER), KEYS, OTHER) as log:
            writer = Writer(log)
            for use in (lambda: writer.append(None), log.clear, lambda: log.read(None, START)):
                with pytest.raises(LogUnavailable, match=r"perm|right|can't"):
                    use()
        assert _everything(admin) == before


def test_a_gateways_user_reads_all_logs_and_changes_nothing(server: RedisServer) -> None:
    own = [("HSET", KEYS.fleet, "x", "y"), ("HDEL", KEYS.fleet, OTHER)]
    published = [("PUBLISH", KEYS.fleet, "x"), ("SPUBLISH", "streamer:probe", "x")]
    with server.client() as admin, _as(server, GATEWAY) as gateway:
        before = _everything(admin)
        attacks = [words for words in ATTACKS if words[:2] != ("PUBLISH", "streamer:probe:1")]
        assert [said for words in attacks + own + published if (said := _refuses(gateway, words))] == []
        with NodeLog(_url(server, GATEWAY), KEYS, OTHER) as log:
            assert len(log.read_all("job")) == 1
            with pytest.raises(LogUnavailable, match=r"perm|right|can't"):
                Writer(log).append(None)
            with pytest.raises(LogUnavailable, match=r"perm|right|can't"):
                log.clear()
        assert _everything(admin) == before


def _lacks(server: RedisServer, *asked: str | None) -> set[tuple[str, str]]:
    facts = gather(server.url, KEYS.prefix, Asked(*asked))  # type: ignore[arg-type]
    assert facts.lacks is not None
    assert facts.user == asked[-1]
    return {(lack.kind, lack.what) for lack in facts.lacks}


def test_the_doctor_finds_nothing_missing_for_these_users_and_what_each_may_not_do(server: RedisServer) -> None:
    assert _lacks(server, "gateway", None, GATEWAY) == set()
    assert _lacks(server, "node", NODE, NODE_USER) == set()
    assert {kind for kind, _ in _lacks(server, "node", OTHER, NODE_USER)} == {"key", "channel"}
    # The server says which of a rule's parts is missing in the order of its own looks.
    assert ("command", "rpush") in _lacks(server, "node", NODE, GATEWAY)
    assert ("command", "subscribe") in _lacks(server, "gateway", None, NODE_USER)
    says = run("doctor", "--role", "node", "--node", OTHER, "--user", NODE_USER, redis_url=server.url)
    assert says.returncode == 1
    assert "users.acl" in says.stdout
    for user in (GATEWAY, NODE_USER):
        own = run("doctor", "--role", user.partition("-")[0], "--json", redis_url=_url(server, user))
        [rights] = [each for each in json.loads(own.stdout)["findings"] if each["title"] == "rights to commands"]
        assert (rights["known"], rights["level"]) == (False, "note"), "it may not ask, and does not try"


def test_without_a_password_nobody_comes_in(server: RedisServer) -> None:
    """The file as it is shipped lets nobody in until its operator has added passwords."""
    with server.client() as admin:
        for user, rules in shipped().items():
            admin.execute_command("ACL", "SETUSER", f"shipped-{user}", *rules)  # type: ignore[no-untyped-call]
            for password in ("", PASSWORD, ">", user):
                with (
                    redis.Redis(port=server.port, protocol=2, socket_timeout=5) as client,
                    pytest.raises((redis.AuthenticationError, redis.ResponseError)),
                ):
                    client.execute_command("AUTH", f"shipped-{user}", password)  # type: ignore[no-untyped-call]
            admin.acl_deluser(f"shipped-{user}")
