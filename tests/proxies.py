"""A TCP proxy between a client and its Redis that fails on command."""

from __future__ import annotations

from threading import Event, Lock

from workers.link import Link


class Proxy(Link):
    """A link to a server of the loopback interface, which also answers for it.

    ``asked`` is set once a client has sent something, ``failed`` once an answer was replaced.
    """

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self._asking = Event()
        self._asking.set()
        self._replacing = Lock()
        self._replacements: list[bytes] = []
        self.asked, self.failed = Event(), Event()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def lead_to(self, port: int) -> None:
        """Connect those who come from now on with another server."""
        self._address = "127.0.0.1", port

    def hold_requests(self) -> None:
        """Keep requests back from now on: they arrive late, once they are released."""
        self._asking.clear()

    def release(self) -> None:
        """Pass on requests and answers again, those that were kept back first."""
        self._asking.set()
        super().release()

    def redirect(self, port: int) -> None:
        """End all connections, and lead new ones to another server: as a failover looks to a client."""
        self.lead_to(port)
        self.end_all()

    def replace_next_answer(self, answer: bytes) -> None:
        """Give this instead of the next answer."""
        with self._replacing:
            self.failed.clear()
            self._replacements.append(answer)

    def take_request(self, data: bytes) -> bytes:
        """Pass it on, once it is released."""
        self.asked.set()
        self._asking.wait()
        return data

    def take_answer(self, data: bytes) -> bytes:
        """Pass it on, once it is released, or what is to stand in its place."""
        data = super().take_answer(data)
        with self._replacing:
            if not self._replacements:
                return data
            self.failed.set()
            return self._replacements.pop(0)
