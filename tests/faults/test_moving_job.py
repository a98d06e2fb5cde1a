"""A job that moves from node to node while nodes, gateways and masters die: who follows it misses nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from streamer.core.cursor import Cursor
from streamer.log.keys import Keys
from tests.clusters import Cluster
from tests.commands import environment, updates
from tests.faults.watchers import DEADLINE_S, NEVER_S, eventually
from tests.gateways import GatewayProcess
from tests.servers import RedisServer

RUN = """
import itertools, sys, time
from streamer import NodeSettings, state_streaming
_, url, node, job = sys.argv
streamer = state_streaming(node, NodeSettings(redis_url=url))
for n in itertools.count():
    streamer.update("running", {"job": job, "n": n})
    time.sleep(0.003)
"""


@pytest.fixture(scope="module", params=["valkey", "cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[RedisServer | Cluster]:
    with Cluster() if request.param == "cluster" else RedisServer(request.param) as store:
        yield store


@contextmanager
def running(store: RedisServer | Cluster, node: str, job: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a node that runs a job, killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", RUN, store.url, node, job], env=environment())
    with process:
        try:
            yield process
        finally:
            process.kill()


class Follower:
    """Follows a job on all nodes, and comes back with its cursors: ``seen`` are the indexes, by node."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.seen: dict[str, list[int]] = {}
        self.cursors: dict[str, str] = {}
        self._came = asyncio.Event()

    async def until(self, what: str, condition: Callable[[], object]) -> None:
        """Return once the condition holds for what was seen; fail where it does not in time."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            pytest.fail(f"{what}: not within {DEADLINE_S:g} s; seen are { {n: len(s) for n, s in self.seen.items()} }")

    async def until_more(self, node: str, many: int) -> None:
        """Return once so many more have come of a node."""
        before = len(self.seen.get(node, []))
        await self.until(f"{many} of {node}", lambda: len(self.seen.get(node, [])) >= before + many)

    @asynccontextmanager
    async def at(self, gateway: GatewayProcess) -> AsyncIterator[None]:
        """Follow at a gateway, to the end of the block."""
        following = asyncio.create_task(self._follow(gateway))
        try:
            yield
        finally:
            following.cancel()
            with_errors = await asyncio.gather(following, return_exceptions=True)
            assert isinstance(with_errors[0], asyncio.CancelledError | ConnectionClosed | type(None)), with_errors

    async def _follow(self, gateway: GatewayProcess) -> None:
        raise NotImplementedError

    def take(self, node: str, update: dict[str, Any]) -> None:
        """Take an update."""
        known = self.cursors.get(node)
        assert known is None or Cursor.parse(update["cursor"]).index > Cursor.parse(known).index
        self.seen.setdefault(node, []).append(update["index"])
        self.cursors[node] = update["cursor"]
        self._came.set()


class PlainFollower(Follower):
    async def _follow(self, gateway: GatewayProcess) -> None:
        query = "&".join(f"after={quote(node, safe='')}:{cursor}" for node, cursor in self.cursors.items())
        async with connect(f"{gateway.url}/jobs/{self.job}?{query}", compression=None) as connection:
            async for text in connection:
                message = json.loads(text)
                self.take(message["node"], message)


class V1Follower(Follower):
    async def _follow(self, gateway: GatewayProcess) -> None:
        request = {"op": "subscribe", "job": self.job, **({"after": self.cursors} if self.cursors else {})}
        format = Subprotocol("streamer.v1.json")
        async with connect(f"{gateway.url}/ws", subprotocols=[format], compression=None, max_size=None) as connection:
            await connection.send(json.dumps(request))
            async for text in connection:
                message = json.loads(text)
                assert message["op"] in ("subscribed", "joined", "updates", "live"), message
                for update in message.get("updates", ()):
                    self.take(message["node"], update)


def check_against_logs(follower: Follower, store: RedisServer | Cluster, nodes: set[str]) -> None:
    """Fail unless each node's part is what its log has, in order and each once."""
    assert set(follower.seen) == nodes
    for node in nodes:
        assert follower.seen[node] == [update.index for update in updates(store.url, node, follower.job)]


def ended(follower: Follower, store: RedisServer | Cluster, node: str) -> bool:
    """Whether all has come that the node's log has."""
    log = updates(store.url, node, follower.job)
    return bool(log) and follower.seen.get(node, [-1])[-1] == log[-1].index


@pytest.mark.parametrize("kind", [PlainFollower, V1Follower])
async def test_a_job_is_followed_while_its_nodes_are_killed_and_so_are_gateways(
    store: RedisServer | Cluster, node: str, kind: type[Follower]
) -> None:
    follower = kind(f"job-{node}")
    nodes = [f"{node}-{name}" for name in "abcab"]
    options = "--check-s", NEVER_S
    with GatewayProcess(store.url, *options) as first, GatewayProcess(store.url, *options) as second:
        async with follower.at(first):
            for name in nodes[:2]:
                with running(store, name, follower.job):
                    await follower.until_more(name, 30)
            with running(store, nodes[2], follower.job):
                await follower.until_more(nodes[2], 10)
                await asyncio.to_thread(first.kill)
        async with follower.at(second):
            for name in nodes[3:]:
                with running(store, name, follower.job):
                    await follower.until_more(name, 30)
            for name in set(nodes):
                await eventually(f"all of {name} has come", lambda name=name: ended(follower, store, name))
    check_against_logs(follower, store, set(nodes))


async def test_a_new_node_is_followed_though_the_master_of_the_index_dies(node: str) -> None:
    follower = V1Follower(f"job-{node}")
    with Cluster() as cluster, GatewayProcess(cluster.url, "--check-s", NEVER_S) as gateway:
        index = Keys().job(follower.job)
        master = cluster.master_of(index)
        nodes = _not_on(cluster, index, node)
        async with follower.at(gateway):
            with running(cluster, nodes[0], follower.job):
                await follower.until_more(nodes[0], 10)
                await asyncio.to_thread(master.kill)
                with running(cluster, nodes[1], follower.job):
                    await follower.until_more(nodes[0], 50)
                    await follower.until_more(nodes[1], 50)
            for name in nodes:
                await eventually(f"all of {name} has come", lambda name=name: ended(follower, cluster, name))
        assert cluster.master_of(index) is not master
        check_against_logs(follower, cluster, set(nodes))


def _not_on(cluster: Cluster, key: str, node: str) -> list[str]:
    """Two nodes whose logs are on another master than a key."""
    names = (f"{node}-{n}" for n in range(100))
    return [name for name in names if cluster.master_of(f"{{{name}}}") is not cluster.master_of(key)][:2]
