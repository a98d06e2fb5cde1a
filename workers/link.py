"""A link between processes of this machine and a server, which is cut and goes silent on command: a TCP proxy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Self

CONNECT_S = 5.0

Take = Callable[[bytes], bytes | None]


class Link:
    """Passes on what clients of this machine and a server send; a context manager that ends with all of it.

    Its threads are daemons. All methods may be called from any thread.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        """Where it listens, on the loopback interface."""
        self._lock = Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._answering = Event()
        self._answering.set()
        self._cut = False
        self._accepting = Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self.release()
        _shut(self._listener)
        self._accepting.join()
        self._listener.close()

    def hold(self) -> None:
        """Keep answers back from now on: the server then looks as if it accepted and never answered."""
        self._answering.clear()

    def release(self) -> None:
        """Pass on answers again, those that were kept back first."""
        self._answering.set()

    def cut(self) -> None:
        """End all connections, and let none come to be until `mend`."""
        with self._lock:
            self._cut = True
        self.end_all()

    def mend(self) -> None:
        """Let connections come to be again."""
        with self._lock:
            self._cut = False

    def end_all(self) -> None:
        """End all connections that there are."""
        with self._lock:
            for pair in self._pairs:
                for end in pair:
                    _shut(end)

    def take_answer(self, data: bytes) -> bytes | None:
        """Give what is to be passed on of a server's answer; None ends the connection."""
        self._answering.wait()
        return data

    def take_request(self, data: bytes) -> bytes | None:
        """Give what is to be passed on of a client's request; None ends the connection."""
        return data

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._address, CONNECT_S)
            except OSError:
                return
            server.settimeout(None)
            with server:
                self._join(client, server)

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        pair = client, server
        with self._lock:
            if self._cut:
                return
            self._pairs.add(pair)
        answering = Thread(target=self._pass_on, args=(server, client, self.take_answer), daemon=True)
        answering.start()
        self._pass_on(client, server, self.take_request)
        answering.join()
        with self._lock:
            self._pairs.discard(pair)

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket, take: Take) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if (taken := take(data)) is None:
                    break
                sink.sendall(taken)
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
