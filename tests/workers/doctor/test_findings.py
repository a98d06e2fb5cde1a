"""The tables: what is said of each fact, where it is well, where it is not, and where it is not known."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workers.doctor.good import FACTS, facts, finding
from workers.doctor.cluster import parse_members
from workers.doctor.examining import CHECKS, examine
from workers.doctor.facts import Clock, Cluster, Facts, Lack, Size, Spread, Trial
from workers.doctor.findings import Finding, Level, Promise, fails

OK, NOTE, WARNING, PROBLEM = Level

REPLICA = {"ip": "10.0.0.2", "port": 6379, "state": "online", "offset": 5_000_000, "lag": 0}


def replicated(number: int = 1, config: dict[str, str] | None = None, **replica: Any) -> Facts:
    """A master with replicas, the first of which differs."""
    each = {f"slave{n}": {**REPLICA, **(replica if n == 0 else {})} for n in range(number)}
    return facts(config, {"connected_slaves": number, "master_repl_offset": 5_000_000, **each})


def buffer(hard: int | str, soft: int | str = 0, seconds: int = 0) -> Facts:
    return facts({"client-output-buffer-limit": f"normal 0 0 0 pubsub {hard} {soft} {seconds}"})


def member(n: int, slots: str, master: int | None = None, flags: str = "") -> str:
    role = "slave" if master else "master"
    flags = ",".join(filter(None, [flags, role]))
    return f"id{n} 10.0.0.{n}:6379@16379 {flags} {f'id{master}' if master else '-'} 0 0 1 connected {slots}"


MEMBERS = [member(1, "0-5000", flags="myself"), member(2, "5001-10000"), member(3, "10001-16383")]
MEMBERS += [member(n + 3, "", n) for n in (1, 2, 3)]


def clustered(members: list[str] = MEMBERS, info: dict[str, Any] | None = None, **told: Any) -> Facts:
    """A server of a cluster."""
    words = {"cluster_state": "ok", "cluster_slots_assigned": "16384", "cluster_slots_fail": "0", **told}
    cluster = Cluster(words, parse_members("\n".join(members)))
    return facts(info={"cluster_enabled": 1, **(info or {})}, cluster=cluster, scheme="redis+cluster")


CASES: list[tuple[str, Facts, Level, str]] = [
    ("server", facts(), OK, "Valkey 9.1.2"),
    ("server", facts(info={"valkey_version": None, "redis_version": "6.2.14"}), OK, "Redis 6.2.14"),
    ("server", facts(info={"valkey_version": None, "redis_version": "8.4.0"}), OK, "Redis 8.4.0"),
    ("server", facts(info={"valkey_version": None, "redis_version": "6.0.16"}), PROBLEM, "lacks commands"),
    ("server", facts(info={"valkey_version": "10.0.0"}), NOTE, "newer than what was tested"),
    ("server", facts(info={"dragonfly_version": "df-1.2"}), WARNING, "dragonfly df-1.2"),
    ("server", facts(info={"server_mode": "sentinel"}), PROBLEM, "Sentinel, which holds no log"),
    ("role", facts(), OK, "a master"),
    ("role", facts(info={"role": "slave"}), PROBLEM, "read-only"),
    ("time limit of scripts", facts(), OK, "5000 ms"),
    ("time limit of scripts", facts({"busy-reply-threshold": "0"}), OK, "0 ms"),
    ("time limit of scripts", facts({"busy-reply-threshold": "50"}), WARNING, "BUSY"),
    ("eviction", facts(), OK, "noeviction"),
    ("eviction", facts({"maxmemory-policy": "allkeys-lru"}, {"evicted_keys": 7}), PROBLEM, "7 keys so far"),
    ("eviction", facts({"maxmemory-policy": "volatile-ttl"}), PROBLEM, "volatile-ttl"),
    ("eviction", facts({"maxmemory-policy": "allkeys-lru", "maxmemory": "0"}), WARNING, "as soon as"),
    ("eviction", facts(info={"evicted_keys": 7}), WARNING, "7 keys were evicted"),
    ("memory", facts(), OK, "95.4 MiB of 954 MiB used"),
    ("memory", facts({"maxmemory": "0"}), WARNING, "no maxmemory"),
    ("memory", facts(info={"used_memory": 960_000_000}), PROBLEM, "appends fail"),
    ("memory", facts(info={"used_memory": 960_000_000, "mem_not_counted_for_evict": 500_000_000}), OK, "used"),
    ("memory", facts(info={"used_memory": 850_000_000}), WARNING, "when it is full"),
    ("memory", facts({"maxmemory": "3500000000"}), WARNING, "of the machine's 3.73 GiB"),
    ("persistence", facts(), OK, "append-only file"),
    ("persistence", facts({"appendonly": "no"}), PROBLEM, "neither"),
    ("persistence", facts({"appendonly": "no", "save": "3600 1"}), PROBLEM, "only snapshots (save 3600 1)"),
    ("fsync", facts(), OK, "everysec"),
    ("fsync", facts({"appendfsync": "always"}), OK, "always"),
    ("fsync", facts({"appendfsync": "no"}), WARNING, "30 s"),
    ("fsync during rewrites", facts({"no-appendfsync-on-rewrite": "yes"}), NOTE, "during a rewrite"),
    ("rewrites of the append-only file", facts({"auto-aof-rewrite-percentage": "0"}), WARNING, "disk is full"),
    ("writing to disk", facts(), OK, "went well"),
    ("writing to disk", facts(info={"aof_last_write_status": "err"}), PROBLEM, "cannot be written"),
    ("writing to disk", facts(info={"aof_last_bgrewrite_status": "err"}), WARNING, "rewrite"),
    ("writing to disk", facts(info={"rdb_last_bgsave_status": "err"}), WARNING, "snapshot failed"),
    ("writing to disk", facts({"save": "60 1"}, {"rdb_last_bgsave_status": "err"}), PROBLEM, "refused"),
    ("speed of the disk", facts(), OK, "no fsync"),
    ("speed of the disk", facts(info={"aof_delayed_fsync": 3}), NOTE, "3 fsyncs"),
    ("pub/sub buffers", facts(), OK, "64 MiB, or 16 MiB for 30 s"),
    ("pub/sub buffers", buffer("32mb", "8mb", 60), OK, "32 MiB"),
    ("pub/sub buffers", buffer(100_000), PROBLEM, "cuts every gateway off"),
    ("pub/sub buffers", buffer("64mb", "1mb", 1), PROBLEM, "cuts every gateway off"),
    ("pub/sub buffers", buffer("64mb", "1mb", 60), OK, "1 MiB for 60 s"),
    ("pub/sub buffers", buffer("4mb"), WARNING, "in a burst"),
    ("pub/sub buffers", buffer(0), WARNING, "without bound"),
    ("idle connections", facts(), OK, "are kept"),
    ("idle connections", facts({"timeout": "10"}), WARNING, "timeout 10"),
    ("idle connections", facts({"timeout": "300"}), NOTE, "timeout 300"),
    ("keep-alive", facts(), OK, "every 60 s"),
    ("keep-alive", facts({"tcp-keepalive": "0"}), WARNING, "for ever"),
    ("keep-alive", facts({"tcp-keepalive": "7200"}), NOTE, "late"),
    ("number of connections", facts(), OK, "20 of 10,000"),
    ("number of connections", facts(info={"connected_clients": 9_990}), PROBLEM, "turned away"),
    ("number of connections", facts(info={"connected_clients": 8_500}), WARNING, "come back at once"),
    ("number of connections", facts({"maxclients": "70"}), WARNING, "20 of 70"),
    ("number of connections", facts(info={"rejected_connections": 4}), NOTE, "4 were turned away"),
    ("size of an update", facts(), OK, "1 MiB fit"),
    ("size of an update", facts({"proto-max-bulk-len": "1048576"}), PROBLEM, "holds up all behind"),
    ("replicas", facts(), NOTE, "none"),
    ("replicas", replicated(2), OK, "2 in step"),
    ("replicas", replicated(lag=30), WARNING, "10.0.0.2:6379 was last heard of 30 s ago"),
    ("replicas", replicated(offset=0), WARNING, "10.0.0.2:6379 lacks 4.77 MiB"),
    ("replicas", replicated(state="wait_bgsave"), WARNING, "is wait_bgsave"),
    ("replicas for writes", facts(), OK, "not set"),
    ("replicas for writes", replicated(2), NOTE, "cut off"),
    ("replicas for writes", replicated(2, {"min-replicas-to-write": "1"}), OK, "1, with a lag of at most 10 s"),
    ("replicas for writes", replicated(1, {"min-replicas-to-write": "1"}), WARNING, "as many as there are"),
    (
        "replicas for writes",
        replicated(2, {"min-replicas-to-write": "1", "min-replicas-max-lag": "600"}),
        NOTE,
        "min-replicas-max-lag is 600",
    ),
    (
        "replicas for writes",
        facts({"min-replicas-to-write": "1"}, {"min_slaves_good_slaves": 0}),
        PROBLEM,
        "refused now",
    ),
    ("Sentinels", facts(), OK, "no replicas for them"),
    ("Sentinels", facts(sentinels=3, scheme="redis+sentinel"), OK, "3 watch"),
    ("Sentinels", facts(sentinels=3), WARNING, "the URL names the server"),
    ("Sentinels", facts(sentinels=2, scheme="redis+sentinel"), WARNING, "only 2"),
    ("Sentinels", replicated(), NOTE, "nobody promotes one"),
    ("slots of the cluster", clustered(), OK, "all are served"),
    ("slots of the cluster", clustered(cluster_slots_assigned="16000"), PROBLEM, "384 slots have no server"),
    ("slots of the cluster", clustered(cluster_slots_fail="5"), PROBLEM, "5 slots have a server that is away"),
    ("slots of the cluster", clustered(cluster_state="fail"), PROBLEM, "cluster_state fail"),
    ("masters of the cluster", clustered(), OK, "3, each with a replica"),
    ("masters of the cluster", clustered(MEMBERS[:5]), WARNING, "10.0.0.3:6379 without a replica"),
    (
        "masters of the cluster",
        clustered([*MEMBERS[:5], member(6, "", 3, "fail")]),
        WARNING,
        "10.0.0.3:6379 without a replica",
    ),
    ("masters of the cluster", clustered([member(1, "0-16383"), member(2, "", 1)]), WARNING, "only 1"),
    ("URL of the cluster", clustered(), OK, "means the cluster"),
    ("URL of the cluster", facts(info={"cluster_enabled": 1}), PROBLEM, "single server"),
    ("sharded pub/sub", clustered(), OK, "is there"),
    (
        "sharded pub/sub",
        clustered(info={"valkey_version": None, "redis_version": "6.2.14"}),
        PROBLEM,
        "none before Redis 7",
    ),
    ("rights to commands", facts(), OK, "all that are needed"),
    (
        "rights to commands",
        facts(lacks=[Lack("command", "get", "get", "nodes"), Lack("command", "script|load", "", "nodes")]),
        PROBLEM,
        "may not run get, script|load (nodes)",
    ),
    ("rights to keys", facts(lacks=[Lack("key", "streamer:fleet", "hset", "nodes")]), PROBLEM, "streamer:fleet"),
    ("rights to channels", facts(lacks=[Lack("channel", "streamer:x", "publish", "nodes")]), PROBLEM, "streamer:x"),
    (
        "commands that the server knows",
        facts(lacks=[Lack("unknown", "evalsha", "evalsha", "nodes")]),
        PROBLEM,
        "does not know evalsha",
    ),
    ("append and read", facts(), OK, "work"),
    ("append and read", facts(appending=Trial("OOM command not allowed")), PROBLEM, "OOM command not allowed"),
    ("pub/sub", facts(), OK, "delivered"),
    ("pub/sub", facts(delivering=Trial("it did not arrive")), PROBLEM, "it did not arrive"),
    ("round trip", facts(), OK, "median 0.20 ms, 99 % within 1.00 ms (100 pings)"),
    ("round trip", facts(ping=Spread(25, 30, 100)), WARNING, "median 25.0 ms"),
    ("round trip", facts(ping=Spread(1, 300, 100)), WARNING, "99 % within 300 ms"),
    ("time of an append", facts(), OK, "50 of one update"),
    ("time of an append", facts(append=Spread(80, 90, 20)), WARNING, "median 80.0 ms"),
    ("clock", facts(), OK, "within 0.001 s"),
    ("clock", facts(clock=Clock(1.8e9, -5.0, 0.1)), WARNING, "-5.0 s from the server"),
    ("clock", facts(clock=Clock(1.8e9, 2.0, 1.5)), OK, "within 1.500 s"),
    ("clock", facts(clock=Clock(1000.0, 1.8e9, 0.1)), PROBLEM, "years behind"),
]


def without_none(facts: Facts) -> Facts:
    """INFO has no entries without a value."""
    info = {name: value for name, value in facts.info.items() if value is not None}
    return Facts(**{**vars(facts), "info": info})


@pytest.mark.parametrize(("title", "known", "level", "words"), CASES)
def test_a_fact_is_judged(title: str, known: Facts, level: Level, words: str) -> None:
    found = finding(examine(without_none(known)), title)
    assert (found.level, found.known) == (level, True)
    assert words in found.found
    if level > OK:
        assert isinstance(found.promise, Promise)
        assert found.remedy.endswith(".") or found.remedy.startswith("ACL SETUSER")
    assert "{" not in found.found + found.remedy


def test_each_case_of_each_check_is_among_these() -> None:
    seen = {(title, level) for title, _, level, _ in CASES}
    for check in CHECKS:
        for case in check.cases:
            assert (check.title, case.level) in seen


def test_with_good_facts_nothing_is_worse_than_a_note() -> None:
    assert not fails(examine(FACTS), strict=True)


def test_what_is_not_told_is_a_note_and_no_failure() -> None:
    findings = examine(Facts())
    assert {(each.level, each.known, each.found) for each in findings} == {(NOTE, False, "could not be checked")}
    assert all(each.promise and each.remedy for each in findings)
    titles = {each.title for each in findings}
    assert titles >= {"server", "eviction", "persistence", "pub/sub buffers", "rights to keys", "pub/sub", "clock"}


def test_without_config_what_info_tells_is_judged() -> None:
    info = {**FACTS.info, "maxmemory": 10, "maxmemory_policy": "allkeys-lru", "maxclients": 21, "aof_enabled": 0}
    findings = examine(Facts(info=info))
    for title in ("eviction", "memory", "number of connections", "persistence"):
        assert finding(findings, title).level is PROBLEM


def test_settings_that_are_no_numbers_are_not_known() -> None:
    findings = examine(facts({"timeout": "", "client-output-buffer-limit": "pubsub 1 x 2", "tcp-keepalive": "-"}))
    for title in ("idle connections", "pub/sub buffers", "keep-alive"):
        assert not finding(findings, title).known


@pytest.mark.parametrize(
    ("level", "strict", "fail"),
    [(NOTE, True, False), (WARNING, False, False), (WARNING, True, True), (PROBLEM, False, True)],
)
def test_problems_fail_and_if_strict_warnings(level: Level, strict: bool, fail: bool) -> None:
    assert fails([Finding(OK, "a", "b"), Finding(level, "a", "b")], strict=strict) is fail


def test_members_are_read_from_what_servers_of_any_version_say() -> None:
    lines = (
        "a 127.0.0.1:7001@17001,host myself,master - 0 0 1 connected 0-10 12 [13->-b]\n"
        "b :0@0 master,noaddr - 0 0 2 disconnected\n"
        "c 127.0.0.1:7003 slave a 0 0 1 connected\n"
    )
    first, second, third = parse_members(lines)
    assert (first.address, first.slots, first.myself) == ("127.0.0.1:7001", (range(11), range(12, 13)), True)
    assert (second.well, third.well, third.master_id) == (False, True, "a")
    with pytest.raises(ValueError, match="CLUSTER NODES"):
        parse_members("nonsense")


def test_durations_are_summed_up() -> None:
    assert Spread.of([n / 1000 for n in range(1, 101)]) == pytest.approx((51, 99, 100))
    assert Spread.of([0.002]) == pytest.approx((2, 2, 1))
    assert Spread.of([]) is None


def test_sizes_are_shown_in_the_unit_that_suits() -> None:
    assert [str(Size(size)) for size in (0, 1023, 1024, 1536 << 20)] == [
        "0 bytes",
        "1023 bytes",
        "1 KiB",
        "1.5 GiB",
    ]
