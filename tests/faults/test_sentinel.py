"""A master that is lost, and replaced by a replica that lacks its last updates: who watches follows the log."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis

from streamer.core.cursor import START
from streamer.core.names import Topic
from streamer.log import blocking_client, connecting
from streamer.log.keys import Keys
from streamer.state_streamer import StateStreamer
from tests.certificates import Certificates
from tests.faults.flow import Flow
from tests.faults.watchers import DEADLINE_S, NEVER_S, Watcher, check_against_log, eventually, reading, watching
from tests.gateways import GatewayProcess
from tests.sentinels import SLOW, Sentinel, Sentinels, hold_back
from tests.servers import REAL_KINDS, TLS_KIND, RedisServer
from tests.streamers import Make


@pytest.fixture(scope="module", params=[*REAL_KINDS, "TLS"])
def sentinels(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    over_tls = request.param == "TLS"
    certificates: Certificates | None = request.getfixturevalue("certificates") if over_tls else None
    with Sentinels(TLS_KIND if over_tls else request.param, certificates=certificates) as sentinels:
        yield sentinels


@pytest.fixture(scope="module")
def gateway(sentinels: Sentinels) -> Iterator[GatewayProcess]:
    """One that does not look for lost deliveries: all that it repairs it was told of."""
    with GatewayProcess(sentinels.url, "--check-s", NEVER_S) as gateway:
        yield gateway


@pytest.fixture
def streamer(sentinels: Sentinels, streaming: Make) -> Iterator[StateStreamer]:
    yield streaming(redis_url=sentinels.url)
    sentinels.mend()


@contextmanager
def stopped(*servers: RedisServer | Sentinel) -> Iterator[None]:
    """Have servers do nothing, to the end of the block."""
    processes = [server.process for server in servers if server.process is not None]
    assert len(processes) == len(servers)
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def asked(server: RedisServer, ask: Callable[[redis.Redis], Any]) -> Any:
    """What a server answers; asked again where it was promoted meanwhile, for which Sentinels cut its clients off."""
    with suppress(redis.ConnectionError), server.client() as client:
        return ask(client)
    with server.client() as client:
        return ask(client)


def role(server: RedisServer) -> str:
    """What a server takes itself for: master or slave."""
    return str(asked(server, lambda client: client.info("replication"))["role"])


def length(server: RedisServer, node: str) -> int:
    """How many updates of a node a server has."""
    return int(asked(server, lambda client: client.llen(Keys().records(Topic(node)))))


async def caught_up(master: RedisServer) -> None:
    """Return once the replica has what the master has."""
    with master.client() as client:
        await eventually("the replica has all", lambda: client.wait(1, 100) == 1)


async def published(streamer: StateStreamer, first: int, last: int, *watchers: Watcher) -> None:
    """Publish updates of these numbers; return once they are acknowledged and seen."""
    for n in range(first, last + 1):
        streamer.update("running", {"job": "job", "n": n})
    await asyncio.to_thread(streamer.flush, 30)
    for watcher in watchers:
        await watcher.until(f"update {last} arrives", lambda seen: seen and seen[-1].number == last)


async def test_a_lost_tail_is_replaced_by_what_the_log_has_under_a_new_epoch(
    sentinels: Sentinels, gateway: GatewayProcess, streamer: StateStreamer, node: str
) -> None:
    async with watching(gateway, node) as everything, watching(gateway, node, "job") as job:
        await published(streamer, 0, 19, everything, job)
        master, replica = sentinels.master, sentinels.replica
        await caught_up(master)
        hold_back(replica)
        await published(streamer, 20, 29, everything, job)
        before = gateway.metrics()
        await asyncio.to_thread(master.kill)
        await published(streamer, 30, 34, everything, job)
        assert sentinels.master is replica
        for watcher in (everything, job):
            check_against_log(watcher, streamer.states())
            assert [seen.number for seen in watcher.seen[:30]] == list(range(30))
            assert len({seen.epoch for seen in watcher.seen}) == 2
            assert {seen.number for seen in watcher.seen} == set(range(35))
        await eventually("the gateway is ready again", gateway._ready)
        after = gateway.metrics()
        # Both feeds, each once, for one time of deafness or more.
        assert after["streamer_epochs_total"] - before["streamer_epochs_total"] == 2
        assert after["streamer_rewinds_total"] - before["streamer_rewinds_total"] == 2
        assert after["streamer_deaf_periods_total"] > before["streamer_deaf_periods_total"]
        assert after["streamer_deaf_seconds_total"] > before["streamer_deaf_seconds_total"]
    async with watching(gateway, node) as late:
        await late.until("all arrives", lambda seen: seen and seen[-1].number == 34)
        check_against_log(late, streamer.states())


async def test_a_cursor_of_the_lost_tail_goes_on_at_another_gateway_where_the_logs_begin_to_differ(
    sentinels: Sentinels, gateway: GatewayProcess, streamer: StateStreamer, node: str
) -> None:
    jobs = (None, "job")
    async with watching(gateway, node) as everything, watching(gateway, node, "job") as job:
        await published(streamer, 0, 19, everything, job)
        master, replica = sentinels.master, sentinels.replica
        await caught_up(master)
        hold_back(replica)
        await published(streamer, 20, 29, everything, job)
        cursors = [everything.cursor, job.cursor]
    await asyncio.to_thread(master.kill)
    await published(streamer, 30, 34)
    log = streamer.states()
    with GatewayProcess(sentinels.url) as other:
        for cursor, of_job in zip(cursors, jobs, strict=True):
            async with watching(other, node, of_job, after=cursor) as resumed:
                await resumed.until("the last arrives", lambda seen: seen and seen[-1].number == 34)
                assert resumed.indexes == list(range(20, len(log)))
                assert [seen.number for seen in resumed.seen] == [update.state["n"] for update in log[20:]]
                assert {seen.number for seen in resumed.seen} == set(range(20, 35))
                assert {seen.epoch for seen in resumed.seen} == {log[-1].epoch}


async def test_a_master_that_dies_under_load_is_replaced(
    sentinels: Sentinels, gateway: GatewayProcess, streamer: StateStreamer, node: str
) -> None:
    async with watching(gateway, node) as everything, watching(gateway, node, "job") as job:
        with Flow(streamer) as flow:
            await everything.until_index(50)
            master, replica = sentinels.master, sentinels.replica
            await caught_up(master)
            hold_back(replica)
            await everything.until_index(everything.seen[-1].index + 50)
            await asyncio.to_thread(master.kill)
            await everything.until("the new epoch begins", lambda seen: seen[-1].epoch > 1)
            await asyncio.sleep(0.5)
        await published(streamer, flow.sent, flow.sent, everything, job)
        for watcher in (everything, job):
            check_against_log(watcher, streamer.states())
            assert {seen.number for seen in watcher.seen} == set(range(flow.sent + 1))


async def test_a_master_that_freezes_is_left_and_does_no_harm_when_it_wakes_up(
    sentinels: Sentinels,
    gateway: GatewayProcess,
    streamer: StateStreamer,
    node: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing here is to wait for so long.
    monkeypatch.setattr(connecting, "ANSWER_TIMEOUT_S", 600.0)
    async with (
        reading(sentinels.url) as reader,
        watching(gateway, node) as everything,
        watching(gateway, node, "job") as job,
    ):
        await published(streamer, 0, 9, everything, job)
        master = sentinels.master
        await caught_up(master)
        await reader.read(Topic(node), START)
        with stopped(master):
            waiting = asyncio.create_task(reader.read(Topic(node), START))
            await published(streamer, 10, 19, everything, job)
            async with asyncio.timeout(DEADLINE_S):
                assert len((await waiting).updates) >= 10
        await published(streamer, 20, 29, everything, job)
        for watcher in (everything, job):
            check_against_log(watcher, streamer.states())
            assert [seen.number for seen in watcher.seen] == list(range(30))


async def test_a_master_that_is_demoted_and_still_answers_is_left(
    sentinels: Sentinels, gateway: GatewayProcess, streamer: StateStreamer, node: str
) -> None:
    async with watching(gateway, node) as everything, watching(gateway, node, "job") as job:
        await published(streamer, 0, 9, everything, job)
        await caught_up(sentinels.master)
        master = sentinels.master
        sentinels.fail_over()
        await eventually("the other is the master", lambda: sentinels.master is not master)
        # Sentinels would also cut its clients off, some seconds later.
        await asyncio.to_thread(sentinels.mend)
        await published(streamer, 10, 19, everything, job)
        for watcher in (everything, job):
            check_against_log(watcher, streamer.states())
            assert [seen.number for seen in watcher.seen] == list(range(20))


async def test_a_publisher_does_not_wait_for_sentinels_that_do_not_answer_while_the_master_does(
    sentinels: Sentinels, streamer: StateStreamer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(streamer, 0, 9)
    with stopped(*sentinels.sentinels):
        monkeypatch.setattr(blocking_client, "FRESH_S", 0.0)
        monkeypatch.setattr(blocking_client, "LOOK_S", 600.0)
        await published(streamer, 10, 19)
        assert any(thread.name == blocking_client.LOOKER for thread in threading.enumerate())
        await published(streamer, 20, 29)
    assert [update.state["n"] for update in streamer.states()] == list(range(30))


@pytest.mark.parametrize("kind", REAL_KINDS)
async def test_a_master_is_left_before_it_is_demoted_though_the_sentinel_that_fails_over_still_names_it(
    kind: str, streaming: Make, node: str
) -> None:
    with (
        Sentinels(kind, *SLOW, replicas=2) as sentinels,
        GatewayProcess(sentinels.url, "--check-s", NEVER_S) as gateway,
    ):
        old, new, frozen = sentinels.servers
        streamer = streaming(redis_url=sentinels.url)
        async with watching(gateway, node) as everything:
            with Flow(streamer) as flow, stopped(frozen):
                await everything.until_index(50)
                sentinels.fail_over()
                await eventually("the other is promoted", lambda: role(new) == "master")
                received = length(new, node)
                await eventually("the publisher has left the old one", lambda: length(new, node) > received)
                assert role(old) == "master"
                await everything.until("the new epoch arrives", lambda seen: seen[-1].epoch > 1)
                await everything.until_index(everything.seen[-1].index + 500)
                assert role(old) == "master"
            await published(streamer, flow.sent, flow.sent, everything)
            log = streamer.states()
            assert [update.state["n"] for update in log] == list(range(flow.sent + 1))
            check_against_log(everything, log)
            assert {seen.number for seen in everything.seen} == set(range(flow.sent + 1))
