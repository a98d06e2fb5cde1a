"""What is older than a feed's window: read from the log in chunks, which those who read on at the same time share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from streamer.core.window import Chunk
from streamer.fanout.shared_reads import SharedReads

OLDER_BYTES = 8 << 20
"""How much is kept of one topic for those a moment behind; beyond it, they read the log again."""


class Older:
    """Chunks of a topic's frames by the index behind which they stand; for one event loop.

    Args:
        read: reads the log behind an index; gives chunks that stand one behind another, or none. It may raise.
        grew: is told how many bytes more there are in memory, and may have them forgotten.
    """

    def __init__(self, read: Callable[[int], Awaitable[list[Chunk]]], grew: Callable[[int], None]) -> None:
        self._read, self._grew = read, grew
        self._chunks: OrderedDict[int, Chunk] = OrderedDict()
        self._reads: SharedReads[int, Chunk | None] = SharedReads()
        self.size_bytes = 0

    async def after(self, index: int) -> Chunk | None:
        """The frames behind an index, None where the log must be looked at again. Raises what reading it raises.

        However many ask meanwhile, the log is read once. May be cancelled, which leaves the others their answer.
        """
        if chunk := self._chunks.get(index):
            return chunk
        return await self._reads.get(index, lambda: self._read_and_keep(index))

    async def _read_and_keep(self, index: int) -> Chunk | None:
        chunks = await self._read(index)
        size = sum(len(chunk.data) for chunk in chunks)
        for chunk in chunks:
            self._keep(index, chunk)
            index = chunk.last
        self._grew(size)
        return chunks[0] if chunks else None

    def _keep(self, index: int, chunk: Chunk) -> None:
        # What is no longer kept is not, either: by the next time, it is more.
        if chunk.data and index not in self._chunks:
            self._chunks[index] = chunk
            self.size_bytes += len(chunk.data)
        while self.size_bytes > OLDER_BYTES:
            _, oldest = self._chunks.popitem(last=False)
            self.size_bytes -= len(oldest.data)

    def forget(self) -> None:
        """Keep nothing, since the log is another now, or nobody is behind."""
        self._chunks.clear()
        self.size_bytes = 0

    def close(self) -> None:
        """End what is being read. Those who wait for it are cancelled."""
        self._reads.close()
