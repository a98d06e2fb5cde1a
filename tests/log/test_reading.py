"""The log as a gateway sees it: pages, nodes, jobs, and a Redis that does not answer."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import redis

from streamer.core.cursor import START, Cursor
from streamer.core.entries import Batch, Entry
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.core.records import UNREADABLE, pack_tail
from streamer.log import connecting
from streamer.log.fleet import JobSummary, Summary
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import FLEET_PAGE, MOST_JOBS, Head, Reader
from streamer.log.scripts import Retention
from tests.log.relay import Relay
from tests.log.writing import ALL_FOR_EVER, KEYS, Writer, indexes
from tests.servers import RedisServer

A, B = "job-a", "job-b"
DEADLINE_S = 20


@pytest.fixture
async def reader(any_store: RedisServer, log: NodeLog) -> AsyncIterator[Reader]:
    reader = Reader(any_store.url, KEYS)
    yield reader
    await reader.aclose()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis gets little time to answer."""
    monkeypatch.setattr(connecting, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_S", 0.2)


async def test_a_page_is_the_one_that_a_node_reads(reader: Reader, writer: Writer, node: str) -> None:
    log_id = writer.append(A, None, B, A).log_id
    for job in (None, A, B, "unknown"):
        for cursor in (START, Cursor(log_id, 1, 1), Cursor(log_id, 1, 3), Cursor("ab", 1, 1), Cursor("", 0, 2)):
            for limit in (0, 1, 500):
                page = await reader.read(Topic(node, job), cursor, limit)
                assert page == writer.log.read(job, cursor, limit)


async def test_many_may_read_at_once(reader: Reader, writer: Writer, node: str) -> None:
    log_id = writer.append(*[A] * 30).log_id
    pages = await asyncio.gather(*(reader.read(Topic(node, A), Cursor(log_id, 1, n), 1) for n in range(29)))
    assert [indexes(page.updates) for page in pages] == [[n] for n in range(1, 30)]


async def test_before_last_is_the_index_behind_which_so_many_stand(reader: Reader, log: NodeLog, node: str) -> None:
    assert await reader.before_last(Topic(node), 3) is None
    writer = Writer(log, Retention(6, 0))
    writer.append(A, None, A, B, A, B, A, None)  # all keeps 2 to 7
    for job, expected in (
        (None, [7, 6, 5, 4, 3, 2, None, None]),
        (A, [6, 4, 2, 0, None, None]),
        (B, [5, 3, None, None]),
    ):
        assert [await reader.before_last(Topic(node, job), count) for count in range(len(expected))] == expected
        for count, index in enumerate(expected[:-2]):
            assert index is not None
            page = await reader.read(Topic(node, job), Cursor("", 0, index))
            assert len(page.updates) == count


async def test_before_last_counts_indexes_beyond_32_bits(
    reader: Reader, client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(None)
    writer.log.clear()
    client.hset(KEYS.log(node), "next", 2**53 - 3)
    writer.append(A, A, A)
    found = [await reader.before_last(Topic(node, A), count) for count in range(4)]
    assert found == [2**53 - 1, 2**53 - 2, 2**53 - 3, None]


async def test_what_is_left_of_a_lost_log_does_not_count(
    reader: Reader, client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(*[A] * 5)
    client.delete(KEYS.log(node), KEYS.jobs(node))
    Writer(writer.log).append(*[B] * 9)
    assert client.llen(KEYS.records(Topic(node, A))) == 5
    assert [await reader.before_last(Topic(node, A), count) for count in range(3)] == [None] * 3
    assert await reader.before_last(Topic(node, B), 2) == 6


async def test_heads_are_where_topics_stand(reader: Reader, writer: Writer, node: str) -> None:
    log_id = writer.append(A, None, B, A, None).log_id
    topics = [
        Topic(node, A),
        Topic(node),
        Topic(node, B),
        Topic(node, "unknown"),
        Topic(f"{node}-unknown"),
        Topic(node),
    ]
    lasts = [3, 4, 2, None]
    known = [Head(log_id, 1, last) for last in lasts]
    assert await reader.heads(topics) == [*known, Head("", 0, -1), Head(log_id, 1, 4)]
    assert await reader.heads([Topic(f"{node}-unknown", A)]) == [Head("", 0, -1)]
    assert await reader.heads([]) == []


async def test_heads_are_those_at_which_reading_ends(reader: Reader, writer: Writer, node: str) -> None:
    jobs = ["job{1}", "a:b%3A", "ünï", "100%"]
    for job in jobs:
        writer.append(job, None)
    heads = await reader.heads([Topic(node, job) for job in (*jobs, None)])
    for job, head in zip((*jobs, None), heads, strict=True):
        page = await reader.read(Topic(node, job), START)
        assert head == Head(page.log_id, page.epoch, page.updates[-1].index)


async def test_the_head_of_a_log_started_anew_is_before_its_first_update(
    reader: Reader, writer: Writer, node: str
) -> None:
    old = writer.append(A).log_id
    writer.log.clear()
    node_head, job_head = await reader.heads([Topic(node), Topic(node, A)])
    assert node_head is not None
    assert node_head.log_id not in ("", old)
    assert (node_head.epoch, node_head.last) == (1, -1)
    assert job_head == Head(node_head.log_id, 1, None)


async def test_the_head_of_a_job_that_has_expired_is_known_until_the_job_is_forgotten(
    reader: Reader, client: redis.Redis, writer: Writer, node: str
) -> None:
    log_id = writer.append(A, B).log_id
    client.delete(KEYS.records(Topic(node, A)))  # as when its time is over
    assert await reader.heads([Topic(node, A)]) == [Head(log_id, 1, 0)]
    client.zrem(KEYS.jobs(node), A)
    assert await reader.heads([Topic(node, A)]) == [Head(log_id, 1, None)]


async def test_the_head_of_a_log_whose_lists_are_trimmed_counts_all_that_was_ever_appended(
    reader: Reader, log: NodeLog, node: str
) -> None:
    log_id = Writer(log, Retention(2, 0)).append(A, None, A, None, None, None).log_id
    assert await reader.heads([Topic(node), Topic(node, A)]) == [Head(log_id, 1, 5), Head(log_id, 1, 2)]


async def test_heads_count_beyond_32_bits(reader: Reader, client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(None)
    client.hset(KEYS.log(node), "next", 2**53 - 3)
    log_id = writer.append(A, None).log_id
    assert await reader.heads([Topic(node), Topic(node, A)]) == [Head(log_id, 1, 2**53 - 2), Head(log_id, 1, 2**53 - 3)]


@pytest.mark.parametrize(
    "damage",
    [{"next": "x"}, {"next": ""}, {"next": "1.5"}, {"epoch": "x"}, {"epoch": "9" * 5000}, {"id": b"\xff"}],
)
async def test_a_head_that_cannot_be_read_costs_only_its_own_topics(
    reader: Reader, client: redis.Redis, writer: Writer, node: str, damage: dict[str, bytes | str]
) -> None:
    other = f"{node}-other"
    with NodeLog(reader._url, KEYS, other) as other_log:
        log_id = Writer(other_log).append(None).log_id
    writer.append(A)
    client.hset(KEYS.log(node), mapping=damage)  # type: ignore[arg-type]
    assert await reader.heads([Topic(node), Topic(other)]) == [None, Head(log_id, 1, 0)]


@pytest.mark.parametrize("score", ["inf", "-inf"])
async def test_a_jobs_head_that_is_no_number_costs_only_its_own_topic(
    reader: Reader, client: redis.Redis, writer: Writer, node: str, score: str
) -> None:
    log_id = writer.append(A, B).log_id
    client.zadd(KEYS.jobs(node), {A: score})
    assert await reader.heads([Topic(node, A), Topic(node, B)]) == [None, Head(log_id, 1, 1)]


async def test_a_key_of_another_type_costs_only_its_own_topics_their_head(real_store: RedisServer, node: str) -> None:
    """Not on fakeredis, whose server closes a connection on which it answers with an error."""
    reader = Reader(real_store.url, KEYS)
    with real_store.client() as client, NodeLog(real_store.url, KEYS, node) as log:
        log_id = Writer(log).append(A).log_id
        client.set(KEYS.log("strange"), "x")
        client.set(KEYS.jobs(node), "x")
        topics = [Topic("strange"), Topic(node), Topic("strange", A), Topic(node, A)]
        assert await reader.heads(topics) == [None, Head(log_id, 1, 0), None, None]
        with pytest.raises(LogUnavailable, match="WRONGTYPE"):
            await reader.before_last(Topic(node, A), 1)
        client.delete(KEYS.log("strange"), KEYS.jobs(node))
    await reader.aclose()


async def test_nodes_are_those_that_have_reported_with_their_last_summary(
    any_store: RedisServer, log: NodeLog, node: str
) -> None:
    keys = Keys(f"{node}:")
    reader = Reader(any_store.url, keys)
    assert await reader.nodes() == {}
    summaries = {
        "ü{b}:%": Summary(1, "running", None, 0),
        "a": Summary(2**53 - 1, "läuft", "job:{1}", 2**53 - 1),
        "z": Summary(3, "running", "job", 5),
    }
    for name, summary in summaries.items():
        with NodeLog(any_store.url, keys, name) as own:
            own.report(Summary(0, "starting", None, 0))
            own.report(summary)
    assert await reader.nodes() == summaries
    assert list(await reader.nodes()) == ["a", "z", "ü{b}:%"]
    await reader.aclose()


async def test_each_job_comes_with_its_last_update(reader: Reader, log: NodeLog, node: str) -> None:
    assert await reader.jobs(node) == []
    names = ["job{1}", "a:b%3A", "ünï", "100%", "job-a"]
    for number, name in enumerate(names):
        entries = [Entry(name, pack_tail("starting", {}, 7)), Entry(name, pack_tail("running", {}, number))]
        log.append(f"writer-{number}", Batch(1, entries), ALL_FOR_EVER)
    assert sorted(await reader.jobs(node), key=lambda job: job.index) == [
        JobSummary(name, number, "running", 2 * number + 1) for number, name in enumerate(names)
    ]


async def test_the_job_last_updated_comes_first(reader: Reader, writer: Writer, node: str) -> None:
    writer.append(A, B)
    assert [job.job for job in await reader.jobs(node)] == [B, A]
    writer.append(A)
    assert [(job.job, job.index) for job in await reader.jobs(node)] == [(A, 2), (B, 1)]


async def test_jobs_that_have_expired_are_not_listed(
    reader: Reader, client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A, B)
    client.delete(KEYS.records(Topic(node, A)))  # as when its time is over
    assert [job.job for job in await reader.jobs(node)] == [B]


async def test_of_very_many_jobs_the_latest_are_listed(reader: Reader, writer: Writer, node: str) -> None:
    jobs = [f"job-{n}" for n in range(MOST_JOBS + 10)]
    writer.append(*jobs)
    assert [job.job for job in await reader.jobs(node)] == jobs[:9:-1]


async def test_a_job_whose_last_record_cannot_be_read_is_listed_beside_the_others(
    reader: Reader, client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A, B)
    client.lset(KEYS.records(Topic(node, B)), 0, "x" * 40)
    client.zadd(KEYS.jobs(node), {b"\xff": 5, b"control\n": 6})
    listed = await reader.jobs(node)
    assert [(job.job, job.status) for job in listed] == [(B, UNREADABLE), (A, "1")]
    assert await reader.before_last(Topic(node, B), 0) is None


async def test_a_large_fleet_is_read_whole(any_store: RedisServer, client: redis.Redis, node: str) -> None:
    keys = Keys(f"{node}:")
    summaries = {f"node-{n:04}": Summary(n, "s", None, n) for n in range(3 * FLEET_PAGE)}
    client.hset(keys.fleet, mapping={name: summary.pack() for name, summary in summaries.items()})
    reader = Reader(any_store.url, keys)
    found = await reader.nodes()
    assert found == summaries
    assert list(found) == sorted(found)
    pages = [page async for page in reader.fleet()]
    assert {name: each.index for page in pages for name, each in page.items()} == {
        name: summary.index for name, summary in summaries.items()
    }
    assert len(pages) > 1
    await reader.aclose()
    client.delete(keys.fleet)


@pytest.mark.parametrize(
    ("name", "summary"),
    [(b"n", b"x"), (b"n", b"\x91\xc0"), *((name, Summary(1, "s", None, 0).pack()) for name in (b"\xff", b"", b"\x1b"))],
)
async def test_a_node_whose_entry_in_the_fleet_cannot_be_read_does_not_hide_the_others(
    any_store: RedisServer, client: redis.Redis, node: str, name: bytes, summary: bytes
) -> None:
    keys = Keys(f"{node}:")
    client.hset(keys.fleet, mapping={name: summary, b"other": Summary(1, "s", None, 0).pack()})
    reader = Reader(any_store.url, keys)
    assert list(await reader.nodes()) == ["other"]
    await reader.aclose()


async def test_a_key_of_another_type_is_told(reader: Reader, client: redis.Redis, node: str) -> None:
    client.set(KEYS.log(node), "x")
    client.set(KEYS.jobs(node), "x")
    client.set(KEYS.records(Topic(node)), "x")
    for asked in (reader.read(Topic(node), START), reader.jobs(node), reader.before_last(Topic(node), 1)):
        with pytest.raises(LogUnavailable, match="WRONGTYPE"):
            await asked


async def test_a_reader_goes_on_after_errors_and_emptied_scripts(
    reader: Reader, client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A)
    assert indexes((await reader.read(Topic(node), START)).updates) == [0]
    client.script_flush()
    assert indexes((await reader.read(Topic(node), START)).updates) == [0]
    await reader.ping()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("ask", ["ping", "nodes", "jobs", "read", "before_last", "heads"])
async def test_a_redis_that_accepts_and_stays_silent_is_unavailable_in_time(valkey: RedisServer, ask: str) -> None:
    async with Relay(valkey.url, silent_connections=1000) as relay, asyncio.timeout(DEADLINE_S):
        reader = Reader(relay.url, KEYS)
        with pytest.raises(LogUnavailable, match="does not answer as it should: it takes too long"):
            await asking(reader, ask)
        assert relay.accepted
        relay.silent_connections = 0
        await asking(reader, ask)
        await reader.aclose()


@pytest.mark.usefixtures("impatient")
async def test_a_redis_that_stops_amid_its_work_is_unavailable_and_later_gives_each_its_own_answer(
    own_store: RedisServer, node: str
) -> None:
    assert own_store.process is not None
    with NodeLog(own_store.url, KEYS, node) as log:
        log_id = Writer(log).append(*[None] * 9).log_id
        reader = Reader(own_store.url, KEYS)
        await reader.ping()
        own_store.process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S):
            attempts = await asyncio.gather(
                *(reader.read(Topic(node), Cursor(log_id, 1, n), 1) for n in range(5)), return_exceptions=True
            )
        assert all(isinstance(attempt, LogUnavailable) for attempt in attempts)
        with pytest.raises(LogUnavailable):
            log.read(None, START)
        own_store.process.send_signal(signal.SIGCONT)
        await reader.ping()
        pages = await asyncio.gather(*(reader.read(Topic(node), Cursor(log_id, 1, n), 1) for n in range(8)))
        assert [indexes(page.updates) for page in pages] == [[n] for n in range(1, 9)]
        assert indexes(log.read(None, START).updates) == list(range(9))
        await reader.aclose()


@pytest.mark.parametrize("ask", ["ping", "nodes", "jobs", "read", "before_last", "heads"])
async def test_a_call_may_be_cancelled_and_the_next_gets_its_own_answer(
    own_store: RedisServer, node: str, ask: str
) -> None:
    assert own_store.process is not None
    reader = Reader(own_store.url, KEYS)
    await reader.ping()
    own_store.process.send_signal(signal.SIGSTOP)
    call = asyncio.create_task(asking(reader, ask))
    await asyncio.sleep(0)  # it starts; whether it has sent anything makes no difference
    call.cancel()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(asyncio.CancelledError):
            await call
    own_store.process.send_signal(signal.SIGCONT)
    assert await reader.before_last(Topic(node), 3) is None
    assert await reader.nodes() == {}
    assert await reader.jobs(node) == []
    await reader.aclose()


async def test_a_reader_finds_a_redis_again_that_was_killed_and_started(own_store: RedisServer, node: str) -> None:
    with NodeLog(own_store.url, KEYS, node) as log:
        Writer(log).append(A)
    reader = Reader(own_store.url, KEYS)
    await asyncio.gather(*(reader.ping() for _ in range(5)))
    own_store.kill()
    with pytest.raises(LogUnavailable):
        await reader.read(Topic(node), START)
    own_store.start()
    assert indexes((await reader.read(Topic(node), START)).updates) == [0]
    await reader.aclose()


async def test_connections_that_died_while_they_idled_cost_no_error(own_store: RedisServer, node: str) -> None:
    reader = Reader(own_store.url, KEYS)
    await asyncio.gather(*(reader.ping() for _ in range(5)))
    with own_store.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    calls = ["read", "before_last", "heads", "read", "heads"]
    await asyncio.gather(*(asking(reader, call) for call in calls))
    await reader.aclose()


async def asking(reader: Reader, ask: str) -> None:
    """One of the reader's calls."""
    await {
        "ping": reader.ping,
        "nodes": reader.nodes,
        "jobs": lambda: reader.jobs("n"),
        "read": lambda: reader.read(Topic("n"), START),
        "before_last": lambda: reader.before_last(Topic("n"), 1),
        "heads": lambda: reader.heads([Topic("n"), Topic("n", A)]),
    }[ask]()
