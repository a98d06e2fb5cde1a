"""Names of nodes and jobs, and the topics made of them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from streamer.core.errors import InvalidName

ALL = "all"
"""Stands for every update of a node where a job's name could stand, so no job may have it."""

MAX_NAME_BYTES = 256


class Topic(NamedTuple):
    """What one can subscribe to: a job of a node, or (job None) everything of the node."""

    node: str
    job: str | None = None

    def __str__(self) -> str:
        return self.node if self.job is None else f"{self.node}/{self.job}"


@dataclass(frozen=True)
class JobAnywhere:
    """A job on whichever nodes run it."""

    job: str

    def __str__(self) -> str:
        return f"job {self.job} on all nodes"


@dataclass(frozen=True)
class Fleet:
    """The summaries of all nodes."""

    def __str__(self) -> str:
        return "the fleet"


Subject = Topic | JobAnywhere | Fleet
"""What a client can subscribe to."""


def check_node(name: object) -> str:
    """Return a node's name unchanged; raise InvalidName with a sentence that says what is wrong with it."""
    return _check("node", name)


def check_job(name: object) -> str:
    """Return a job's name unchanged; raise InvalidName with a sentence that says what is wrong with it."""
    if name == ALL:
        raise InvalidName(f"a job's name cannot be {ALL!r}: that stands for all updates of the node")
    return _check("job", name)


def _check(kind: str, name: object) -> str:
    if not isinstance(name, str):
        raise InvalidName(f"a {kind}'s name must be text, not {type(name).__name__}")
    if not name:
        raise InvalidName(f"a {kind}'s name cannot be empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidName(f"a {kind}'s name must be valid Unicode; {name!a} holds half a surrogate pair") from None
    if size > MAX_NAME_BYTES:
        raise InvalidName(f"a {kind}'s name may have {MAX_NAME_BYTES} bytes at the most, this one has {size}")
    if not name.isprintable():  # which is much faster than a look at each character
        for character in name:
            if unicodedata.category(character) == "Cc":
                raise InvalidName(f"a {kind}'s name cannot hold control characters, this one holds {character!a}")
    return name
