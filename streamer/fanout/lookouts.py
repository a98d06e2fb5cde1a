"""The indexes of jobs and the fleet that somebody follows: opened by the first, kept a little beyond the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TypeVar, cast

from streamer.core.errors import LogUnavailable
from streamer.core.names import Fleet, JobAnywhere, Subject
from streamer.fanout.fleet_feed import FleetFeed
from streamer.fanout.job_nodes import JobNodes
from streamer.fanout.lookout import Lookout
from streamer.log.keys import Keys
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber

FLEET_CHECKS = 12
"""The fleet is read after so many times the seconds after which an index is: it is larger, and mends itself with each
node's next update."""

L = TypeVar("L", bound=Lookout)


class Lookouts:
    """All lookouts of a hub, for one event loop; the arguments are the hub's."""

    def __init__(
        self,
        reader: Reader,
        subscriber: Subscriber,
        keys: Keys,
        *,
        check_s: float,
        open_timeout_s: float,
        keep_s: float,
        rng: Random,
    ) -> None:
        self._reader, self._subscriber, self._keys, self._rng = reader, subscriber, keys, rng
        self._check_s, self._open_timeout_s, self._keep_s = check_s, open_timeout_s, keep_s
        self._kept: dict[Subject, Lookout] = {}

    async def job(self, job: str) -> JobNodes:
        """The nodes of a job, once they have been read. Raises LogUnavailable. May be cancelled.

        It is let go of unless it is followed before anything else is awaited.
        """
        return await self._opened(JobAnywhere(job), lambda: self._look_at(job))

    async def fleet(self) -> FleetFeed:
        """The fleet, once it has been read. As `job`."""
        return await self._opened(Fleet(), self._look_at_fleet)

    def let_go(self, now: float) -> None:
        """Let go of what nobody has followed for a while."""
        for subject, lookout in list(self._kept.items()):
            if lookout.unwanted_s(now) >= self._keep_s:
                self._kept.pop(subject).close()

    def close(self) -> None:
        """Let go of all."""
        while self._kept:
            self._kept.popitem()[1].close()

    def _look_at(self, job: str) -> JobNodes:
        return JobNodes(job, self._reader, self._subscriber, self._keys, self._check_s, self._rng)

    def _look_at_fleet(self) -> FleetFeed:
        return FleetFeed(self._reader, self._subscriber, self._keys, FLEET_CHECKS * self._check_s, self._rng)

    async def _opened(self, subject: Subject, make: Callable[[], L]) -> L:
        lookout = self._kept.get(subject)
        if lookout is None or lookout.failed:
            lookout = self._kept[subject] = make()
        try:
            with lookout.held():
                async with asyncio.timeout(self._open_timeout_s):
                    await asyncio.shield(lookout.opened)
        except TimeoutError:
            raise LogUnavailable(f"Redis did not answer within {self._open_timeout_s:g} s") from None
        return cast(L, lookout)
