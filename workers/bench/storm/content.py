"""What the nodes of a storm publish: each update says who it is, and whoever receives it can tell. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec

STATUS = "storming"


class Name(NamedTuple):
    """Which update it is: the one of that number, from 0, that the node's process of that number accepted."""

    process: int
    number: int

    def __str__(self) -> str:
        return f"{self.number} of process {self.process}"


class Altered(Exception):
    """An update that is none as it was published; the text says what of it is wrong."""


class Content(msgspec.Struct, frozen=True):
    """The updates of one storm. They belong to ``jobs`` jobs of the node and to none in turn."""

    seed: int
    size: int
    jobs: int

    @property
    def job_names(self) -> list[str]:
        """A node's jobs."""
        return [f"job-{number}" for number in range(self.jobs)]

    def job(self, number: int) -> str | None:
        """The job that an update belongs to."""
        turn = number % (self.jobs + 1)
        return None if turn == self.jobs else f"job-{turn}"

    def state(self, node: str, name: Name, timestamp: int) -> dict[str, Any]:
        """An update's state."""
        job = self.job(name.number)
        text = f"{self.seed}:{node}:{name.process}:{name.number}:{timestamp}"
        block = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
        pad = (block * (self.size // len(block) + 1))[: max(self.size, 16)]
        state: dict[str, Any] = {"process": name.process, "n": name.number, "pad": pad}
        return state if job is None else {**state, "job": job}

    def name(self, node: str, status: str, state: dict[str, Any], timestamp: int) -> Name:
        """Which update it is. Raises Altered."""
        process, number = state.get("process"), state.get("n")
        if not isinstance(process, int) or not isinstance(number, int):
            raise Altered("its state does not say which update it is")
        name = Name(process, number)
        if status != STATUS:
            raise Altered(f"the status of {name} is {status!r:.60}, not {STATUS!r}")
        if state != self.state(node, name, timestamp):
            raise Altered(f"the state or the timestamp of {name} is not what was published")
        return name
