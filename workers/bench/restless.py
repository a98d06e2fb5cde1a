"""Clients that come, go, stall and come back at random, as people's do. What they do follows from a seed."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import Any

from streamer.core.backoff import backoff
from streamer.core.messages import GAP, RESET, TOO_SLOW
from workers.bench.client import CannotConnect, Client, Target
from workers.bench.connection import Connection

STAY_S = (0.2, 2.0)
STALL_S = (0.1, 1.5)
AWAY_S = (0.0, 0.5)

_FINAL = (RESET, GAP, TOO_SLOW)
"""Close codes that mean that updates are missed, or that a client was too slow: none of ours is."""


class Acts:
    """How often clients did what, or had it done to them."""

    def __init__(self) -> None:
        self.resumed = self.lost = self.renewed = self.stalls = 0


class Restless:
    """Lets clients be restless until a time (of the monotonic clock), and then stay until they have everything."""

    def __init__(self, target: Target, timeout_s: float, until: float, acts: Acts) -> None:
        self._target, self._timeout_s, self._until, self._acts = target, timeout_s, until, acts

    async def live(self, client: Client) -> None:
        """Come and go. Return once the client has failed for good, or has all and lost its connection."""
        waits = backoff(client.rng, first_s=0.1, most_s=1.0)
        tried_since = time.monotonic()
        while True:
            try:
                connection = await client.connect(self._target, self._timeout_s)
            except CannotConnect as error:
                if time.monotonic() - tried_since > self._timeout_s:
                    client.fail(f"could not come back: {error}")
                    return
                self._acts.lost += 1
                await asyncio.sleep(next(waits))
                continue
            waits = backoff(client.rng, first_s=0.1, most_s=1.0)
            left = await self._stay(client, connection)
            ending = await connection.lost
            tried_since = time.monotonic()
            if ending.code in _FINAL:
                client.fail(f"lost its connection ({ending})")
            if client.trouble or client.steady or client.done.is_set() or client.finishing:
                return
            if not left:
                self._acts.lost += 1
            await asyncio.sleep(client.rng.uniform(*AWAY_S))

    async def _stay(self, client: Client, connection: Connection) -> bool:
        """Be connected for a while; return whether it was the client that left."""
        while True:
            await self._wait(client, connection)
            if connection.lost.done():
                return False
            if client.done.is_set() or client.steady or time.monotonic() > self._until:
                await connection.lost
                return False
            act = client.rng.random()
            if act < 0.4:
                await self._stall(client, connection)
            else:
                self._leave(client, connection, client.rng)
                await connection.lost
                if client.done.is_set() or client.steady:
                    return True
                if client.rng.random() < 0.2:
                    self._acts.renewed += 1
                    client.begin_anew()
                else:
                    self._acts.resumed += 1
                return True

    async def _wait(self, client: Client, connection: Connection) -> None:
        done = asyncio.ensure_future(client.done.wait())
        ends: list[asyncio.Future[Any]] = [done, connection.lost]
        try:
            await asyncio.wait(ends, timeout=client.rng.uniform(*STAY_S), return_when=asyncio.FIRST_COMPLETED)
        finally:
            done.cancel()

    async def _stall(self, client: Client, connection: Connection) -> None:
        self._acts.stalls += 1
        connection.stall()
        client.be_behind()
        try:
            await asyncio.sleep(client.rng.uniform(*STALL_S))
        finally:
            connection.read_on()
            client.be_current()

    @staticmethod
    def _leave(client: Client, connection: Connection, rng: Random) -> None:
        if rng.random() < 0.5:
            connection.abort()
        else:
            connection.leave()
