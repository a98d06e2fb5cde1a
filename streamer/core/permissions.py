"""Who may see what: patterns for the names of nodes and jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from streamer.core.names import Fleet, JobAnywhere, Subject, Topic


@dataclass(frozen=True, slots=True)
class Permissions:
    """What somebody may see, and until when.

    A name is allowed where one of the patterns fits it whole: `*` stands for any run of characters, also for none, `?`
    for one character, and every other character for itself, in small and capital letters as written. Without a
    pattern nothing is allowed. ``admin`` is allowed everything. ``expires_at`` is in seconds since 1970, None: never.
    """

    nodes: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    admin: bool = False
    expires_at: float | None = None

    def may_see_node(self, node: str) -> bool:
        """Whether the node may be listed, and shown with those of its jobs that may be seen."""
        return self.admin or _fits(self.nodes, node)

    def may_see_job(self, job: str | None) -> bool:
        """Whether the updates of a job may be seen, on the nodes that may; None is for updates that are of no job.

        Only who may see every job may see those, since nothing says whose they are.
        """
        return self.sees_all_jobs or (job is not None and _fits(self.jobs, job))

    @property
    def sees_all_jobs(self) -> bool:
        """Whether every job may be seen, whatever its name, on the nodes that may."""
        return self.admin or _has_any(self.jobs)

    @property
    def sees_all_nodes(self) -> bool:
        """Whether every node may be seen, whatever its name."""
        return self.admin or _has_any(self.nodes)

    def may_watch(self, subject: Subject) -> bool:
        """Whether what is subscribed to may be seen. All of a node is for who may see every job, and the fleet for who
        may see every node, too. Of a job on all nodes it says nothing of the nodes: each is asked for when it comes.
        """
        match subject:
            case Topic(node, job):
                return self.may_see_node(node) and self.may_see_job(job)
            case JobAnywhere(job):
                return self.may_see_job(job)
            case Fleet():
                return self.sees_all_nodes and self.sees_all_jobs

    def missing_for(self, subject: Subject) -> str:
        """A sentence that says which permission it takes that is not there."""
        match subject:
            case Fleet():
                return "the token does not allow the fleet, which takes every node and every job: watch a node or a job"
            case Topic(node) if not self.may_see_node(node):
                return f"the token does not allow node {node!r}: no pattern of its `nodes` fits"
            case Topic(node, None):
                return f"the token allows only some jobs of node {node!r}, not all of its updates: watch a job"
        return f"the token does not allow job {subject.job!r}: no pattern of its `jobs` fits"


EVERYTHING = Permissions(admin=True)
"""For those whom nobody asks for a token."""


def _has_any(patterns: Iterable[str]) -> bool:
    return any(pattern and not pattern.strip("*") for pattern in patterns)


def _fits(patterns: Iterable[str], name: str) -> bool:
    return any(_expression(pattern).match(name) for pattern in patterns)


@lru_cache(1024)
def _expression(pattern: str) -> re.Pattern[str]:
    # Its `[…]` is none of ours. What it makes of several `*` never tries one again: no pattern takes for ever.
    return re.compile(translate(pattern.replace("[", "[[]")))
