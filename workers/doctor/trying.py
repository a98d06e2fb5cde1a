"""Tries what nodes and gateways do, on a throw-away node, and measures it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import redis

from streamer.core.cursor import START
from streamer.core.entries import Batch, Entry
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.core.records import pack_tail
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Retention, append_request, source
from workers.doctor.facts import Facts, Spread, Trial
from workers.doctor.rights import EXPIRE_S, node_keys

PINGS = 100
APPENDS = 50
MEASURE_S = 2.0
"""So long is measured at the most, however slow each is."""

DELIVERY_S = 3.0

_UPDATE = Entry(None, pack_tail("doctor", {}, 0))
_RETENTION = Retention(records=APPENDS)


def time_pings(client: redis.Redis) -> Spread | None:
    """How long round trips take; None where pings are refused, as when the disk is full."""
    ping: Any = client.ping
    try:
        return Spread.of(list(_durations(ping, PINGS)))
    except redis.ResponseError:
        return None


def try_log(facts: Facts, client: redis.Redis, url: str, keys: Keys, node: str, sharded: bool) -> Facts:
    """Append to a node's log, listening to its channel, and read it back; remove all of it."""
    try:
        with listening(client, keys.records(Topic(node)), sharded) as arrives, NodeLog(url, keys, node) as log:
            log.append(node, Batch(1, []), _RETENTION)  # writes nothing, but has Redis know the script
            _begin(client, keys, node)
            append = _appender(log, node)
            append()
            delivering = Trial(arrives())
            took = Spread.of(list(_durations(append, APPENDS)))
            appending = Trial("" if log.read(None, START, 1).updates else "what was appended cannot be read")
        return replace(facts, appending=appending, append=took, delivering=delivering)
    except (LogUnavailable, redis.ResponseError) as error:
        return replace(facts, appending=Trial(str(error.__cause__ or error)))
    finally:
        # A server that refuses this has refused to append; if it has changed its mind, what is there expires.
        with suppress(redis.ResponseError):
            client.delete(*node_keys(keys, node))


def _durations(do: Callable[[], object], most: int) -> Iterator[float]:
    """Do something again and again; how long it took each time, in seconds."""
    end = time.monotonic() + MEASURE_S
    for _ in range(most):
        began = time.monotonic()
        do()
        now = time.monotonic()
        yield now - began
        if now > end:
            return


def _begin(client: redis.Redis, keys: Keys, node: str) -> None:
    """Append a first update and let all that it made expire, in one go: whatever happens to us, nothing stays."""
    request = append_request(keys, node, node, Batch(1, [_UPDATE]), _RETENTION)
    script = hashlib.sha1(source("append").encode(), usedforsecurity=False).hexdigest()
    pipeline: Any = client.pipeline(transaction=False)
    pipeline.execute_command("EVALSHA", script, len(request.keys), *request.keys, *request.args)
    for key in node_keys(keys, node):
        pipeline.expire(key, EXPIRE_S)
    reply = pipeline.execute(raise_on_error=False)[0]
    if isinstance(reply, redis.ResponseError):
        raise reply


def _appender(log: NodeLog, writer: str) -> Callable[[], None]:
    """Appends one update each time it is called, behind the first."""
    appended = 1

    def append() -> None:
        nonlocal appended
        appended += 1
        log.append(writer, Batch(appended, [_UPDATE]), _RETENTION)

    return append


@contextmanager
def listening(client: redis.Redis, channel: str, sharded: bool) -> Iterator[Callable[[], str]]:
    """Listen to a channel; gives a function that waits for what comes, and says what is wrong, if anything is."""
    with closing(client.pubsub()) as pubsub:  # type: ignore[no-untyped-call]
        subscribe: Any = pubsub.ssubscribe if sharded else pubsub.subscribe
        subscribe(channel)
        confirmed = _comes(pubsub, "subscribe")

        def arrives() -> str:
            if not confirmed:
                return f"subscribing was not confirmed within {DELIVERY_S:g} s"
            return "" if _comes(pubsub, "message") else f"what was published did not arrive within {DELIVERY_S:g} s"

        yield arrives


def _comes(pubsub: Any, kind: str) -> bool:
    """Whether a message of that kind comes in time, be it of a sharded channel."""
    end = time.monotonic() + DELIVERY_S
    while (left_s := end - time.monotonic()) > 0:
        message = pubsub.get_message(timeout=left_s)
        if message is not None and message["type"] in (kind, f"s{kind}"):
            return True
    return False
