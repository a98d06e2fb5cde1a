"""A node's jobs are in their indexes whatever fails in between, and updates do not wait for that for ever."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from streamer import job_announcements
from streamer.core.errors import LogUnavailable
from streamer.job_announcements import MOST_DUE, PATIENCE_S, RENEW_S, RETRY_S, JobAnnouncements
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from tests.servers import RedisServer, wait_until
from tests.streamers import Make

FLUSH_S = 20.0
JOB_TTL_S = 1000


class FakeLog:
    """Takes announcements, or does not."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.error: Exception | None = None

    def announce(self, jobs: Any, ttl_s: int) -> None:
        assert ttl_s > JOB_TTL_S
        if self.error is not None:
            raise self.error
        self.told.append(list(jobs))


class Announcing:
    """Announcements, with a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.log = FakeLog()
        self.announcements = JobAnnouncements("n", JOB_TTL_S)
        monkeypatch.setattr(job_announcements.time, "monotonic", lambda: self.now)

    def append(self, *jobs: str, log_id: str = "a", epoch: int = 1) -> None:
        """What a sender does."""
        self.announcements.want(jobs, self.now)
        self.announcements.tell(self.log)  # type: ignore[arg-type]
        if self.announcements.stand_on(log_id, epoch):
            self.announcements.want(jobs, self.now)
            self.announcements.tell(self.log)  # type: ignore[arg-type]

    def try_to_append(self, *jobs: str) -> bool:
        try:
            self.append(*jobs)
        except LogUnavailable:
            return False
        return True


@pytest.fixture
def announcing(monkeypatch: pytest.MonkeyPatch) -> Announcing:
    return Announcing(monkeypatch)


def test_a_job_is_announced_once_and_again_when_that_is_old(announcing: Announcing) -> None:
    announcing.append("a", "b")
    announcing.append("b", "a", "c")
    announcing.append("a")
    assert announcing.log.told == [["a", "b"], ["c"]]
    announcing.now += RENEW_S
    announcing.append("c")
    announcing.append("a", "c")
    assert announcing.log.told[2:] == [["c"], ["a"]]


def test_what_is_old_is_not_kept(announcing: Announcing) -> None:
    for n in range(100):
        announcing.append(str(n))
        announcing.now += RENEW_S / 10
    assert len(announcing.announcements._told) <= 10


def test_jobs_are_announced_again_where_the_log_is_another(announcing: Announcing) -> None:
    announcing.append("a", "b")
    announcing.append("b", log_id="other")
    announcing.append("b", "a", log_id="other", epoch=2)
    announcing.append("b", "a", log_id="other", epoch=2)
    assert announcing.log.told == [["a", "b"], ["b"], ["a"], ["b", "a"]]


def test_updates_wait_a_little_for_an_index_and_then_go_without(
    announcing: Announcing, caplog: pytest.LogCaptureFixture
) -> None:
    announcing.log.error = LogUnavailable("no")
    assert not announcing.try_to_append("a")
    announcing.now += PATIENCE_S
    assert announcing.try_to_append("a")
    assert announcing.try_to_append("b")
    assert announcing.announcements.due_in_s(announcing.now) == RETRY_S
    for _ in range(3):
        announcing.now += RETRY_S
        assert announcing.try_to_append("c")
    assert caplog.text.count("may not learn") == 1
    announcing.log.error = None
    announcing.now += RETRY_S
    assert announcing.announcements.due_in_s(announcing.now) == 0
    assert announcing.try_to_append()
    assert announcing.log.told == [["a", "b", "c"]]
    assert announcing.announcements.due_in_s(announcing.now) is None


def test_where_nothing_can_be_written_the_index_comes_first_when_it_can(
    announcing: Announcing, caplog: pytest.LogCaptureFixture
) -> None:
    announcing.log.error = LogUnavailable("no")
    for _ in range(3):
        announcing.try_to_append("a")
        announcing.announcements.try_again()
        announcing.now += PATIENCE_S
    announcing.log.error = None
    announcing.append("a")
    assert announcing.log.told == [["a"]]
    assert not caplog.records


def test_what_waits_is_bounded(announcing: Announcing) -> None:
    announcing.log.error = LogUnavailable("no")
    announcing.try_to_append("a")
    for n in range(3):
        announcing.now += PATIENCE_S + RETRY_S
        announcing.try_to_append(*(f"{n}-{m}" for m in range(MOST_DUE)))
        assert len(announcing.announcements._due) == MOST_DUE


def index(server: RedisServer, job: str) -> list[bytes]:
    with server.client() as client:
        return client.zrange(Keys().job(job), 0, -1)  # type: ignore[return-value]


def test_a_job_is_in_its_index_before_its_first_update_is_in_the_log(
    streaming: Make, valkey: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    append = NodeLog.append

    def look_and_append(log: NodeLog, writer: str, batch: Any, *rest: Any) -> Any:
        found.append({job: index(valkey, job) for job in batch.jobs})
        return append(log, writer, batch, *rest)

    monkeypatch.setattr(NodeLog, "append", look_and_append)
    streamer = streaming(valkey.url)
    for job in ("a", "b", "a"):
        streamer.update("s", {"job": f"{job}-{node}"})
        streamer.flush(FLUSH_S)
    assert found == [{f"{job}-{node}": [node.encode()]} for job in ("a", "b", "a")]


@pytest.mark.parametrize("resend", [0, 1000])
def test_after_a_flushall_the_index_comes_back_with_the_log(
    streaming: Make, own_valkey: RedisServer, node: str, resend: int
) -> None:
    streamer = streaming(own_valkey.url, resend_records=resend)
    for job in ("a", "b"):
        streamer.update("s", {"job": job})
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        client.flushall()
    streamer.update("s", {"job": "a"})
    streamer.flush(FLUSH_S)
    assert index(own_valkey, "a") == [node.encode()]
    assert index(own_valkey, "b") == ([node.encode()] if resend else [])


def test_an_index_that_cannot_be_written_does_not_hold_up_updates_and_is_written_once_it_can(
    streaming: Make,
    own_valkey: RedisServer,
    node: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(job_announcements, "PATIENCE_S", 0.1)
    monkeypatch.setattr(job_announcements, "RETRY_S", 0.2)
    with own_valkey.client() as client:
        client.set(Keys().job("a"), "no index")
        streamer = streaming(own_valkey.url)
        streamer.update("s", {"job": "a"})
        with caplog.at_level(logging.WARNING):
            streamer.flush(FLUSH_S)
            wait_until("it is said", lambda: "may not learn" in caplog.text)
        client.delete(Keys().job("a"))
        wait_until("the index is written", lambda: client.exists(Keys().job("a")))
    assert index(own_valkey, "a") == [node.encode()]
