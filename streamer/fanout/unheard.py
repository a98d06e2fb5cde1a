"""Which of the updates that a feed has read from the log pub/sub has lost, and which were only under way."""

from __future__ import annotations


class Unheard:
    """Follows what was read and what was delivered, by index; for one event loop.

    A channel's deliveries come in the order of the log. So what was read is lost once something behind it has come
    without it, or where it has not come between one look and the next.
    """

    def __init__(self) -> None:
        self._read: int | None = None
        self._looked_at: int | None = None
        self._delivered: int | None = None

    def delivered_untaken(self, index: int) -> None:
        """An update was delivered, and the log has to be read first."""
        self._delivered = index if self._delivered is None else min(index, self._delivered)

    def dropped(self) -> None:
        """What was delivered is dropped: whatever is read next may have been among that."""
        self._delivered = -1

    def read(self, first: int) -> bool:
        """Updates were read, from an index on; return whether it is clear already that the first was lost."""
        if self._delivered is None:
            self._read = first if self._read is None else self._read
            return False
        lost = first < self._delivered
        if lost:
            # What comes on the next pages is of the same loss.
            self._delivered = -1
        return lost

    def read_to_head(self) -> None:
        """All that the log had is read."""
        self._delivered = None

    def delivered(self, index: int) -> bool:
        """An update was delivered that the feed has now; return whether one that was read before it is lost."""
        if self._read is None or index < self._read:
            return False
        lost = index > self._read
        self._read = None
        return lost

    def look(self) -> bool:
        """Return whether something that was read before the last look has not been delivered since."""
        lost = self._read is not None and self._read == self._looked_at
        if lost:
            self._read = None
        self._looked_at = self._read
        return lost

    def forget(self) -> None:
        """The log has lost what was read."""
        self._read = None
