"""The whole way of an update, in real processes: whatever fails, every watcher has everything once and in order."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.gateways import GatewayProcess
from tests.servers import RedisServer

WRITERS = 3
UPDATES_EACH = 3000
TOTAL = WRITERS * UPDATES_EACH
JOBS = ("job-0", "job-1", "job-2", "job-3", None)
CLIENTS = 60
DEADLINE_S = 90

WRITER = """
import sys, time
from streamer import state, state_streaming

node, writer, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
streamer = state_streaming(node)
sys.stdin.readline()
for n in range(count):
    job = (n * 7 + writer) % 5
    fields = {"writer": writer, "n": n}
    state(node).add_state("running", fields if job == 4 else {**fields, "job": f"job-{job}"})
    if n % 10 == 0:
        time.sleep(0.005)  # a pace that leaves time to join, to fail and to resume meanwhile
streamer.flush(timeout=60)
"""


@dataclass
class Watcher:
    """A client of the plain endpoint that resumes, on whichever gateway there is, by its cursor."""

    node: str
    job: str | None
    ports: list[int]
    after: str | None = None
    connections: int = 0
    got: list[dict[str, object]] = field(default_factory=list)
    progress: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, rng: random.Random) -> None:
        path = f"/nodes/{self.node}" + (f"/jobs/{self.job}" if self.job else "")
        while True:
            query = f"?after={self.after}" if self.after else ""
            url = f"ws://127.0.0.1:{rng.choice(self.ports)}{path}{query}"
            with suppress(OSError, ConnectionClosed, InvalidHandshake):
                async with connect(url, compression=None) as connection:
                    self.connections += 1
                    while True:
                        message = json.loads(await connection.recv())
                        self.got.append(message)
                        self.after = message["cursor"]
                        self.progress.set()
            await asyncio.sleep(0.05)

    async def wait_for(self, count: int) -> None:
        while len(self.got) < count:
            self.progress.clear()
            await self.progress.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_every_watcher_has_every_update_once_and_in_order_though_a_gateway_is_killed(
    real_store: RedisServer, node: str, stack: ExitStack
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    writers = [_start_writer(stack, real_store.url, node, writer) for writer in range(WRITERS)]
    gateways = [stack.enter_context(GatewayProcess(real_store.url)) for _ in range(2)]
    ports = [gateway.port for gateway in gateways]

    watchers = [Watcher(node, rng.choice([None, *JOBS[:4]]), ports) for _ in range(CLIENTS)]
    watchers[0].job = None
    tasks = [asyncio.create_task(watchers[0].run(rng))]
    async with asyncio.timeout(DEADLINE_S):
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(b"go\n")
            writer.stdin.flush()
        moments = sorted(rng.randrange(TOTAL) for _ in watchers[1:])
        early = [moment for moment in moments if moment < TOTAL // 2]
        for moment, watcher in zip(early, watchers[1:], strict=False):
            await watchers[0].wait_for(moment)
            tasks.append(asyncio.create_task(watcher.run(rng)))
        await watchers[0].wait_for(TOTAL // 2)
        ports.remove(gateways[0].port)
        gateways[0].kill()
        for moment, watcher in zip(moments[len(early) :], watchers[1 + len(early) :], strict=True):
            await watchers[0].wait_for(moment)
            tasks.append(asyncio.create_task(watcher.run(rng)))

        await watchers[0].wait_for(TOTAL)
        for writer in writers:
            assert await asyncio.to_thread(writer.wait) == 0
        published = {job: [m for m in watchers[0].got if m["state"].get("job") == job] for job in JOBS}  # type: ignore[attr-defined]
        await asyncio.gather(*(w.wait_for(len(published[w.job]) if w.job else TOTAL) for w in watchers))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert sum(watcher.connections > 1 for watcher in watchers) > 0, "nobody had to resume"
    _check_log(watchers[0].got)
    for watcher in watchers:
        if watcher.job is None:
            assert watcher.got == watchers[0].got
        else:
            assert watcher.got == published[watcher.job]
            indexes = [message["index"] for message in watcher.got]
            assert [message["previous"] for message in watcher.got] == [-1, *indexes[:-1]]


def _start_writer(stack: ExitStack, redis_url: str, node: str, writer: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, node, str(writer), str(UPDATES_EACH)],
        stdin=subprocess.PIPE,
        env={"STREAMER_REDIS_URL": redis_url},
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def _check_log(messages: list[dict[str, object]]) -> None:
    """All that was published is there, each writer's in its order, and the indexes have no hole."""
    assert [message["index"] for message in messages] == list(range(TOTAL))
    for writer in range(WRITERS):
        numbers = [m["state"]["n"] for m in messages if m["state"]["writer"] == writer]  # type: ignore[index]
        assert numbers == list(range(UPDATES_EACH))
