"""Updates on their way to Redis: one, and a batch of them."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """An update on its way: the job it belongs to, and its packed tail (see records)."""

    job: str | None
    tail: bytes


class Batch(NamedTuple):
    """Entries to append together; the first has the sequence number ``first``, the others follow without a hole.

    ``after`` is up to where Redis must have the writer's entries already: where it has fewer, since it lost some, it
    must take none of the batch. It is ``first - 1``, unless those between are known to be lost.
    """

    first: int
    entries: list[Entry]
    after: int = 0

    @property
    def jobs(self) -> list[str]:
        """The jobs that the entries are of, each once."""
        return list(dict.fromkeys(job for job, _ in self.entries if job is not None))

    @property
    def last(self) -> int:
        """The sequence number of the last entry."""
        return self.first + len(self.entries) - 1
