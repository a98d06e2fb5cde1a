"""How long numbered things have been waiting, without a time for each."""

from __future__ import annotations

from collections import deque


class Ages:
    """Times at which a queue was looked at, and from which number on things came later than that.

    So an age is told as if the thing had come just after the last look before it: no less than it is, and more by the
    time between two looks at the most.
    """

    def __init__(self) -> None:
        self._looks: deque[tuple[int, float]] = deque()

    def look(self, oldest: int, newest: int, now: float) -> None:
        """Take note that the queue goes from ``oldest`` to ``newest`` at the time ``now``."""
        if not self._looks or self._looks[0][0] > oldest:
            # They came to an empty queue, whose owner looks at once.
            self._looks.appendleft((oldest, now))
        if self._looks[-1][0] <= newest:
            self._looks.append((newest + 1, now))

    def of(self, number: int, now: float) -> float:
        """The age of what has this number, which waits; 0 where nobody has looked since it came."""
        for first, at in reversed(self._looks):
            if first <= number:
                return now - at
        return 0.0

    def forget(self, oldest: int | None) -> None:
        """From now on only what has this number or a greater one waits; None: nothing does."""
        if oldest is None:
            self._looks.clear()
        while len(self._looks) > 1 and self._looks[1][0] <= (oldest or 0):
            self._looks.popleft()
