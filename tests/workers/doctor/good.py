"""A Redis with which all is well: as facts, and as a server of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.servers import RedisServer
from workers.doctor.examining import examine
from workers.doctor.facts import Clock, Facts, Spread, Trial
from workers.doctor.findings import Finding
from workers.doctor.gathering import gather

SETTINGS = {
    "appendfsync": "everysec",
    "appendonly": "yes",
    "auto-aof-rewrite-percentage": "100",
    "busy-reply-threshold": "5000",
    "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 67108864 16777216 30",
    "maxclients": "10000",
    "maxmemory": "1000000000",
    "maxmemory-policy": "noeviction",
    "min-replicas-max-lag": "10",
    "min-replicas-to-write": "0",
    "no-appendfsync-on-rewrite": "no",
    "proto-max-bulk-len": "536870912",
    "save": "",
    "stop-writes-on-bgsave-error": "yes",
    "tcp-keepalive": "60",
    "timeout": "0",
}

INFO: dict[str, Any] = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "server_mode": "standalone",
    "role": "master",
    "cluster_enabled": 0,
    "connected_slaves": 0,
    "master_repl_offset": 0,
    "connected_clients": 20,
    "rejected_connections": 0,
    "used_memory": 100_000_000,
    "total_system_memory": 4_000_000_000,
    "evicted_keys": 0,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "aof_delayed_fsync": 0,
}

FACTS = Facts(
    info=INFO,
    config=SETTINGS,
    sentinels=0,
    user="default",
    lacks=(),
    clock=Clock(time_s=1_800_000_000.0, ahead_s=0.01, error_s=0.001),
    ping=Spread(0.2, 1.0, 100),
    append=Spread(0.4, 2.0, 50),
    appending=Trial(),
    delivering=Trial(),
)


def facts(config: dict[str, str] | None = None, info: dict[str, Any] | None = None, **others: Any) -> Facts:
    """The good facts, but for these."""
    return replace(FACTS, config={**SETTINGS, **(config or {})}, info={**INFO, **(info or {})}, **others)


def finding(findings: list[Finding], title: str) -> Finding:
    """The only finding of that title."""
    [found] = [each for each in findings if each.title == title]
    return found


def found_at(server: RedisServer, title: str, url: str | None = None) -> Finding:
    """What is found at a real server under a title."""
    return finding(examine(gather(url or server.url, "streamer:")), title)


class Server(RedisServer):
    """A server of a real kind with good settings, and with options of the test's own."""

    def __init__(self, kind: str, *options: str) -> None:
        self._more = options
        super().__init__(kind)

    def _find_command(self) -> list[str]:
        good = "--appendfsync everysec --maxmemory 100mb --maxmemory-policy noeviction --tcp-keepalive 60"
        return [*super()._find_command(), *good.split(), *self._more]


@contextmanager
def configured(server: RedisServer, setting: str, value: str) -> Iterator[None]:
    """Have a setting for a while."""
    with server.client() as client:
        before = client.config_get(setting)[setting]
        client.config_set(setting, value)
        try:
            yield
        finally:
            client.config_set(setting, before)


@contextmanager
def user(server: RedisServer, *rules: str) -> Iterator[str]:
    """The URL of a user with these rights."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">p", *rules)  # type: ignore[no-untyped-call]
        try:
            yield f"redis://limited:p@127.0.0.1:{server.port}/0"
        finally:
            client.acl_deluser("limited")
