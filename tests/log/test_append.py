"""append.lua on every kind of store: what it gives out, writes, drops, keeps and publishes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.cursor import MAX_INDEX, START, Cursor
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.core.records import pack_header, unpack_message
from streamer.log.fleet import Summary
from streamer.log.keys import Keys, escape, unescape
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Appended, Retention
from tests.log.writing import KEYS, Messages, Writer, batch, chain, forget_node, indexes, stored, tail
from tests.sentinels import replicates
from tests.servers import RedisServer, wait_until

A, B = "job-a", "job-b"


def test_indexes_go_on_from_zero_without_holes_over_all_batches(client: redis.Redis, writer: Writer, node: str) -> None:
    first = writer.append(A)
    assert (first.epoch, first.next_index, first.seen, first.appended) == (1, 1, 0, 1)
    assert writer.append(None, B, A) == Appended(first.log_id, 1, 4, 1, 3)
    assert writer.append(B) == Appended(first.log_id, 1, 5, 4, 1)
    assert indexes(stored(client, node)) == [0, 1, 2, 3, 4]
    assert [update.status for update in stored(client, node)] == ["1", "2", "3", "4", "5"]


def test_a_batch_without_entries_writes_nothing(client: redis.Redis, writer: Writer, node: str) -> None:
    assert writer.append().appended == 0
    assert not client.keys(f"streamer:{{{node}}}:*")


def test_a_batch_may_be_larger_than_what_lua_can_unpack(client: redis.Redis, writer: Writer, node: str) -> None:
    assert writer.append(*[A, None, B] * 4000).next_index == 12_000
    assert indexes(stored(client, node)) == list(range(12_000))
    assert indexes(stored(client, node, A)) == list(range(0, 12_000, 3))


def test_previous_is_the_index_before_in_the_same_job(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, None, A, B, A)
    writer.append(None, None)
    writer.append(B, B)
    writer.append(A)
    expected = [(-1, 0), (-1, 1), (0, 2), (-1, 3), (2, 4), (-1, 5), (-1, 6), (3, 7), (7, 8), (4, 9)]
    assert chain(stored(client, node)) == expected
    assert chain(stored(client, node, A)) == [(-1, 0), (0, 2), (2, 4), (4, 9)]
    assert chain(stored(client, node, B)) == [(-1, 3), (3, 7), (7, 8)]


def test_previous_goes_on_where_all_but_the_last_was_trimmed(client: redis.Redis, log: NodeLog, node: str) -> None:
    writer = Writer(log, Retention(1, 0))
    writer.append(A, A)
    writer.append(None, None, None)
    writer.append(A, A)
    assert chain(stored(client, node, A)) == [(5, 6)]
    assert chain(stored(client, node)) == [(5, 6)]


@pytest.mark.parametrize("first", [0, 1, 255, 256, 2**24 - 1, 2**32 - 2, 2**32, 10**14 - 1, 2**52 + 1, MAX_INDEX - 2])
def test_a_record_is_the_header_of_the_core_and_the_writers_tail(
    client: redis.Redis, writer: Writer, node: str, first: int
) -> None:
    start_at(client, writer.log, node, first)
    assert writer.append(A, None, A).next_index == first + 3
    headers = [(first, -1), (first + 1, -1), (first + 2, first)]
    records = [pack_header(1, index, before) + tail(n) for n, (index, before) in enumerate(headers, 1)]
    assert client.lrange(KEYS.records(Topic(node)), 0, -1) == records
    assert client.lrange(KEYS.records(Topic(node, A)), 0, -1) == [records[0], records[2]]


@pytest.mark.parametrize("epoch", [255, 256, 2**31, 2**32 - 1])
def test_an_epoch_stands_in_the_header_whatever_its_size(
    client: redis.Redis, writer: Writer, node: str, epoch: int
) -> None:
    writer.append(None)
    client.hset(KEYS.log(node), "epoch", epoch)
    assert writer.append(None).epoch == epoch
    assert client.lindex(KEYS.records(Topic(node)), -1) == pack_header(epoch, 1, -1) + tail(2)


def test_indexes_near_the_greatest_are_given_out_and_read_exactly(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    first = MAX_INDEX - 3
    log_id = start_at(client, writer.log, node, first)
    for _ in range(4):
        writer.append(A)
    page = writer.log.read(A, START)
    assert page.head == MAX_INDEX
    assert chain(page.updates) == [(-1, first), (first, first + 1), (first + 1, first + 2), (first + 2, MAX_INDEX)]
    for job in (None, A):
        for index in range(first, MAX_INDEX + 1):
            page = writer.log.read(job, Cursor(log_id, 1, index))
            assert (page.start, indexes(page.updates)) == (index, list(range(index + 1, MAX_INDEX + 1)))


def test_writers_interleave_in_one_order_and_each_keeps_its_own(
    log: NodeLog, any_store: RedisServer, client: redis.Redis, node: str
) -> None:
    def write(job: str) -> str:
        with NodeLog(any_store.url, Keys(), node) as log:
            writer = Writer(log)
            for size in range(1, 15):
                writer.append(*[job] * size)
        return job

    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(write, [f"job-{n}" for n in range(4)]))
    assert indexes(stored(client, node)) == list(range(4 * 105))
    assert {update.epoch for update in stored(client, node)} == {1}
    for job in jobs:
        own = stored(client, node, job)
        assert [update.status for update in own] == [str(n) for n in range(1, 106)]
        assert [update.previous for update in own] == [-1, *indexes(own)[:-1]]


@pytest.mark.parametrize(
    ("first", "count", "appended"), [(1, 3, 0), (2, 2, 0), (3, 1, 0), (1, 1, 0), (1, 5, 2), (3, 3, 2), (4, 2, 2)]
)
def test_what_a_writer_has_appended_is_not_appended_again(
    client: redis.Redis, writer: Writer, node: str, first: int, count: int, appended: int
) -> None:
    before = writer.append(A, B, A)
    again = writer.send(first, *[A] * count)
    assert again == Appended(before.log_id, 1, 3 + appended, 3, appended)
    assert [update.status for update in stored(client, node)] == [str(n) for n in range(1, 4 + appended)]
    assert chain(stored(client, node, A)) == [(-1, 0), (0, 2), (2, 3), (3, 4)][: 2 + appended]
    assert writer.send(first, *[A] * count).appended == 0


def test_a_retry_takes_no_part_of_another_writers_numbers(client: redis.Redis, writer: Writer, node: str) -> None:
    other = Writer(writer.log)
    for one in (writer, other):
        one.append(A, A)
    for one in (writer, other):
        assert one.send(1, A, A).appended == 0
    assert [update.status for update in stored(client, node)] == ["1", "2", "1", "2"]


def test_a_retry_after_redis_was_emptied_is_appended_to_a_new_log(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    old = writer.append(A, B, A)
    forget_node(client, node)
    new = writer.send(3, A, None)
    assert new.log_id != old.log_id
    assert (new.epoch, new.next_index, new.seen, new.appended) == (1, 2, 0, 2)
    assert chain(stored(client, node, A)) == [(-1, 0)]
    assert stored(client, node, B) == []


def test_where_redis_has_less_than_a_batch_begins_after_it_takes_nothing_and_says_what_it_has(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    first = writer.append(A, A)
    lacking = writer.log.append(writer.id, batch(5, A)._replace(after=4), writer.retention)
    assert lacking == Appended(first.log_id, 1, 2, 2, 0)
    assert indexes(stored(client, node)) == [0, 1]
    assert writer.log.append(writer.id, batch(3, A, A, A)._replace(after=2), writer.retention).appended == 3
    assert [update.status for update in stored(client, node)] == ["1", "2", "3", "4", "5"]


def test_a_batch_may_begin_behind_what_is_known_to_be_lost(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, A)
    assert writer.log.append(writer.id, batch(9, A)._replace(after=2), writer.retention).appended == 1
    assert [update.status for update in stored(client, node)] == ["1", "2", "9"]


def test_an_empty_batch_asks_what_redis_has(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, A)
    empty = batch(3)._replace(after=2)
    assert writer.log.append(writer.id, empty, writer.retention).seen == 2
    forget_node(client, node)
    assert writer.log.append(writer.id, empty, writer.retention).seen == 0
    assert not client.keys(f"streamer:{{{node}}}:*")


def test_asking_and_retrying_let_redis_remember_the_writer_longer(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A)
    for ask in (lambda: writer.send(2), lambda: writer.send(1, A)):
        client.expire(KEYS.writer(node, writer.id), 10)
        ask()
        assert client.ttl(KEYS.writer(node, writer.id)) > 24 * 3600


def test_a_server_that_is_no_longer_the_master_acknowledges_no_retry(own_store: RedisServer, node: str) -> None:
    with NodeLog(own_store.url, Keys(), node) as log, own_store.client() as client:
        writer = Writer(log)
        writer.append(A)
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(LogUnavailable, match="read only"):
            writer.send(1, A)


def test_a_retry_after_a_clear_is_not_appended_since_it_was_cleared(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A, A)
    writer.log.clear()
    assert writer.send(1, A, A).appended == 0
    assert stored(client, node) == []
    assert writer.send(2, A, A).next_index == 1
    assert [(update.status, update.previous) for update in stored(client, node, A)] == [("3", -1)]


def test_a_silent_writer_is_forgotten_in_the_end_and_not_before_a_day(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(None)
    assert client.ttl(KEYS.writer(node, writer.id)) > 24 * 3600


def test_all_and_each_job_keep_so_many_records_of_their_own(client: redis.Redis, log: NodeLog, node: str) -> None:
    writer = Writer(log, Retention(3, 0))
    writer.append(A, A, B)
    writer.append(None, B, None, None)
    assert indexes(stored(client, node)) == [4, 5, 6]
    assert indexes(stored(client, node, A)) == [0, 1]
    assert indexes(stored(client, node, B)) == [2, 4]
    writer.append(*[A] * 5)
    assert indexes(stored(client, node)) == [9, 10, 11]
    assert indexes(stored(client, node, A)) == [9, 10, 11]
    assert indexes(stored(client, node, B)) == [2, 4]


def test_a_jobs_list_expires_so_long_after_its_last_update(client: redis.Redis, log: NodeLog, node: str) -> None:
    writer = Writer(log, Retention(10, 100))
    writer.append(A, B)
    key = KEYS.records(Topic(node, A))
    assert 90 < client.ttl(key) <= 100
    client.expire(key, 50)
    writer.append(B, None)
    assert client.ttl(key) <= 50
    writer.append(A)
    assert 90 < client.ttl(key) <= 100
    assert client.ttl(KEYS.records(Topic(node))) == -1


def test_a_jobs_list_never_expires_where_its_time_to_live_is_0(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A)
    assert client.ttl(KEYS.records(Topic(node, A))) == -1
    writer.append(B)
    assert client.zcard(KEYS.jobs(node)) == 2


def test_a_list_that_was_to_expire_no_longer_does_once_the_setting_is_never(
    client: redis.Redis, log: NodeLog, node: str
) -> None:
    writer = Writer(log, Retention(10, 100))
    writer.append(A)
    writer.retention = Retention(10, 0)
    writer.append(A)
    assert client.ttl(KEYS.records(Topic(node, A))) == -1


def test_the_set_of_jobs_tells_the_last_index_of_each(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, B, None)
    assert client.zrange(KEYS.jobs(node), 0, -1, withscores=True) == [(escape(A).encode(), 0), (escape(B).encode(), 1)]
    writer.append(A, None)
    assert client.zrange(KEYS.jobs(node), 0, -1, withscores=True) == [(escape(B).encode(), 1), (escape(A).encode(), 3)]


def test_previous_survives_the_expiry_of_the_list(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, A, None)
    client.delete(KEYS.records(Topic(node, A)))  # as when its time is over
    writer.append(A, A)
    assert chain(stored(client, node, A)) == [(1, 3), (3, 4)]


def test_an_expired_job_is_forgotten_once_all_no_longer_holds_it(client: redis.Redis, log: NodeLog, node: str) -> None:
    writer = Writer(log, Retention(3, 1))
    writer.append(A, None)
    wait_until("the list expired", lambda: not client.exists(KEYS.records(Topic(node, A))))
    writer.append(None)
    assert client.zrange(KEYS.jobs(node), 0, -1) == [escape(A).encode()]  # all holds 0 to 2
    writer.append(B)
    assert client.zrange(KEYS.jobs(node), 0, -1) == [escape(B).encode()]
    assert writer.append(A).appended == 1
    assert [update.previous for update in stored(client, node, A)] == [-1]


def test_all_expired_jobs_are_forgotten_in_the_end(client: redis.Redis, log: NodeLog, node: str) -> None:
    jobs = [f"job-{n}" for n in range(20)]
    writer = Writer(log, Retention(3, 100))
    writer.append(*jobs)
    client.delete(*(KEYS.records(Topic(node, job)) for job in jobs))  # as when their time is over
    for _ in range(10):
        writer.append(None)
    assert client.zcard(KEYS.jobs(node)) == 0


def test_a_job_whose_list_is_kept_is_never_forgotten_whatever_the_times_to_live_are(
    client: redis.Redis, log: NodeLog, node: str
) -> None:
    """Else its list, which never expires, stays for ever and outlives a clear."""
    writer = Writer(log, Retention(2, 0))
    writer.append(A, A)
    writer.retention = Retention(2, 1)
    for _ in range(3):
        writer.append(None, None)
    assert client.zrange(KEYS.jobs(node), 0, -1) == [escape(A).encode()]
    assert chain(stored(client, node, A)) == [(-1, 0), (0, 1)]


def test_a_log_that_lost_its_hash_is_a_new_one_without_the_old_lists(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    old = writer.append(A, B, None)
    client.delete(KEYS.log(node))
    new = writer.append(B)
    assert new.log_id != old.log_id
    assert (new.epoch, new.next_index) == (1, 1)
    assert chain(stored(client, node)) == chain(stored(client, node, B)) == [(-1, 0)]
    assert stored(client, node, A) == []
    assert client.zrange(KEYS.jobs(node), 0, -1) == [escape(B).encode()]


def test_a_list_left_over_from_a_lost_log_is_not_gone_on_with(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, B)
    client.delete(KEYS.log(node), KEYS.jobs(node))
    writer.append(A)
    assert chain(stored(client, node, A)) == [(-1, 0)]


def test_a_list_left_over_from_a_lost_log_is_not_read_as_the_new_ones(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A, A, A)
    client.delete(KEYS.log(node), KEYS.jobs(node))
    writer.append(B)
    assert writer.log.read(A, START).updates == []


def test_an_emptied_database_gets_a_log_of_a_new_id(log: NodeLog, any_store: RedisServer, node: str) -> None:
    if any_store.kind == "cluster":
        pytest.skip("a cluster has one database, which others use")
    url = any_store.url.removesuffix("/0") + "/7"
    with NodeLog(url, Keys(), node) as log, redis.Redis.from_url(url, protocol=2) as client:
        writer = Writer(log)
        old = writer.append(A, None)
        client.flushdb()
        new = writer.append(A)
        assert new.log_id != old.log_id
        assert (new.epoch, new.next_index) == (1, 1)
        assert client.flushdb()


def test_each_touched_channel_gets_one_message_with_its_part_of_the_batch(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A)
    with Messages(client, node, A, B) as messages:
        log_id = writer.append(A, None, B, A).log_id
        writer.send(5, B, None)  # its first was appended before
        published = messages.until_now()
    everything, of_a, of_b = (stored(client, node, job) for job in (None, A, B))
    assert [(channel, unpack_message(data)) for channel, data in published] == [
        (KEYS.records(Topic(node)), (log_id, everything[1:5])),
        (KEYS.records(Topic(node, A)), (log_id, of_a[1:])),
        (KEYS.records(Topic(node, B)), (log_id, of_b)),
        (KEYS.records(Topic(node)), (log_id, everything[5:])),
    ]
    assert len(everything) == 6


def test_a_message_is_the_packed_id_and_then_the_very_bytes_of_the_list(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    with Messages(client, node, A, B) as messages:
        log_id = writer.append(None, None).log_id
        [(_, data)] = messages.until_now()
    records: list[bytes] = client.lrange(KEYS.records(Topic(node)), 0, -1)  # type: ignore[assignment]
    assert data == bytes([0xA0 + len(log_id)]) + log_id.encode() + b"".join(records)


def test_a_message_tells_also_what_is_trimmed_at_once(client: redis.Redis, log: NodeLog, node: str) -> None:
    with Messages(client, node, A, B) as messages:
        Writer(log, Retention(1, 0)).append(None, None, None)
        [(_, data)] = messages.until_now()
    assert indexes(unpack_message(data)[1]) == [0, 1, 2]


def test_what_was_appended_before_is_not_published_again(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A, None)
    with Messages(client, node, A, B) as messages:
        writer.send(1, A, None)
        assert messages.until_now() == []


def test_another_server_begins_another_epoch_and_indexes_go_on(client: redis.Redis, writer: Writer, node: str) -> None:
    first = writer.append(A, A)
    epochs = [first.epoch]
    for server in range(2):
        client.hset(KEYS.log(node), "run", f"server {server}")
        appended = writer.append(A, None)
        assert appended.log_id == first.log_id
        assert appended.epoch > epochs[-1]
        epochs.append(appended.epoch)
        assert writer.append(A).epoch == appended.epoch
    one, two, three = epochs
    assert [update.epoch for update in stored(client, node)] == [one] * 2 + [two] * 3 + [three] * 3
    assert chain(stored(client, node, A)) == [(-1, 0), (0, 1), (1, 2), (2, 4), (4, 5), (5, 7)]


def test_a_further_epoch_is_no_less_than_the_time_so_that_no_two_servers_call_theirs_the_same(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    assert writer.append(A).epoch == 1
    before = client.time()[0]
    client.hset(KEYS.log(node), "run", "another server")
    epoch = writer.append(A).epoch
    assert before <= epoch <= client.time()[0]
    client.hset(KEYS.log(node), mapping={"run": "a third", "epoch": epoch + 1000})
    assert writer.append(A).epoch == epoch + 1001


def test_a_retry_begins_no_epoch(client: redis.Redis, writer: Writer, node: str) -> None:
    writer.append(A)
    client.hset(KEYS.log(node), "run", "another server")
    assert writer.send(1, A).epoch == 1
    assert writer.append(A).epoch > 1


def test_a_server_that_was_a_replica_meanwhile_begins_another_epoch_though_it_never_stopped(
    own_store: RedisServer, node: str
) -> None:
    """What it had given out in its own may be lost, and its indexes given to others."""
    with RedisServer(own_store.kind) as other, NodeLog(own_store.url, Keys(), node) as log:
        writer = Writer(log)
        writer.append(A, None)
        _follow(other, own_store)
        _lead(other)
        lost = writer.append(A)
        _follow(own_store, other)
        _lead(own_store)
        with own_store.client() as client:
            # Of two servers that begin an epoch in the same second, neither knows of the other's.
            wait_until("the second is over", lambda: client.time()[0] > lost.epoch)
        again = writer.send(3, A)
    assert again.epoch > lost.epoch
    assert again.next_index == lost.next_index


def _follow(replica: RedisServer, master: RedisServer) -> None:
    """Have a server take over what another has, and follow it."""
    with replica.client() as asking, master.client() as asked:
        asked.config_set("repl-diskless-sync-delay", 0)
        asking.execute_command("REPLICAOF", "127.0.0.1", master.port)  # type: ignore[no-untyped-call]
    wait_until("it follows", lambda: replicates(replica))


def _lead(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]


def test_a_server_that_was_killed_goes_on_with_its_data_in_another_epoch(own_store: RedisServer, node: str) -> None:
    with NodeLog(own_store.url, Keys(), node) as log:
        writer = Writer(log)
        first = writer.append(A, None)
        own_store.kill()
        with pytest.raises(LogUnavailable):
            writer.append(A)
        own_store.start()
        again = writer.send(1, A, None, A)
        assert again == Appended(first.log_id, again.epoch, 3, 2, 1)
        assert again.epoch > first.epoch
        assert [update.epoch for update in log.read_all(None)] == [first.epoch, first.epoch, again.epoch]
        assert chain(log.read_all(A)) == [(-1, 0), (0, 2)]


def test_the_old_server_emptied_begins_a_new_log(own_store: RedisServer, node: str) -> None:
    with NodeLog(own_store.url, Keys(), node) as log, own_store.client() as client:
        writer = Writer(log)
        first = writer.append(A, None)
        client.flushall()
        client.script_flush()
        second = writer.append(A)
        assert second.log_id != first.log_id
        assert (second.epoch, second.next_index) == (1, 1)


@pytest.mark.parametrize("key", ["all", "job:job-a", "jobs", "log"])
def test_an_append_that_fails_on_a_key_of_another_type_leaves_the_others_alone(
    client: redis.Redis, writer: Writer, node: str, key: str
) -> None:
    writer.append(A, B, None)
    name = f"streamer:{{{node}}}:{key}"
    client.delete(name)
    client.set(name, "not what it should be")
    before = stored_lists(client, node)
    with pytest.raises(LogUnavailable, match="WRONGTYPE"):
        writer.append(A)
    assert stored_lists(client, node) == before


def test_an_append_that_may_not_publish_is_written_nevertheless(real_store: RedisServer, node: str) -> None:
    """Redis 7 lets a new user into no channel unless told so, and publishing is only a hint."""
    with real_store.client() as client, as_user(real_store, node, "+@all", "resetchannels") as log:
        writer = Writer(log)
        writer.append(A)
        assert writer.append(A, None) == writer.send(2, A, None)._replace(seen=1, appended=2)
        assert indexes(stored(client, node)) == [0, 1, 2]
        assert indexes(stored(client, node, A)) == [0, 1]
        log.announce([node], 100)
        log.report(Summary(1, "s", None, 0))
        assert client.zrange(KEYS.job(node), 0, -1) == [node.encode()]
        assert client.hexists(KEYS.fleet, node)
        log.clear()
        assert stored(client, node) == []
        assert not client.hexists(KEYS.fleet, node)


def test_an_append_that_may_not_ask_which_server_it_is_on_fails_and_writes_nothing(
    real_store: RedisServer, node: str
) -> None:
    """Counting it as the same server for ever would lose what watchers must see again after a failover."""
    with real_store.client() as client, as_user(real_store, node, "+@all", "-info", "allchannels") as log:
        with pytest.raises(LogUnavailable, match="the user needs the right to run INFO"):
            Writer(log).append(A)
        assert not client.keys(f"streamer:{{{node}}}:*")


@pytest.mark.parametrize("right", ["zadd", "ltrim", "expire"])
def test_an_append_that_may_not_do_all_it_has_to_fails_and_writes_nothing(
    real_store: RedisServer, node: str, right: str
) -> None:
    with real_store.client() as client, as_user(real_store, node, "+@all", f"-{right}", "allchannels") as log:
        with pytest.raises(LogUnavailable):
            Writer(log, Retention(10, 100)).append(A)
        assert not client.keys(f"streamer:{{{node}}}:*")


@pytest.mark.parametrize("right", ["hset", "set"])
def test_a_right_that_is_taken_away_later_makes_appends_fail_and_doubles_nothing(
    real_store: RedisServer, node: str, right: str
) -> None:
    with real_store.client() as client, as_user(real_store, node, "+@all", "allchannels") as log:
        writer = Writer(log, Retention(10, 100))
        writer.append(A)
        client.execute_command("ACL", "SETUSER", node, f"-{right}")
        for _ in range(3):
            with pytest.raises(LogUnavailable):
                writer.send(2, A, B)
        assert indexes(stored(client, node)) == [0]
        client.execute_command("ACL", "SETUSER", node, f"+{right}")
        writer.append(A, B)
        assert indexes(stored(client, node)) == [0, 1, 2]


def test_an_append_to_a_redis_without_memory_fails_and_writes_nothing(own_store: RedisServer, node: str) -> None:
    with own_store.client() as client, NodeLog(own_store.url, Keys(), node) as log:
        writer = Writer(log)
        writer.append(A)
        client.config_set("maxmemory", 1)
        for jobs in ([A], [B], [None]):
            with pytest.raises(LogUnavailable, match="maxmemory"):
                writer.send(2, *jobs)
        client.config_set("maxmemory", 0)
        assert indexes(stored(client, node)) == [0]
        assert writer.send(2, B).next_index == 2


@contextmanager
def as_user(store: RedisServer, node: str, *rights: str) -> Iterator[NodeLog]:
    """The node's log, as a user of Redis who has these rights."""
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", node, "on", "nopass", "~*", *rights)
        with NodeLog(store.url.replace("redis://", f"redis://{node}:any@"), Keys(), node) as log:
            yield log
        client.acl_deluser(node)


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("{}:%"), min_size=1, max_size=12)


@given(name=names, other=names)
def test_an_escaped_name_is_unescaped_again_and_no_others(name: str, other: str) -> None:
    assert unescape(escape(name)) == name
    assert (escape(name) == escape(other)) == (name == other)


@given(node=names, job=names, other_node=names, other_job=names, writer=st.text("0123456789abcdef", min_size=1))
def test_no_two_keys_are_the_same_and_none_leaves_its_nodes_hash_tag(
    node: str, job: str, other_node: str, other_job: str, writer: str
) -> None:
    def all_of(node: str, *jobs: str) -> list[str]:
        topics = [Topic(node), *(Topic(node, job) for job in jobs)]
        return [
            *map(KEYS.records, topics),
            KEYS.log(node),
            KEYS.jobs(node),
            KEYS.claim(node),
            KEYS.writer(node, writer),
        ]

    mine = all_of(node, *{job, other_job})
    assert len({KEYS.fleet, *mine}) == len(mine) + 1
    assert {hash_tag(key) for key in mine} == {escape(node)}
    if other_node != node:
        assert not {*mine} & {*all_of(other_node, job, other_job)}


@pytest.mark.parametrize(
    "pair", [("a:b", "a%3Ab"), ("{a}", "%7Ba%7D"), ("a", "a}"), ("ü", "u\u0308"), ("a b", "a%20b"), ("%", "%25")]
)
def test_names_that_look_alike_have_logs_of_their_own(
    log: NodeLog, any_store: RedisServer, node: str, pair: tuple[str, str]
) -> None:
    for name in pair:
        with NodeLog(any_store.url, Keys(), node + name) as log:
            writer = Writer(log)
            assert writer.append(*pair, None).next_index == 3
            assert [indexes(log.read_all(job)) for job in (*pair, None)] == [[0], [1], [0, 1, 2]]


def test_prefixes_keep_logs_apart(log: NodeLog, any_store: RedisServer, node: str) -> None:
    for prefix in ("streamer:", "other:", ""):
        with NodeLog(any_store.url, Keys(prefix), node) as log:
            assert Writer(log).append(A).next_index == 1


def start_at(client: redis.Redis, log: NodeLog, node: str, index: int) -> str:
    """Have an empty log whose next index is this; return its id."""
    log_id = Writer(log).append(None).log_id
    log.clear()
    client.hset(KEYS.log(node), mapping={"id": log_id, "next": index, "epochs": f"1:{index},"})
    return log_id


def stored_lists(client: redis.Redis, node: str) -> dict[bytes, list[bytes]]:
    """Every list of a node."""
    keys = client.scan_iter(f"streamer:{{{node}}}:*", count=10_000)
    return {key: client.lrange(key, 0, -1) for key in keys if client.type(key) == b"list"}  # type: ignore[misc]


def hash_tag(key: str) -> str:
    """What a cluster hashes of a key: what stands between the first brace and the next that closes."""
    return key.partition("{")[2].partition("}")[0]
