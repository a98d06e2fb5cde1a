"""A TCP proxy between a client and its Redis, or a gateway, that fails on command."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from threading import Event

from workers.link import Link


class Proxy(Link):
    """A link to a server of the loopback interface, which also answers for it, and loses messages.

    ``asked`` is set once a client has sent something, ``failed`` once an answer was replaced; ``swallowed`` is how many
    messages were swallowed so far.
    """

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self._asking = Event()
        self._asking.set()
        self._delay_s = 0.0
        self._replacements: list[bytes] = []
        self._unwanted: list[re.Pattern[bytes]] = []
        self.swallowed = 0
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

    def delay(self, seconds: float) -> None:
        """Pass everything on so much later from now on, each way."""
        self._delay_s = seconds

    def half_close(self) -> None:
        """Tell the clients of all connections that no answer follows, and the server nothing."""
        with self._lock, suppress(OSError):
            for client, _ in self._pairs:
                client.shutdown(socket.SHUT_WR)

    def redirect(self, port: int) -> None:
        """End all connections, and lead new ones to another server: as a failover looks to a client."""
        self.lead_to(port)
        self.end_all()

    def replace_next_answer(self, answer: bytes) -> None:
        """Give this instead of the next answer; where it is empty, the connection ends."""
        with self._lock:
            self.failed.clear()
            self._replacements.append(answer)

    def swallow_next(self, channel: str) -> None:
        """Drop the next message that Redis delivers on a channel, of which nobody is told. It must be a short one."""
        name = channel.encode()
        start = rb"[*>]3\r\n\$7\r\nmessage\r\n\$%d\r\n%s\r\n\$(\d+)\r\n" % (len(name), re.escape(name))
        with self._lock:
            self._unwanted.append(re.compile(start))

    def take_request(self, data: bytes) -> bytes | None:
        """Give what is to be passed on of a client's request."""
        time.sleep(self._delay_s)
        self.asked.set()
        self._asking.wait()
        return super().take_request(data)

    def take_answer(self, data: bytes) -> bytes | None:
        """Give what is to be passed on of a server's answer; None ends the connection."""
        time.sleep(self._delay_s)
        super().take_answer(data)
        with self._lock:
            if self._replacements:
                self.failed.set()
                return self._replacements.pop(0) or None
            return self._without_unwanted(data)

    def _without_unwanted(self, data: bytes) -> bytes:
        for unwanted in list(self._unwanted):
            if (found := unwanted.search(data)) and len(data) >= (end := found.end() + int(found[1]) + 2):
                self._unwanted.remove(unwanted)
                self.swallowed += 1
                data = data[: found.start()] + data[end:]
        return data
