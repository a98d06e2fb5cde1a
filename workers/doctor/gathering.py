"""Gathers the facts about a Redis: in a few round trips, bounded in time and load, leaving nothing behind."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import redis
from redis.crc import key_slot

from streamer.log.blocking_client import BlockingClient
from streamer.log.connecting import unavailable_as_error
from streamer.log.keys import Keys
from workers.doctor import allowing, trying
from workers.doctor.allowing import Asked
from workers.doctor.cluster import own_slots, parse_info, parse_members
from workers.doctor.facts import Clock, Cluster, Facts

SETTINGS = (
    "appendfsync",
    "appendonly",
    "auto-aof-rewrite-percentage",
    "busy-reply-threshold",
    "client-output-buffer-limit",
    "lua-time-limit",
    "maxclients",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-max-lag",
    "min-replicas-to-write",
    "no-appendfsync-on-rewrite",
    "proto-max-bulk-len",
    "save",
    "stop-writes-on-bgsave-error",
    "tcp-keepalive",
    "timeout",
)
SENTINEL_CHANNEL = "__sentinel__:hello"
"""Each Sentinel subscribes to it on each server that it watches."""


def gather(url: str, prefix: str, asked: Asked = Asked()) -> Facts:  # noqa: B008 - it cannot be changed
    """Find out all there is to know, and leave nothing behind.

    ``asked`` says whose rights are looked at; unless it is all of one's own, nothing is appended.

    Raises LogUnavailable where Redis does not answer, and InvalidSetting where the URL or the prefix is none.
    """
    keys = Keys(prefix)
    with unavailable_as_error(url), open_server(url) as client:
        facts = replace(_told(client), scheme=url.partition("://")[0], prefix=prefix)
        if facts.sentinel or (node := _throw_away_node(keys, facts)) is None:
            return facts
        sharded = facts.scheme.endswith("+cluster")
        user, lacks = allowing.find_lacks(client, lambda: open_server(url), keys, node, sharded, asked)
        facts = replace(facts, user=user, role=asked.role, lacks=lacks, ping=trying.time_pings(client))
        if lacks or facts.replica or not asked.tried:
            return facts
        return trying.try_log(facts, client, url, keys, node, sharded)


def open_server(url: str) -> redis.Redis:
    """A client of the one server that is looked at. Raises InvalidSetting."""
    return BlockingClient(url).server_of("")


def _told(client: redis.Redis) -> Facts:
    """What the server tells when it is asked."""
    info = _answer(client.info)
    return Facts(
        info=info or {},
        config=_settings(client),
        cluster=_cluster(client) if (info or {}).get("cluster_enabled", 1) else None,
        sentinels=_sentinels(client),
        clock=_clock(client),
    )


def _answer(ask: Callable[..., Any], *words: Any) -> Any:
    """The answer to a question; None where the server does not give it."""
    try:
        return ask(*words)
    except redis.ResponseError:
        return None


def _settings(client: redis.Redis) -> dict[str, str]:
    # One by one: only Redis 7 and later take several names at once.
    pipeline = client.pipeline(transaction=False)
    for name in SETTINGS:
        pipeline.config_get(name)
    settings: dict[str, str] = {}
    for answer in pipeline.execute(raise_on_error=False):
        if isinstance(answer, dict):
            settings |= {_text(name): _text(value) for name, value in answer.items()}
    return settings


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _cluster(client: redis.Redis) -> Cluster | None:
    """What a server of a cluster tells of it; one that is not refuses."""
    ask: Any = client.execute_command
    info, nodes = _answer(ask, "CLUSTER", "INFO"), _answer(ask, "CLUSTER", "NODES")
    if info is None and nodes is None:
        return None
    info = parse_info(_text(info or b""))
    return Cluster(info, parse_members(_text(nodes or b"")))


def _sentinels(client: redis.Redis) -> int | None:
    ask: Any = client.execute_command
    answer = _answer(ask, "PUBSUB", "NUMSUB", SENTINEL_CHANNEL)
    return int(answer[1]) if isinstance(answer, list) and len(answer) == 2 else None


def _clock(client: redis.Redis) -> Clock | None:
    """The server's time, compared with ours in the middle of the round trip."""
    before, began = time.time(), time.monotonic()
    ask: Any = client.time
    answer = _answer(ask)
    if answer is None:
        return None
    error_s = (time.monotonic() - began) / 2
    seconds, microseconds = answer
    server_s = seconds + microseconds / 1e6
    return Clock(server_s, before + error_s - server_s, error_s)


def _throw_away_node(keys: Keys, facts: Facts) -> str | None:
    """A node's name that nobody has, whose keys this server has; None where it has none."""
    slots = None if facts.cluster is None else own_slots(facts.cluster)
    if slots == ():
        return None
    while True:
        node = f"doctor-{secrets.token_hex(8)}"
        slot = key_slot(keys.log(node).encode())
        if slots is None or any(slot in each for each in slots):
            return node
