"""A TCP proxy between a client and its Redis that fails on command."""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Event, Lock, Thread
from types import TracebackType


class Proxy:
    """Passes on what clients and a server of the loopback interface send; a context manager that ends with all of it.

    ``asked`` is set once a client has sent something, ``failed`` once an answer was replaced.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[Thread] = []
        self._answering = Event()
        self._answering.set()
        self._asking = Event()
        self._asking.set()
        self._lock = Lock()
        self._replacements: list[bytes] = []
        self.asked, self.failed = Event(), Event()
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        for end in self._sockets:
            _shut(end)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def lead_to(self, port: int) -> None:
        """Connect those who come from now on with another server."""
        self._port = port

    def hold(self) -> None:
        """Keep answers back from now on: the server then looks as if it accepted and never answered."""
        self._answering.clear()

    def hold_requests(self) -> None:
        """Keep requests back from now on: they arrive late, once they are released."""
        self._asking.clear()

    def release(self) -> None:
        """Pass on requests and answers again, those that were kept back first."""
        self._asking.set()
        self._answering.set()

    def redirect(self, port: int) -> None:
        """End all connections, and lead new ones to another server: as a failover looks to a client."""
        self.lead_to(port)
        for end in self._sockets[1:]:
            _shut(end)

    def replace_next_answer(self, answer: bytes) -> None:
        """Give this instead of the next answer."""
        with self._lock:
            self.failed.clear()
            self._replacements.append(answer)

    def _start(self, target: object, *arguments: object) -> None:
        thread = Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets.append(server)
                self._start(self._pass_on, client, server, False)
                self._start(self._pass_on, server, client, True)

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if answers:
                    self._answering.wait()
                    data = self._replaced(data)
                else:
                    self.asked.set()
                    self._asking.wait()
                if not data:
                    break
                sink.sendall(data)
        _shut(source)
        _shut(sink)

    def _replaced(self, answer: bytes) -> bytes:
        with self._lock:
            if not self._replacements:
                return answer
            self.failed.set()
            return self._replacements.pop(0)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
