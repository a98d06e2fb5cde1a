"""A port that several processes of ours are to listen on together, and nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from streamer.core.errors import InvalidSetting

_SHARED = "SO_REUSEPORT"


@contextmanager
def claim(host: str, port: int) -> Iterator[int]:
    """Within the block, keep a port of a host for those of this user who set SO_REUSEPORT; give its number.

    0 is for a free one. Nothing listens yet: until somebody does, connections are refused. Raises OSError where the
    port cannot be had, also where another claims it, and InvalidSetting on a system where no port can be shared.
    """
    if not hasattr(socket, _SHARED):
        raise InvalidSetting(f"this system has no {_SHARED}, without which several processes cannot share a port")
    with ExitStack() as stack:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            claimed = stack.enter_context(_claim(family, (address[0], port, *address[2:])))
            port = claimed.getsockname()[1]
        yield port


def _claim(family: socket.AddressFamily, address: tuple[str | int, ...]) -> socket.socket:
    """Return a socket that is bound and does not listen, so that the kernel gives it no connections.

    To bind it with SO_REUSEPORT is not enough: that would share the port with whoever did the same before. To look
    first whether the port is free would let another in between. So a socket listens alone, as any server does, and
    lets the other in only then. SO_REUSEADDR is for what former connections have left behind; two that are bound with
    it, and do not listen, would not exclude each other.
    """
    with _bound(family, address) as listening:
        listening.listen()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        claimed = _bound(family, listening.getsockname(), shared=True)
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return claimed


def _bound(family: socket.AddressFamily, address: tuple[str | int, ...], shared: bool = False) -> socket.socket:
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # As asyncio does: the same port of IPv4 has a socket of its own.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        # As asyncio tells it, with the address.
        raise OSError(error.errno, f"error while attempting to bind on address {address!r}: {error.strerror}") from None
    return bound
