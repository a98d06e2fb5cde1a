"""What is older than a feed's window: read from the log in blocks, which those who read on at the same time share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from streamer.core.window import Block, Chunk, Encoding
from streamer.fanout.shared_reads import SharedReads

OLDER_BYTES = 8 << 20
"""How much is kept of one topic for those a moment behind; beyond it, they read the log again."""


class Gone(NamedTuple):
    """What stands behind an index is no longer kept, up to ``last``."""

    last: int


class Nothing(NamedTuple):
    """Nothing of the topic stands behind an index, up to ``last``, nor ever did."""

    last: int


Found = list[Block] | Gone | Nothing


class Older:
    """Blocks of a topic's frames by the index behind which they stand; for one event loop.

    Args:
        read: reads the log behind an index; gives blocks that stand one behind another, if there are any, or how far
            there is nothing, or nothing any more. It may raise.
        grew: is told how many bytes more there are in memory, and may have them forgotten.
    """

    def __init__(self, read: Callable[[int], Awaitable[Found]], grew: Callable[[int], None]) -> None:
        self._read, self._grew = read, grew
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._reads: SharedReads[int, Block | Gone | Nothing | None] = SharedReads()
        self.size_bytes = 0

    async def after(self, index: int, encoding: Encoding | None = None) -> Chunk | Gone | Nothing | None:
        """The records behind an index, None where the log must be looked at again. Raises what reading it raises.

        However many ask meanwhile, the log is read once. May be cancelled, which leaves the others their answer.
        """
        found = self._blocks.get(index) or await self._reads.get(index, lambda: self._read_and_keep(index))
        if not isinstance(found, Block):
            return found
        before = found.size_bytes
        chunk = found.after(index, encoding)
        if self._blocks.get(index) is found:
            self.size_bytes += found.size_bytes - before
        return chunk

    async def _read_and_keep(self, index: int) -> Block | Gone | Nothing | None:
        found = await self._read(index)
        if isinstance(found, Gone | Nothing):
            # Not kept: by the next time, it may be more.
            return found
        for block in found:
            self._keep(index, block)
            index = block.last
        self._grew(sum(block.size_bytes for block in found))
        return found[0] if found else None

    def _keep(self, index: int, block: Block) -> None:
        if index not in self._blocks:
            self._blocks[index] = block
            self.size_bytes += block.size_bytes
        while self.size_bytes > OLDER_BYTES:
            _, oldest = self._blocks.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

    def forget(self) -> None:
        """Keep nothing, since the log is another now, or nobody is behind."""
        self._blocks.clear()
        self.size_bytes = 0

    def close(self) -> None:
        """End what is being read. Those who wait for it are cancelled."""
        self._reads.close()
