"""One connection that watches the fleet: how far it has been told, and how it is told the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from websockets.protocol import OPEN

from streamer.core.protocol import Format, nodes_frame
from streamer.fanout.following import Failure, takes_deflated

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from streamer.core.fleet_view import NodeSummary
    from streamer.fanout.fleet_feed import FleetFeed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """How summaries are written: as messages of v1 or, for None, of the plain endpoint; compressed or not."""

    format: Format | None
    deflated: bool

    def frame(self, nodes: list[NodeSummary]) -> bytes:
        """Summaries, as they are written."""
        return nodes_frame(nodes, self.format, self.deflated)


class Page(NamedTuple):
    """Summaries as they are written, nothing where there are none, and the number of the last change in them."""

    data: bytes
    last: int


class FleetWatch:
    """A `websockets` server connection on the fleet, for one event loop. ``number`` is that of the last change written.

    ``on_head`` is called once, when it has been told of all that there was; ``on_failure`` when it can be told no more,
    as where the connection takes nothing for ``stall_s`` seconds: it has ended then.
    """

    def __init__(
        self,
        connection: ServerConnection,
        format: Format | None,
        stall_s: float,
        on_head: Callable[[], None],
        on_failure: Callable[[Failure], None],
    ) -> None:
        self.number = 0
        self._connection, self._stall_s, self._on_failure = connection, stall_s, on_failure
        self._on_head: Callable[[], None] | None = on_head
        self._form = Form(format, takes_deflated(connection))
        self._feed: FleetFeed | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ended = False

    def join(self, feed: FleetFeed) -> None:
        """Tell of all nodes, and then of changes. One that has ended does not join."""
        if not self._ended:
            self._feed = feed
            feed.watches.add(self)
            self.wake()

    def wake(self) -> None:
        """Tell what has changed: now, or once the connection takes it."""
        feed = self._feed
        if feed is None or self._reading is not None:
            return
        if self._connection.paused or not self._write_on(feed):
            self._reading = asyncio.get_running_loop().create_task(self._read_on(feed))

    def end(self) -> None:
        """Watch no longer, or never. The connection stays as it is. Ending twice changes nothing."""
        self._ended = True
        if self._feed is not None:
            self._feed.watches.discard(self)
            self._feed = None
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()

    def _write_on(self, feed: FleetFeed) -> bool:
        """Write the next page; return whether there was none any more."""
        page = feed.page_after(self.number, self._form)
        self.number = page.last
        if page.data:
            if self._connection.protocol.state is OPEN:
                self._connection.transport.write(page.data)
            return False
        if self._on_head is not None:
            on_head, self._on_head = self._on_head, None
            on_head()
        return True

    async def _read_on(self, feed: FleetFeed) -> None:
        connection = self._connection
        try:
            while not self._ended and connection.protocol.state is OPEN:
                if connection.paused:
                    async with asyncio.timeout(self._stall_s):
                        await connection.drain()
                else:
                    await asyncio.sleep(0)  # one page, and it is another's turn
                if not connection.paused and not self._ended and self._write_on(feed):
                    break
        except TimeoutError:
            self._fail(Failure.TOO_SLOW)
        except OSError:
            pass  # the connection is lost, which ends it
        except Exception:
            _log.exception("a watch of the fleet failed")
            self._fail(Failure.FAULT)
        finally:
            self._reading = None

    def _fail(self, failure: Failure) -> None:
        self.end()
        self._on_failure(failure)
