"""Watchers with the package's own client, which comes back when its connection ends, through a balancer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from streamer.client import Reset, Update, connect
from tests.faults.watchers import Seen, Watcher
from tests.proxies import Proxy


class Roamer(Watcher):
    """Keeps what comes over however many connections. ``news`` is what its client told of them, and `reset`s."""

    def __init__(self) -> None:
        super().__init__()
        self.news: list[str] = []
        self.log_ids: list[str] = []
        """Of each update seen, the log's."""

    async def roam(self, url: str, node: str, job: str | None) -> None:
        """Watch, until cancelled."""
        async with connect(url, notify=self.news.append) as client:
            async for event in client.follow(node, job, events=True):
                if isinstance(event, Update):
                    log_id, epoch, _ = event.cursor.split(".")
                    self.log_ids.append(log_id)
                    self.seen.append(Seen(int(epoch), event.index, event.state.get("n", -1)))
                elif isinstance(event, Reset):
                    self.news.append("reset")
                self._came.set()

    def seen_of(self, log_id: str) -> list[Seen]:
        """What was seen of one log."""
        return [seen for seen, own in zip(self.seen, self.log_ids, strict=True) if own == log_id]


@asynccontextmanager
async def roaming(balancer: Proxy, node: str, *jobs: str | None) -> AsyncIterator[list[Roamer]]:
    """One who watches each of the jobs, or the node, by way of a balancer, to the end of the block."""
    roamers = [Roamer() for _ in jobs]
    async with AsyncExitStack() as stack:
        for roamer, job in zip(roamers, jobs, strict=True):
            task = asyncio.create_task(roamer.roam(f"ws://127.0.0.1:{balancer.port}", node, job))
            stack.push_async_callback(_end, task)
        yield roamers


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
