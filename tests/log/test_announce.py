"""The indexes of jobs: which nodes run a job, told to those who follow it, kept as long as the job and bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from streamer.core.names import Topic
from streamer.log import scripts
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber
from tests.clusters import Cluster
from tests.log.test_subscribing import Recorder
from tests.log.writing import KEYS
from tests.servers import RedisServer


@pytest.fixture
async def reader(any_store: RedisServer, log: NodeLog) -> AsyncIterator[Reader]:
    reader = Reader(any_store.url, KEYS)
    yield reader
    await reader.aclose()


@pytest.fixture
def job(node: str) -> str:
    """A job's name that no other test uses."""
    return f"job-of-{node}"


async def test_the_nodes_of_each_job_are_known_the_last_noted_first(
    reader: Reader, any_store: RedisServer, log: NodeLog, node: str, job: str
) -> None:
    log.announce([job], 100)
    with NodeLog(any_store.url, KEYS, "x" + node) as other:
        other.announce([job, job + "{b}", job + "b}"], 100)
    assert sorted(await reader.nodes_of(job)) == sorted([node, "x" + node])
    assert await reader.nodes_of(job + "{b}") == await reader.nodes_of(job + "b}") == ["x" + node]
    assert await reader.nodes_of(job + "c") == []


async def test_many_jobs_are_noted_at_once(reader: Reader, log: NodeLog, node: str, job: str) -> None:
    jobs = [f"{job}-{n}" for n in range(300)]
    log.announce(jobs, 100)
    assert [await reader.nodes_of(job) for job in jobs] == [[node]] * 300


def test_many_jobs_are_noted_though_the_server_has_forgotten_the_script(
    client: Any, log: NodeLog, any_store: RedisServer, job: str
) -> None:
    log.announce([job], 100)
    if any_store.kind != "fakeredis":  # which ends a connection on which it has said so
        client.script_flush()
    log.announce([f"{job}-{n}" for n in range(9)], 100)
    assert client.exists(KEYS.job(f"{job}-8"))


@pytest.mark.parametrize(
    ("ttls", "least", "most"),
    [([100], 1, 100), ([100, 5], 90, 100), ([5, 100], 90, 100), ([0], -1, -1), ([100, 0], -1, -1), ([0, 100], -1, -1)],
)
def test_an_index_is_kept_as_long_as_any_node_keeps_the_job(
    client: redis.Redis, log: NodeLog, job: str, ttls: list[int], least: int, most: int
) -> None:
    for ttl in ttls:
        log.announce([job], ttl)
    assert least <= client.ttl(KEYS.job(job)) <= most  # type: ignore[operator]


async def test_an_index_keeps_the_nodes_that_were_noted_last(
    reader: Reader, client: redis.Redis, log: NodeLog, node: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "INDEX_NODES", 3)
    for n in range(5):
        client.zadd(KEYS.job(job), {f"old-{n}": n})
    log.announce([job], 100)
    assert await reader.nodes_of(job) == [node, "old-4", "old-3"]


async def test_a_node_that_is_new_to_a_job_is_told_once(
    any_store: RedisServer | Cluster, log: NodeLog, node: str, job: str
) -> None:
    recorder, subscriber = Recorder(), Subscriber(any_store.url)
    try:
        await subscriber.subscribe(KEYS.job(job), recorder)
        for ttl in (100, 100, 0):
            log.announce([job], ttl)
        with NodeLog(any_store.url, KEYS, "x" + node) as other:
            other.announce([job], 100)
        await recorder.until(lambda recorder: len(recorder.messages) >= 2)
        assert recorder.messages == [node.encode(), b"x" + node.encode()]
    finally:
        await subscriber.aclose()


def test_no_index_is_a_key_of_a_node_or_of_another_job() -> None:
    jobs = ["a", "{a}", "a:b", "fleet", "all", "%7Ba%7D", "{n}:all"]
    keys = {KEYS.job(job) for job in jobs}
    assert len(keys) == len(jobs)
    assert not keys & {KEYS.fleet, KEYS.records(Topic("a")), KEYS.probe("a", "")}
    assert not any("{" in key for key in keys)
    assert Keys("other:").job("a") == "other:job:a"
