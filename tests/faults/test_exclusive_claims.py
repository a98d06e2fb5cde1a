"""Two processes want one node for themselves: one writes, and who watches sees exactly its updates."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

from tests.commands import DEADLINE_S, updates
from tests.faults.conftest import StartNode
from tests.faults.nodes import NodeProcess, has_seen, numbers_of
from tests.faults.watchers import eventually, watching
from tests.gateways import GatewayProcess
from tests.proxies import Proxy
from tests.servers import RedisServer

LEASE = {"lease_s": 1}


async def test_a_process_is_refused_while_another_has_the_node_and_one_that_slept_past_its_lease_writes_nothing(
    valkey: RedisServer, start_node: StartNode, node: str
) -> None:
    async with AsyncExitStack() as stack:
        gateways = [stack.enter_context(GatewayProcess(valkey.url)) for _ in range(2)]
        watchers = [
            await stack.enter_async_context(watching(gateway, node, job))
            for gateway in gateways
            for job in (None, "job")
        ]
        link = stack.enter_context(Proxy(valkey.port))
        first = start_node(link.url, "--exclusive", settings=LEASE)
        await first.until_accepted(50)
        refused = start_node(valkey.url, "--exclusive", settings=LEASE)
        assert await asyncio.to_thread(refused.process.wait, DEADLINE_S) == 3
        [sentence] = refused.refusals
        assert "another process has it for itself" in sentence
        shared = start_node(valkey.url)
        await eventually("it is refused, too", lambda: shared.refusals)

        link.hold_requests()
        await first.until_accepted(20)
        first.process.send_signal(signal.SIGSTOP)
        await watchers[0].until("it has written", lambda seen: len(seen) > 50)
        second = await take_over(valkey, start_node, node)
        written = numbers_of(updates(valkey.url, node), first.first)
        link.release()  # what it had sent comes now
        await second.until_accepted(50)
        first.process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(first.process.wait, DEADLINE_S) == 3
        assert "is not this process's to write" in first.refusals[-1]
        await second.until_accepted(100)
        await asyncio.to_thread(second.end)
        await asyncio.to_thread(shared.end)

        log = updates(valkey.url, node)
        assert numbers_of(log, first.first) == written == first.accepted[: len(written)]
        assert numbers_of(log, second.first) == second.accepted
        assert numbers_of(log, shared.first) == shared.accepted
        assert len(log) == len(written) + len(second.accepted) + len(shared.accepted)
        for watcher in watchers:
            await has_seen(watcher, log)


async def take_over(store: RedisServer, start_node: StartNode, node: str) -> NodeProcess:
    """Start a process that wants the node for itself until one is not refused."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            process = start_node(store.url, "--exclusive", settings=LEASE)
            await eventually("it knows", lambda own=process: own.accepted or own.process.poll() is not None)
            if process.accepted:
                return process
