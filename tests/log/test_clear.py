"""clear.lua on every kind of store: the log begins anew, and its watchers are told."""

from __future__ import annotations

import redis

from streamer.core.cursor import START, Cursor
from streamer.core.names import Topic
from streamer.core.records import unpack_message
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Page, Retention
from tests.log.writing import KEYS, Messages, Writer, chain, stored

A, B = "job-a", "job{b}"


def test_a_cleared_log_is_empty_and_has_a_new_id(client: redis.Redis, writer: Writer, node: str) -> None:
    old = writer.append(A, None, B).log_id
    writer.log.clear()
    new = writer.log.read(None, START).log_id
    assert new not in ("", old)
    for job in (None, A, B):
        assert writer.log.read(job, START) == Page(new, 1, -1, False, -1, [], 0, None)
        assert writer.log.read(job, Cursor(old, 1, 0)).reset
    assert not client.exists(KEYS.jobs(node), *(KEYS.records(Topic(node, job)) for job in (None, A, B)))


def test_indexes_begin_anew_after_a_clear(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, A)
    client.hset(KEYS.log(node), "run", "another server")
    assert writer.append(A).epoch > 1
    writer.log.clear()
    appended = writer.append(A, None, A)
    assert (appended.log_id, appended.epoch, appended.next_index) == (writer.log.read(None, START).log_id, 1, 3)
    assert chain(stored(client, node, A)) == [(-1, 0), (0, 2)]


def test_a_clear_on_another_server_lets_the_next_append_begin_an_epoch(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A)
    client.hset(KEYS.log(node), "run", "another server")
    writer.log.clear()
    cursor = Cursor(writer.log.read(None, START).log_id, 1, -1)
    writer.append(A)
    page = writer.log.read(A, cursor)
    assert (page.reset, page.start, chain(page.updates)) == (False, -1, [(-1, 0)])


def test_whoever_listens_to_the_node_or_a_job_is_told_the_new_id_and_no_records(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A, B)
    with Messages(client, node, A, B) as messages:
        writer.log.clear()
        published = messages.until_now()
    new = writer.log.read(None, START).log_id
    assert sorted((channel, unpack_message(data)) for channel, data in published) == sorted(
        (KEYS.records(Topic(node, job)), (new, [])) for job in (A, B, None)
    )


def test_a_clear_where_there_is_no_log_makes_none_and_tells_nobody(
    client: redis.Redis, log: NodeLog, node: str
) -> None:
    with Messages(client, node, A, B) as messages:
        log.clear()
        assert messages.until_now() == []
    assert log.read(None, START).log_id == ""


def test_every_clear_gives_another_id(writer: Writer) -> None:
    ids = {writer.append(None).log_id}
    for _ in range(5):
        writer.log.clear()
        ids.add(writer.log.read(None, START).log_id)
    assert len(ids) == 6


def test_no_list_outlives_a_clear_whatever_the_times_to_live_were(client: redis.Redis, log: NodeLog, node: str) -> None:
    writer = Writer(log)
    writer.append(A, A)
    writer.retention = Retention(1, 100)
    writer.append(B)
    writer.append(B)
    log.clear()
    assert stored(client, node, A) == stored(client, node, B) == []
