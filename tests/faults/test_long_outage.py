"""Redis, its replica or the disk is away for long: what is too much is refused in words, and the rest arrives."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.commands import updates
from tests.faults.conftest import StartNode
from tests.faults.nodes import NodeProcess, check_log, has_seen, records
from tests.faults.watchers import Watcher, check_against_log, eventually, watching
from tests.gateways import GatewayProcess
from tests.proxies import Proxy
from tests.sentinels import replicates
from tests.servers import RedisServer, wait_until

BOUND = 200
"""So many updates may wait for Redis."""


@pytest.fixture
async def watchers(own_valkey: RedisServer, node: str) -> AsyncIterator[list[Watcher]]:
    """Who watches while Redis is there, and stays; Redis is then away."""
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(own_valkey.url))
        watchers = [await stack.enter_async_context(watching(gateway, node, job)) for job in (None, "job")]
        own_valkey.kill()
        yield watchers


async def ended(
    server: RedisServer, node: str, watchers: list[Watcher], publishing: NodeProcess, killed: NodeProcess | None = None
) -> None:
    """End a process; fail unless the log, and who watches, has what it and another have accepted, in order."""
    await asyncio.to_thread(publishing.end)
    log = updates(server.url, node)
    check_log(log, publishing, *([killed] if killed else []))
    for watcher in watchers:
        await has_seen(watcher, log)


@pytest.mark.parametrize("full", [{"outbox_full": "raise"}, {"outbox_full": "block", "outbox_block_s": 0.2}])
async def test_an_outbox_that_is_full_refuses_what_is_too_much_and_sends_the_rest_once_redis_is_back(
    own_valkey: RedisServer, start_node: StartNode, node: str, watchers: list[Watcher], full: dict[str, object]
) -> None:
    publishing = start_node(own_valkey.url, settings={"outbox_records": BOUND, **full})
    await eventually("it is refused", lambda: publishing.refusals)
    assert publishing.accepted == list(range(BOUND))
    assert f"the outbox of node '{node}' is full: {BOUND} updates wait for Redis (" in publishing.refusals[0]
    own_valkey.start()
    await publishing.until_accepted(BOUND)
    await ended(own_valkey, node, watchers, publishing)


async def test_an_outbox_that_is_full_and_blocks_for_long_refuses_nothing(
    own_valkey: RedisServer, start_node: StartNode, node: str, watchers: list[Watcher]
) -> None:
    settings = {"outbox_records": BOUND, "outbox_full": "block", "outbox_block_s": 600}
    publishing = start_node(own_valkey.url, settings=settings)
    await publishing.until_accepted(BOUND)
    await asyncio.sleep(0.3)
    assert publishing.accepted == list(range(BOUND))
    own_valkey.start()
    await publishing.until_accepted(BOUND)
    assert publishing.refusals == []
    await ended(own_valkey, node, watchers, publishing)


async def test_an_outbox_that_is_full_and_spills_takes_all_though_its_process_is_killed(
    own_valkey: RedisServer, start_node: StartNode, node: str, watchers: list[Watcher], tmp_path: Path
) -> None:
    settings = {
        "outbox_records": BOUND,
        "outbox_full": "spill",
        "outbox_dir": tmp_path / "outbox",
        "outbox_sync": "normal",
    }
    killed = start_node(own_valkey.url, settings=settings)
    await killed.until_accepted(2 * BOUND)
    killed.kill()
    publishing = start_node(own_valkey.url, settings=settings)
    await publishing.until_accepted(2 * BOUND)
    assert publishing.refusals == []
    own_valkey.start()
    await publishing.until_accepted(BOUND)
    await ended(own_valkey, node, watchers, publishing, killed)


def limit_files() -> None:
    """Let this process write no long files: it is as if a disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


@pytest.fixture(params=["a limit", "a small disk"])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """A directory that is soon full, and for that how a process is started."""
    path = tmp_path / "outbox"
    path.mkdir()
    if request.param == "a limit":
        yield path, {"preexec_fn": limit_files}
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("only root, where it may mount a disk, can")
    yield path, {}
    subprocess.run(["umount", "--lazy", str(path)], check=True)


async def test_a_durable_outbox_on_a_disk_that_is_full_refuses_in_words_and_what_was_accepted_arrives(
    own_valkey: RedisServer,
    start_node: StartNode,
    node: str,
    watchers: list[Watcher],
    full_disk: tuple[Path, dict[str, Any]],
) -> None:
    """And the node lives: once Redis is back, it accepts again."""
    path, process = full_disk
    settings = {"outbox_dir": path, "outbox_sync": "normal"}
    killed = start_node(own_valkey.url, settings=settings, **process)
    await is_refused(killed, path)
    assert len(killed.accepted) > 10
    killed.kill()
    publishing = start_node(own_valkey.url, settings=settings, **process)
    await is_refused(publishing, path)
    own_valkey.start()
    await publishing.until_accepted(BOUND // 4)
    await ended(own_valkey, node, watchers, publishing, killed)


async def is_refused(publishing: NodeProcess, path: Path) -> None:
    """Return once a process is refused for lack of space, in words."""
    await eventually("it is refused", lambda: publishing.refusals)
    assert f"the durable outbox '{path}" in publishing.refusals[-1]
    assert re.search("cannot be used: (database or disk is full|disk I/O error)", publishing.refusals[-1])


async def test_updates_that_a_held_back_replica_lacks_are_not_acknowledged_and_outlive_their_master(
    own_valkey: RedisServer, start_node: StartNode, node: str
) -> None:
    settings = {"wait_replicas": 1, "wait_replicas_s": 0.1}
    async with AsyncExitStack() as stack:
        replica = stack.enter_context(RedisServer("valkey"))
        link = stack.enter_context(Proxy(own_valkey.port))
        of_replica = stack.enter_context(Proxy(own_valkey.port))
        follow(replica, of_replica.port)
        gateway = stack.enter_context(GatewayProcess(link.url))
        watchers = [await stack.enter_async_context(watching(gateway, node, job)) for job in (None, "job")]
        publishing = start_node(link.url, "--flush-every", "20", "--flush-s", "0.5", settings=settings)
        await eventually("some are acknowledged", lambda: publishing.acknowledged >= 40)
        of_replica.cut()
        await eventually("a flush fails", lambda: publishing.refusals)
        assert "only 0 of 1 replicas have what was appended" in publishing.refusals[0]
        acknowledged = publishing.acknowledged
        await publishing.until_accepted(40)
        assert publishing.acknowledged == acknowledged
        own_valkey.kill()
        promote(replica)
        kept = updates(replica.url, node)
        assert acknowledged <= len(kept) < len(publishing.accepted)
        link.redirect(replica.port)
        own_valkey.start()
        await asyncio.to_thread(follow, own_valkey, replica.port)
        await eventually("they are acknowledged", lambda: publishing.acknowledged > len(publishing.accepted) - 40)
        await asyncio.to_thread(publishing.end)
        log = updates(replica.url, node)
        check_log(log, publishing)
        assert log[: len(kept)] == kept
        for watcher in watchers:
            await watcher.until("the last arrives", lambda seen: seen[-1] == records(log)[-1])
            check_against_log(watcher, log)


def follow(replica: RedisServer, master_port: int) -> None:
    """Have a server replicate another; return once it has its data."""
    with redis.Redis(port=master_port, protocol=2) as master:
        master.config_set("repl-diskless-sync-delay", 0)
    with replica.client() as client:
        client.replicaof("127.0.0.1", str(master_port))
        wait_until("it replicates", lambda: replicates(replica))


def promote(replica: RedisServer) -> None:
    """Have a replica be a master."""
    with replica.client() as client:
        client.replicaof("NO", "ONE")
