"""A port is claimed for several processes of ours, and for nobody else."""

from __future__ import annotations

import socket

import pytest

from streamer.core.errors import InvalidSetting
from tests.servers import wait_until
from workers.gateway.ports import claim


def _listen(port: int, *, shared: bool) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), reuse_port=shared)


@pytest.mark.parametrize("listeners", [0, 2])
def test_it_is_for_those_who_share_and_for_no_second_claim_and_no_other_server(listeners: int) -> None:
    with claim("127.0.0.1", 0) as port:
        ours = [_listen(port, shared=True) for _ in range(listeners)]
        for _ in range(2):
            with pytest.raises(OSError, match="in use"), claim("127.0.0.1", port):
                pytest.fail("it was claimed twice")
            with pytest.raises(OSError, match="in use"):
                _listen(port, shared=False)
            for one in ours:
                one.close()
    with claim("127.0.0.1", port):
        pass


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_on_which_others_listen_cannot_be_claimed(shared: bool) -> None:
    with _listen(0, shared=shared) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(OSError, match=rf"\('127.0.0.1', {port}\): Address already in use"),
            claim("127.0.0.1", port),
        ):
            pytest.fail("it was claimed")


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_left_of_former_connections_does_not_matter(shared: bool) -> None:
    with _listen(0, shared=shared) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            # The side that closes first keeps the port for a while: now, and when the other has closed, too.
            server.accept()[0].close()
            server.close()
            with claim("127.0.0.1", port), _listen(port, shared=True):
                assert client.recv(1) == b""
    with claim("127.0.0.1", port), _listen(port, shared=True):
        pass


def test_until_somebody_listens_connections_are_refused() -> None:
    with claim("127.0.0.1", 0) as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with _listen(port, shared=True):
            wait_until("it is reached", lambda: socket.create_connection(("127.0.0.1", port)).close() is None)


def test_a_host_of_several_addresses_has_one_port_on_all() -> None:
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    with claim("localhost", 0) as port:
        for family, _, _, _, address in found:
            with socket.socket(family) as other, pytest.raises(OSError, match="in use"):
                other.bind((address[0], port, *address[2:]))


def test_where_no_port_can_be_shared_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(InvalidSetting, match="has no SO_REUSEPORT"), claim("127.0.0.1", 0):
        pytest.fail("it was claimed")


def test_an_unknown_host_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"."), claim("no-such-host.invalid", 0):
        pytest.fail("it was claimed")
