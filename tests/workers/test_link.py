"""A link to a server that is cut, mended and silent on command."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from tests.servers import free_port
from workers.link import Link

DEADLINE_S = 10.0


class Echo(StreamRequestHandler):
    """Answers what it is told."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


@pytest.fixture
def link() -> Iterator[Link]:
    with ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with Link("127.0.0.1", server.server_address[1]) as link:
                yield link
        finally:
            server.shutdown()
            serving.join()


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), DEADLINE_S)


def ask(connection: socket.socket) -> bytes:
    """What comes back; nothing where the connection has ended."""
    try:
        connection.sendall(b"hello\n")
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_what_is_cut_ends_and_nothing_gets_through_until_it_is_mended(link: Link) -> None:
    with connect(link) as before:
        assert ask(before) == b"hello\n"
        link.cut()
        assert ask(before) == b""
        with connect(link) as meanwhile:
            assert ask(meanwhile) == b""
    link.mend()
    with connect(link) as after:
        assert ask(after) == b"hello\n"


def test_what_is_held_back_comes_once_it_is_released(link: Link) -> None:
    with connect(link) as connection:
        assert ask(connection) == b"hello\n"
        link.hold()
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(connection)
        link.release()
        connection.settimeout(DEADLINE_S)
        assert connection.recv(100) == b"hello\n"


def test_a_server_that_is_not_there_ends_the_connection_and_not_the_link() -> None:
    port = free_port()
    with Link("127.0.0.1", port) as link:
        with connect(link) as connection:
            assert ask(connection) == b""
        with ThreadingTCPServer(("127.0.0.1", port), Echo) as server:
            server.daemon_threads = True
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            with connect(link) as connection:
                assert ask(connection) == b"hello\n"
            server.shutdown()
            serving.join()
