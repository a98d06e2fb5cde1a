"""One connection of the plain endpoint that watches the fleet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from streamer.fanout.closing import close_soon
from streamer.fanout.fleet_feed import FleetFeed
from streamer.fanout.fleet_watch import FleetWatch
from streamer.fanout.following import Failure
from streamer.fanout.session import closing_of

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection


class FleetSession:
    """A connection of the plain endpoint on the fleet, for one event loop: each message is a node's summary.

    Nobody else may close it while it is open. One that takes nothing for ``stall_s`` seconds is closed.
    """

    def __init__(self, connection: ServerConnection, stall_s: float) -> None:
        self._connection, self._stall_s = connection, stall_s
        self._watch = FleetWatch(connection, None, stall_s, lambda: None, self._failed)
        connection.connection_lost_waiter.add_done_callback(self._connection_lost)

    def begin(self, feed: FleetFeed) -> None:
        """Tell of all nodes, and then of changes."""
        self._watch.join(feed)

    def how_to_go_on(self) -> str:
        """Say to a client how it comes back."""
        return "come back"

    def close(self, code: int, reason: str) -> None:
        """End, and close the connection in the background."""
        self.end()
        close_soon(self._connection, code, reason)

    def end(self) -> None:
        """Watch no longer, or never. The connection stays as it is. Ending twice changes nothing."""
        self._watch.end()
        self._connection.connection_lost_waiter.remove_done_callback(self._connection_lost)

    def _failed(self, failure: Failure) -> None:
        code, why = closing_of(failure, self._stall_s)
        self.close(code, f"{why}; {self.how_to_go_on()}")

    def _connection_lost(self, _: asyncio.Future[None]) -> None:
        self.end()
