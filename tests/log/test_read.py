"""read.lua on every kind of store: from which cursor on it gives what, and how much of it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from streamer.core.cursor import START, Cursor
from streamer.core.entries import Batch, Entry
from streamer.core.names import Topic
from streamer.core.records import UNREADABLE, Update, pack_tail
from streamer.log import scripts
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Page, Retention, new_id
from tests.log.writing import ALL_FOR_EVER, KEYS, Writer, indexes
from tests.servers import RedisServer, wait_until

A, B = "job-a", "job-b"


@pytest.mark.parametrize("kept", [1000, 17])
def test_paging_from_every_position_with_every_limit_gives_a_slice(log: NodeLog, node: str, kept: int) -> None:
    """On a job the position is found by bisection, which a plain search through the list must agree with."""
    writer = Writer(log, Retention(kept, 0))
    rng = random.Random(7)
    jobs = [rng.choice([A, A, B, None]) for _ in range(40)]
    log_id = writer.append(*jobs).log_id
    of = {job: [index for index, each in enumerate(jobs) if job in (each, None)][-kept:] for job in (None, A, B)}
    for job, all_kept in of.items():
        for index in range(-1, 40):
            following = [each for each in all_kept if each > index]
            for limit in (0, 1, 2, 7, len(following), len(following) + 1, 500):
                page = log.read(job, Cursor(log_id, 1, index), limit)
                assert indexes(page.updates) == following[:limit]
                assert (page.log_id, page.epoch, page.head, page.reset) == (log_id, 1, 39, False)
                assert (page.start, page.more) == (index, max(0, len(following) - limit))


@pytest.mark.parametrize("job", [None, A])
def test_a_long_list_is_read_page_by_page(log: NodeLog, writer: Writer, job: str | None) -> None:
    writer.append(*[A] * 1234)
    sizes, cursor = [], START
    while (page := log.read(job, cursor)).updates:
        sizes.append(len(page.updates))
        cursor = page.updates[-1].cursor(page.log_id)
    assert sizes == [500, 500, 234]
    assert indexes(log.read_all(job)) == list(range(1234))


@pytest.mark.parametrize("size", [100, 10_000, 100_000, 1_000_000])
def test_a_page_is_bounded_in_bytes_but_has_at_least_one_record(log: NodeLog, size: int) -> None:
    count = min(500, 6_000_000 // size)
    tail = pack_tail("s", {"x": "y" * size}, 0)
    for first in range(1, count + 1, 20):
        entries = [Entry(A, tail)] * min(20, count + 1 - first)
        log.append("writer", Batch(first, entries), ALL_FOR_EVER)
    for job in (None, A):
        page = log.read(job, START)
        assert page.updates
        assert len(page.updates) * size <= 2 * scripts.PAGE_BYTES
        assert len(page.updates) + page.more == count
        assert indexes(log.read_all(job)) == list(range(count))


def test_missing_tells_what_is_no_longer_kept(log: NodeLog) -> None:
    writer = Writer(log, Retention(3, 0))
    log_id = writer.append(A, B, A, A, B, A, A, B).log_id  # all keeps 5 to 7, A keeps 3, 5, 6
    for job, index, missing in (
        (None, -1, (0, 4)),
        (None, 3, (4, 4)),
        (None, 4, None),
        (None, 6, None),
        (None, 7, None),
        (A, -1, (0, 2)),
        (A, 0, (1, 2)),
        (A, 1, (2, 2)),
        (A, 2, None),
        (A, 4, None),
        (B, -1, None),
        (B, 2, None),
    ):
        assert log.read(job, Cursor(log_id, 1, index)).missing == missing, (job, index)
        assert log.read(job, Cursor("", 0, index)).missing == missing, (job, index)


def test_a_watcher_whose_missed_updates_have_expired_is_told(client: redis.Redis, log: NodeLog, node: str) -> None:
    """Design, section 5: past the retained history it is told what it missed, never silently skipped."""
    writer = Writer(log, Retention(10, 100))
    log_id = writer.append(A, A, A).log_id
    client.delete(KEYS.records(Topic(node, A)))  # as when its time is over
    writer.append(A)
    assert log.read(A, Cursor(log_id, 1, 0)).missing == (1, 2)
    assert log.read(A, Cursor(log_id, 1, 2)).missing is None


def test_a_watcher_is_told_what_it_missed_of_a_job_that_the_log_has_forgotten(
    client: redis.Redis, log: NodeLog, node: str
) -> None:
    writer = Writer(log, Retention(5, 100))
    log_id = writer.append(A, A, A, A).log_id
    client.delete(KEYS.records(Topic(node, A)))  # as when its time is over
    for _ in range(8):
        writer.append(None)
    assert client.zscore(KEYS.jobs(node), A) is None
    writer.append(A, B)
    assert log.read(A, Cursor(log_id, 1, 0)).missing == (1, 11)
    assert log.read(A, Cursor(log_id, 1, 3)).missing is None, "it had everything"
    for job in (A, B):
        assert log.read(job, START).missing is None, "whoever joins has missed nothing"


def test_a_watcher_is_told_what_has_expired_also_where_nothing_follows(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    log_id = writer.append(A, B, A, A, B).log_id
    client.delete(KEYS.records(Topic(node, A)))  # as when its time is over
    for index, missing in ((-1, (0, 3)), (0, (1, 3)), (2, (3, 3)), (3, None), (4, None)):
        for limit in (0, 1, 500):
            page = writer.log.read(A, Cursor(log_id, 1, index), limit)
            assert page == Page(log_id, 1, 4, False, index, [], 0, missing)
    assert writer.log.read(B, START, limit=0).missing is None


@pytest.mark.parametrize("job", [None, A])
def test_a_node_without_a_log_has_nothing(log: NodeLog, job: str | None) -> None:
    nothing = Page("", 0, -1, False, -1, [], 0, None)
    assert log.read(job, START) == nothing
    for cursor in (Cursor("ab", 1, -1), Cursor("ab", 1, 5), Cursor("", 0, 0)):
        assert log.read(job, cursor) == nothing._replace(reset=True)


@pytest.mark.parametrize("job", [None, A])
def test_what_a_lost_log_left_over_is_not_read(client: redis.Redis, writer: Writer, node: str, job: str | None) -> None:
    log_id = writer.append(A, A).log_id
    client.delete(KEYS.log(node))
    assert writer.log.read(job, START) == Page("", 0, -1, False, -1, [], 0, None)
    assert writer.log.read(job, Cursor(log_id, 1, 0)).reset


def test_an_unknown_job_has_nothing_and_the_nodes_head(writer: Writer) -> None:
    log_id = writer.append(A, A).log_id
    for cursor in (START, Cursor(log_id, 1, 1)):
        assert writer.log.read(B, cursor) == Page(log_id, 1, 1, False, cursor.index, [], 0, None)


@pytest.mark.parametrize(
    ("cursor", "reset"),
    [
        (("0" * 12, 1, 0), True),
        (("0" * 12, 0, -1), True),
        (("its", 2, 0), False),  # another master began that epoch; this one has lost it, or never had it
        (("its", 2, -1), False),
        (("its", 2, 5), False),
        (("its", 1, 2), False),
        (("its", 1, 3), False),  # the server lost its tail: resume at the head
        (("its", 0, 3), False),
        (("", 0, 2), False),
        (("", 0, 3), True),
        (("", 0, 2**53 - 1), True),
        (("", 0, -1), False),
    ],
)
@pytest.mark.parametrize("job", [None, A])
def test_a_cursor_of_another_log_or_ahead_of_it_gives_a_reset(
    writer: Writer, cursor: tuple[str, int, int], reset: bool, job: str | None
) -> None:
    log_id = writer.append(A, A, A).log_id
    page = writer.log.read(job, Cursor(log_id if cursor[0] == "its" else cursor[0], *cursor[1:]))
    assert (page.log_id, page.epoch, page.head, page.reset) == (log_id, 1, 2, reset)
    assert page.start == (-1 if reset else min(cursor[2], 2))
    assert indexes(page.updates) == ([] if reset else list(range(page.start + 1, 3)))


@pytest.mark.parametrize("job", [None, A])
def test_a_cursor_of_an_old_epoch_goes_on_where_that_epoch_ended(
    client: redis.Redis, writer: Writer, node: str, job: str | None
) -> None:
    """The first gave out 0 to 2 and then some that are lost, the second 3 and 4, the third the rest (KIP-101)."""
    first = writer.append(A, A, A)
    epochs = [0, first.epoch]
    for count in (2, 4):
        client.hset(KEYS.log(node), "run", new_id())
        epochs.append(writer.append(*[A] * count).epoch)
    for which, index, start in (
        (1, -1, -1),
        (1, 1, 1),
        (1, 2, 2),
        (1, 3, 2),
        (1, 100, 2),
        (2, 1, 1),
        (2, 4, 4),
        (2, 5, 4),
        (2, 100, 4),
        (3, 5, 5),
        (3, 8, 8),
        (3, 100, 8),
        (0, 7, 7),
    ):
        page = writer.log.read(job, Cursor(first.log_id, epochs[which], index))
        assert (page.reset, page.start, page.epoch) == (False, start, epochs[3]), (which, index)
        assert indexes(page.updates) == list(range(start + 1, 9))
        assert page.missing is None


@pytest.mark.parametrize("job", [None, A])
def test_a_cursor_of_an_epoch_that_the_log_never_had_goes_on_before_the_next_one_that_it_has(
    client: redis.Redis, writer: Writer, node: str, job: str | None
) -> None:
    """The replica that became master knew nothing of the epoch that began before it."""
    log_id = writer.append(A, A, A).log_id
    client.hset(KEYS.log(node), "run", new_id())
    known = writer.append(A, A).epoch
    for epoch, index, start in ((2, 7, 2), (2, 1, 1), (known - 1, 3, 2), (known + 1, 3, 3), (known + 1, 9, 4)):
        page = writer.log.read(job, Cursor(log_id, epoch, index))
        assert (page.reset, page.start, indexes(page.updates)) == (False, start, list(range(start + 1, 5)))


@pytest.mark.parametrize("first", [2**32, 10**14, 10**15 + 1, 2**53 - 10])
def test_an_old_epoch_is_known_however_great_the_indexes(
    client: redis.Redis, writer: Writer, node: str, first: int
) -> None:
    log_id = writer.append(None).log_id
    writer.log.clear()
    client.hset(KEYS.log(node), mapping={"id": log_id, "next": first, "epochs": f"1:{first},"})
    writer.append(A, A)
    client.hset(KEYS.log(node), "run", "another server")
    writer.append(A, A)
    page = writer.log.read(A, Cursor(log_id, 1, first + 3))
    assert (page.reset, page.start, indexes(page.updates)) == (False, first + 1, [first + 2, first + 3])


def test_an_epoch_so_old_that_its_end_is_forgotten_gives_a_reset(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    appends = [writer.append(A)]
    for server in range(70):
        client.hset(KEYS.log(node), "run", f"server {server}")
        appends.append(writer.append(A))
    outcomes = [writer.log.read(A, Cursor(each.log_id, each.epoch, 70)) for each in appends]
    forgotten = [page.reset for page in outcomes].count(True)
    assert [page.reset for page in outcomes] == [True] * forgotten + [False] * (71 - forgotten)
    assert forgotten < 20
    assert [page.start for page in outcomes[forgotten:]] == list(range(forgotten, 71))


def test_two_masters_in_turn_that_both_go_on_from_one_state_have_epochs_of_their_own(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    """As when a server comes back twice from the same snapshot: what the first one gave out is lost each time."""
    first = writer.append(*[A] * 5)
    snapshot = Snapshot(client, node)
    client.hset(KEYS.log(node), "run", "second server")
    writer.append(*[A] * 5)
    cursor = writer.log.read_all(A)[-1].cursor(first.log_id)
    snapshot.restore()
    second = client.time()[0]
    wait_until("another second has begun", lambda: client.time()[0] > second)
    client.hset(KEYS.log(node), "run", "third server")
    Writer(writer.log).append(*[A] * 8)
    page = writer.log.read(A, cursor)
    assert page.reset or indexes(page.updates) == list(range(5, 13))


class Disturbed(NodeLog):
    """A log in which something happens after each page that is read."""

    def then(self, happens: Callable[[], object]) -> None:
        self._happens = happens

    def read(self, job: str | None, cursor: Cursor, limit: int = 500) -> Page:
        page = super().read(job, cursor, limit)
        self._happens()
        return page


@pytest.mark.parametrize("job", [None, A])
def test_reading_all_does_not_chase_a_publisher(log: NodeLog, any_store: RedisServer, node: str, job: str) -> None:
    writer = Writer(log)
    writer.append(*[A] * 700)
    with Disturbed(any_store.url, KEYS, node) as disturbed:
        disturbed.then(lambda: writer.append(*[A] * 600))
        assert indexes(disturbed.read_all(job)) == list(range(700))


@pytest.mark.parametrize("job", [None, A])
def test_reading_all_starts_over_where_the_log_is_cleared_meanwhile(
    log: NodeLog, any_store: RedisServer, node: str, job: str | None
) -> None:
    writer = Writer(log)
    writer.append(*[A] * 1200)
    steps = iter([log.clear, lambda: writer.append(A, A)])
    with Disturbed(any_store.url, KEYS, node) as disturbed:
        disturbed.then(lambda: next(steps, int)())
        assert [update.status for update in disturbed.read_all(job)] == ["1201", "1202"]


@pytest.mark.parametrize("job", [None, A])
@pytest.mark.parametrize("junk", [b"", b"x", b"x" * 40, b"\xff" * 40, b"\x96\xce"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_what_is_no_record_is_replaced_by_an_update_that_says_so(
    client: redis.Redis, writer: Writer, node: str, job: str | None, junk: bytes, place: int
) -> None:
    writer.append(A, A, A, A)
    client.lset(KEYS.records(Topic(node, job)), place, junk)
    updates = writer.log.read_all(job)
    assert indexes(updates) == [0, 1, 2, 3]
    assert [update.status for update in updates] == [
        UNREADABLE if index == place else str(index + 1) for index in range(4)
    ]
    for index in range(-1, 4):
        log_id = writer.log.read(job, START).log_id
        assert indexes(writer.log.read(job, Cursor(log_id, 1, index)).updates) == list(range(index + 1, 4))
    writer.append(A)
    assert indexes(writer.log.read_all(job)) == [0, 1, 2, 3, 4]


def test_junk_that_others_have_pushed_keeps_nobody_from_what_comes_behind_it(
    client: redis.Redis, writer: Writer, node: str
) -> None:
    writer.append(A, A)
    for job in (None, A):
        client.rpush(KEYS.records(Topic(node, job)), *[b"junk"] * 700)
    writer.append(A)
    log_id = writer.log.read(None, START).log_id
    for job in (None, A):
        assert indexes(writer.log.read(job, Cursor(log_id, 1, 1)).updates) == [2]
    writer.append(A)
    for job in (None, A):
        assert indexes(writer.log.read(job, Cursor(log_id, 1, 2)).updates) == [3]
        assert indexes(writer.log.read_all(job))[-2:] == [2, 3]


class Snapshot:
    """All that Redis has of a node at a moment; what came later is lost when it is restored."""

    def __init__(self, client: redis.Redis, node: str) -> None:
        self._client, self._pattern = client, f"streamer:{{{node}}}:*"
        self._values = {key: client.dump(key) for key in self._keys()}

    def restore(self) -> None:
        """Bring that moment back."""
        self._client.delete(*self._keys())
        for key, value in self._values.items():
            self._client.restore(key, 0, value)

    def _keys(self) -> list[bytes]:
        return list(self._client.scan_iter(self._pattern, count=10_000))


job_lists = st.lists(st.sampled_from([A, B, None]), max_size=6)


class LogAgainstLists(RuleBasedStateMachine):
    """``lists`` is what the log must hold, by job. Every cursor is kept with the history that whoever has it has seen:
    it must resume behind the last record that its history and the log have in common."""

    def __init__(self, store: RedisServer) -> None:
        super().__init__()
        self.node = f"node-{new_id()}"
        self.client = store.client()
        self.log = NodeLog(store.url, KEYS, self.node)
        self.writers = [Writer(self.log), Writer(self.log)]
        self.log_id, self.epoch, self.moved = "", 0, False
        self.ever: list[tuple[int, str]] = []  # the epoch and writer's number of every record of the log
        self.lists: dict[str | None, list[Update]] = {}
        self.last: dict[str | None, int] = {}
        self.cursors: list[tuple[Cursor, list[tuple[int, str]]]] = []

    def teardown(self) -> None:
        self.log.close()
        self.client.close()

    @rule(which=st.integers(0, 1), jobs=job_lists, kept=st.integers(1, 12))
    def append(self, which: int, jobs: list[str | None], kept: int) -> None:
        writer = self.writers[which]
        writer.retention = Retention(kept, 0)
        first = writer.last + 1
        appended = writer.append(*jobs)
        if not jobs:
            return
        assert appended.log_id == (self.log_id or appended.log_id)
        assert (appended.epoch > self.epoch) if self.moved or not self.log_id else (appended.epoch == self.epoch)
        self.log_id, self.epoch, self.moved = appended.log_id, appended.epoch, False
        for number, job in enumerate(jobs, first):
            index = len(self.ever)
            previous = -1 if job is None else self.last.get(job, -1)
            update = Update(self.epoch, index, previous, 0, str(number), {})
            self.ever.append((self.epoch, f"{which}:{number}"))
            self.last[job] = index
            for of in {job, None}:
                self.lists.setdefault(of, []).append(update)
        for of in {*jobs, None}:
            del self.lists[of][:-kept]
        assert (appended.next_index, appended.appended) == (len(self.ever), len(jobs))
        self.cursors.append((Cursor(self.log_id, self.epoch, len(self.ever) - 1), list(self.ever)))

    @rule(which=st.integers(0, 1), back=st.integers(0, 4))
    def append_again(self, which: int, back: int) -> None:
        writer = self.writers[which]
        if self.log_id and (first := max(1, writer.last - back)) <= writer.last:
            assert writer.send(first, *[A] * (writer.last + 1 - first)).appended == 0

    @precondition(lambda self: self.log_id)
    @rule()
    def move_to_another_server(self) -> None:
        self.moved = True
        self.client.hset(KEYS.log(self.node), "run", new_id())

    @precondition(lambda self: self.log_id and not self.moved)
    @rule(lost=job_lists, then=job_lists)
    def promote_a_replica_that_lacks_the_last_appends(self, lost: list[str | None], then: list[str | None]) -> None:
        snapshot, kept = Snapshot(self.client, self.node), copy.deepcopy((self.ever, self.lists, self.last))
        lasts = [writer.last for writer in self.writers]
        self.append(0, lost, 12)
        snapshot.restore()
        self.ever, self.lists, self.last = kept
        for writer, last in zip(self.writers, lasts, strict=True):
            writer.last = last
        self.move_to_another_server()
        self.append(1, then, 12)

    @precondition(lambda self: self.log_id)
    @rule()
    def clear(self) -> None:
        self.log.clear()
        self._forget()
        self.log_id, self.epoch = self.log.read(None, START).log_id, 1

    @precondition(lambda self: self.log_id)
    @rule()
    def lose_the_hash(self) -> None:
        self.client.delete(KEYS.log(self.node))
        self._forget()
        self.log_id, self.epoch, self.moved = "", 0, False

    @rule(data=st.data(), job=st.sampled_from([A, B, None]), limit=st.integers(0, 9), bare=st.booleans())
    def read(self, data: st.DataObject, job: str | None, limit: int, bare: bool) -> None:
        cursor, seen = data.draw(st.sampled_from([(START, []), *self.cursors]))
        if cursor.index >= 0 and data.draw(st.booleans()):
            index = data.draw(st.integers(0, cursor.index))
            seen = seen[: index + 1]
            cursor = Cursor(cursor.log_id, seen[-1][0], index)
        if bare:
            cursor, seen = Cursor("", 0, cursor.index), self.ever[: cursor.index + 1]
            reset = cursor.index >= len(self.ever)
        else:
            reset = cursor.log_id not in ("", self.log_id)
        page = self.log.read(job, cursor, limit)
        assert (page.log_id, page.epoch, page.head) == (self.log_id, self.epoch, len(self.ever) - 1)
        assert page.reset == reset
        if reset:
            assert (page.updates, page.more, page.missing) == ([], 0, None)
            return
        common = next((n for n, (x, y) in enumerate(zip(seen, self.ever, strict=False)) if x != y), None)
        assert page.start == (min(len(seen), len(self.ever)) if common is None else common) - 1
        following = [update for update in self.lists.get(job, []) if update.index > page.start]
        assert page.updates == following[:limit]
        assert page.more == len(following) - len(page.updates)
        before = -1
        if page.updates:
            before = page.updates[0].previous if job else page.updates[0].index - 1
        assert page.missing == ((page.start + 1, before) if before > page.start else None)

    def _forget(self) -> None:
        self.ever, self.lists, self.last = [], {}, {}


def test_any_sequence_of_what_may_happen_to_a_log_reads_as_plain_lists_do(log: NodeLog, any_store: RedisServer) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        partial(LogAgainstLists, any_store), settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
    )
