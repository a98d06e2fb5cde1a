"""The nodes that run a job, by the job's index: shared by all who follow the job."""

from __future__ import annotations

import logging
from random import Random
from typing import Protocol

from streamer.core.errors import InvalidName
from streamer.core.names import check_node
from streamer.fanout.lookout import Lookout
from streamer.log.keys import Keys
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber

_log = logging.getLogger(__name__)


class Follows(Protocol):
    """Whoever follows a job."""

    def appeared(self, node: str) -> None:
        """A node runs the job. It must not block."""


class JobNodes(Lookout):
    """The nodes that are in one job's index, as far as is known. ``follows`` are told of each that is new here."""

    def __init__(
        self, job: str, reader: Reader, subscriber: Subscriber, keys: Keys, every_s: float, rng: Random
    ) -> None:
        self.nodes: dict[str, None] = {}
        self.follows: set[Follows] = set()
        self._heard: dict[str, None] = {}
        self._job, self._reader = job, reader
        super().__init__(f"the index of job {job}", subscriber, keys.job(job), every_s, rng)

    @property
    def followed(self) -> bool:
        """Whether anybody follows."""
        return bool(self.follows)

    def take(self, messages: list[bytes]) -> None:
        """Take the names of new nodes."""
        try:
            nodes = dict.fromkeys(check_node(message.decode()) for message in messages)
        except (UnicodeDecodeError, InvalidName) as error:
            _log.error("what was published of %s cannot be read: %s", self._name, error)
            self.interrupted()
        else:
            self._heard |= nodes
            self._know(self.nodes | nodes)

    async def look(self) -> None:
        """Read the index."""
        self._heard.clear()
        nodes = dict.fromkeys(await self._reader.nodes_of(self._job))
        # What was heard meanwhile may be missing there. Of the others, those go that it keeps no longer.
        self._know(nodes | self._heard)

    def _know(self, nodes: dict[str, None]) -> None:
        known, self.nodes = self.nodes, nodes
        for node in nodes:
            if node not in known:
                for follows in list(self.follows):
                    follows.appeared(node)
