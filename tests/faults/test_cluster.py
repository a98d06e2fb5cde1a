"""A cluster whose slots move and whose masters die: who watches misses nothing and gets nothing twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator

import pytest

from streamer.core.cursor import START
from streamer.core.names import Topic
from streamer.log import connecting
from streamer.log.routing import slot_of
from streamer.state_streamer import StateStreamer
from tests.certificates import Certificates
from tests.clusters import MASTERS, Cluster, Member
from tests.faults.flow import Flow
from tests.faults.watchers import DEADLINE_S, NEVER_S, eventually, reading, watching
from tests.gateways import GatewayProcess
from tests.sentinels import replicates
from tests.servers import REAL_KINDS, TLS_KIND, wait_until
from tests.streamers import Make

Move = Callable[[Cluster, int, Member, Member], None]


@pytest.fixture(scope="module", params=[*REAL_KINDS, "TLS"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    over_tls = request.param == "TLS"
    certificates: Certificates | None = request.getfixturevalue("certificates") if over_tls else None
    with Cluster(TLS_KIND if over_tls else request.param, certificates=certificates) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[GatewayProcess]:
    """One that does not look for lost deliveries: all that it repairs it was told of."""
    with GatewayProcess(cluster.url, "--check-s", NEVER_S) as gateway:
        yield gateway


@pytest.fixture
def streamer(cluster: Cluster, streaming: Make) -> StateStreamer:
    return streaming(redis_url=cluster.url)


def _by_keys(cluster: Cluster, slot: int, source: Member, target: Member) -> None:
    cluster.move_slot(slot, source, target)


def _at_once(cluster: Cluster, slot: int, source: Member, target: Member) -> None:
    """As Valkey does since version 9: the slot moves in one step, after its keys have."""
    if source.kind != "valkey":
        pytest.skip("only Valkey can")
    source.command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
    wait_until("the slot has moved", lambda: cluster.master_of_slot(slot) is target)


async def move_elsewhere(move: Move, cluster: Cluster, node: str) -> None:
    """Move a node's slot to another master."""
    tag = f"{{{node}}}"
    source = cluster.master_of(tag)
    target = next(each for each in cluster.members[:MASTERS] if each is not source)
    await asyncio.to_thread(move, cluster, slot_of(tag), source, target)


@pytest.mark.parametrize("move", [_by_keys, _at_once])
async def test_a_slot_that_moves_while_nothing_is_published_is_followed(
    cluster: Cluster, gateway: GatewayProcess, streamer: StateStreamer, node: str, move: Move
) -> None:
    streamer.update("first", {"job": "job", "n": 0})
    streamer.flush()
    async with watching(gateway, node) as everything, watching(gateway, node, "job") as job:
        await everything.until_index(0)
        await job.until_index(0)
        for n in range(1, 4):
            await move_elsewhere(move, cluster, node)
            streamer.update("later", {"job": "job", "n": n})
            await everything.until_index(n)
            await job.until_index(n)
        assert everything.indexes == job.indexes == [0, 1, 2, 3]


@pytest.mark.parametrize("move", [_by_keys, _at_once])
async def test_a_slot_that_moves_while_updates_flow_costs_none(
    cluster: Cluster, gateway: GatewayProcess, streamer: StateStreamer, node: str, move: Move
) -> None:
    async with watching(gateway, node) as everything, watching(gateway, node, "job") as job:
        with Flow(streamer) as flow:
            await everything.until_index(20)
            for _ in range(3):
                await move_elsewhere(move, cluster, node)
                head = everything.seen[-1].index
                await everything.until_index(head + 50)
        await asyncio.to_thread(streamer.flush, 20)
        for watcher in (everything, job):
            await watcher.until_index(flow.sent - 1)
            assert [seen.number for seen in watcher.seen] == watcher.indexes == list(range(flow.sent))


async def test_a_master_that_freezes_is_left_as_soon_as_it_is_replaced(
    cluster: Cluster, streamer: StateStreamer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing here is to wait for so long.
    monkeypatch.setattr(connecting, "ANSWER_TIMEOUT_S", 600.0)
    streamer.update("first", {"job": "job", "n": 0})
    streamer.flush()
    master = cluster.master_of(f"{{{node}}}")
    replica = cluster.replica_of(master)
    await eventually("the replica has it", lambda: _has(replica, node))
    async with reading(cluster.url) as reader:
        await reader.read(Topic(node), START)
        assert master.process is not None
        master.process.send_signal(signal.SIGSTOP)
        try:
            waiting = asyncio.create_task(reader.read(Topic(node), START))
            streamer.update("later", {"job": "job", "n": 1})
            await asyncio.to_thread(streamer.flush, DEADLINE_S)
            async with asyncio.timeout(DEADLINE_S):
                assert len((await waiting).updates) >= 1
                assert len((await reader.read(Topic(node), START)).updates) == 2
        finally:
            master.process.send_signal(signal.SIGCONT)
        await eventually("it replicates the one that has replaced it", lambda: replicates(master))


async def test_a_master_that_dies_is_replaced_by_its_replica(
    cluster: Cluster, gateway: GatewayProcess, streamer: StateStreamer, node: str
) -> None:
    streamer.update("first", {"job": "job", "n": 0})
    streamer.flush()
    async with watching(gateway, node) as everything, watching(gateway, node, "job") as job:
        await everything.until_index(0)
        await job.until_index(0)
        master = cluster.master_of(f"{{{node}}}")
        replica = cluster.replica_of(master)
        await eventually("the replica has it", lambda: _has(replica, node))
        await asyncio.to_thread(master.kill)
        try:
            for n in range(1, 11):
                streamer.update("later", {"job": "job", "n": n})
            await everything.until_index(10)
            await job.until_index(10)
            assert everything.indexes == job.indexes == list(range(11))
            assert cluster.master_of(f"{{{node}}}") is replica
            await eventually("the gateway is ready again", gateway._ready)
        finally:
            await asyncio.to_thread(master.start)


def _has(replica: Member, node: str) -> bool:
    with replica.client() as client:
        client.execute_command("READONLY")  # type: ignore[no-untyped-call]
        return client.exists(f"streamer:{{{node}}}:log") == 1
