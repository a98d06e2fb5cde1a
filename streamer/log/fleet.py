"""What the fleet's hash tells of each node, for lists of nodes: a summary, a moment old."""

from __future__ import annotations

import msgspec

from streamer.core.fleet_view import NodeSummary


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

    def of(self, node: str) -> NodeSummary:
        """The same, with the node's name."""
        return NodeSummary(node=node, last_seen=self.last_seen, status=self.status, job=self.job, index=self.index)


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What the fleet's channel tells of a node: its summary; None where it has been taken out of the fleet's hash."""

    node: str
    summary: Summary | None

    def pack(self) -> bytes:
        """The message."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, data: bytes) -> Told:
        """Read a message. Raises ValueError where the bytes are none."""
        return msgspec.msgpack.decode(data, type=cls)


class JobSummary(msgspec.Struct, frozen=True):
    """A job's last update."""

    job: str
    last_seen: int
    status: str
    index: int
