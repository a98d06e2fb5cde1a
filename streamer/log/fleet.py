"""What the fleet's hash tells of each node, for lists of nodes: a summary, a moment old."""

from __future__ import annotations

import msgspec


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """A node's last update: when Redis had it (ms since 1970), its status, its job and its index."""

    last_seen: int
    status: str
    job: str | None
    index: int

    def pack(self) -> bytes:
        """The summary as stored."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, data: bytes) -> Summary:
        """Read a stored summary. Raises ValueError where the bytes are none."""
        return msgspec.msgpack.decode(data, type=cls)


class JobSummary(msgspec.Struct, frozen=True):
    """A job's last update."""

    job: str
    last_seen: int
    status: str
    index: int
