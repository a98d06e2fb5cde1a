"""How far a consumer has got with a follow, and what it is given as a value and what as an exception."""

from __future__ import annotations

from collections.abc import Sequence

from streamer.client.errors import interruption
from streamer.client.messages import Event, Update
from streamer.core.protocol import Live


class Reading:
    """Hands out events one at a time. ``cursor`` is behind the last that was handed out, or where it began.

    With ``events`` each is a value. Else only updates are: a gap, a rewind or a reset is raised, and does not move the
    cursor, so that who does not go on meets it again.
    """

    def __init__(self, events: bool, cursor: str | None) -> None:
        self._all, self.cursor = events, cursor
        self._batch: Sequence[Event] = ()
        self._next = 0

    def turn_to(self, batch: Sequence[Event]) -> None:
        """What there is to hand out next. The last batch must be through."""
        self._batch, self._next = batch, 0

    @property
    def through(self) -> bool:
        """Whether all of it was handed out."""
        return self._next >= len(self._batch)

    def next(self) -> Event | None:
        """The next event, None where the batch is through. Raises Interrupted."""
        while not self.through:
            event = self._batch[self._next]
            self._next += 1
            if isinstance(event, Update) or self._all:
                self.cursor = event.cursor
                return event
            if not isinstance(event, Live):
                raise interruption(event)
        return None
