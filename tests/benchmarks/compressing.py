"""What compression saves on a join: bytes on the wire, and what it costs the gateway."""

from __future__ import annotations

import json
import selectors
import socket
import zlib
from collections.abc import Iterable, Iterator

from tests.benchmarks.clients import NotWhole
from tests.benchmarks.costs import Cost, measuring
from tests.benchmarks.figures import Figure, Target, ratio
from tests.benchmarks.lab import TIMEOUT_S, Lab, content_of, new_node

_HEAD = (
    "GET /nodes/{node} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
_COMPRESSED = 0xC1
_FLUSHED = b"\x00\x00\xff\xff"


def compress(lab: Lab, *, clients: int, history: int) -> Iterable[Figure]:
    """A join of clients that all offer compression, by a gateway that compresses and by one that does not."""
    node = new_node()
    lab.publish(node, content_of(history))
    plain_bytes, plain = _join(lab, node, clients, history)
    compressed_bytes, compressed = _join(lab, node, clients, history, "--compress")
    owed = clients * history
    return [
        Figure("plain_bytes", "plain: bytes per update", plain_bytes / history, "B"),
        Figure("bytes", "compressed: bytes per update", compressed_bytes / history, "B"),
        Figure("ratio", "bytes: compressed to plain", compressed_bytes / plain_bytes, "×", Target(most=0.8)),
        Figure("plain_us_per_update", "plain: CPU time per delivered update", plain.us_each(owed), "µs"),
        Figure("us_per_update", "compressed: CPU time per delivered update", compressed.us_each(owed), "µs"),
        Figure("cpu_ratio", "CPU time: compressed to plain", ratio(compressed.us_each(owed), plain.us_each(owed)), "×"),
    ]


def _join(lab: Lab, node: str, clients: int, history: int, *options: str) -> tuple[int, Cost]:
    """How many bytes one client is sent, all of them read and checked; and what it costs to send them to so many."""
    with lab.gateway(*options) as gateway, _connected(gateway.port, node) as client:
        size = _checked_size(client, history, compressed=bool(options))
    with lab.gateway(*options) as gateway, measuring(gateway) as cost:
        _read_all([_connected(gateway.port, node) for _ in range(clients)], size)
        cost.stop()
    return size, cost


def _connected(port: int, node: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
    client.sendall(_HEAD.format(node=node).encode())
    return client


def _checked_size(client: socket.socket, history: int, *, compressed: bool) -> int:
    """Read so many messages and check that their indexes go up by one; return how many bytes they were."""
    size = 0
    for number, (frame, message) in enumerate(_messages(client)):
        if json.loads(message)["index"] != number or (frame[0] == _COMPRESSED) is not compressed:
            raise NotWhole(f"message {number:,} is another, or not encoded as it was to be")
        size += len(frame)
        if number == history - 1:
            return size
    raise NotWhole("the gateway has ended the connection")


def _messages(client: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Each frame that comes behind the handshake, and its message."""
    with client.makefile("rb") as stream:
        while stream.readline() != b"\r\n":
            pass
        while header := stream.read(2):
            extended = stream.read({126: 2, 127: 8}.get(header[1], 0))
            payload = stream.read(int.from_bytes(extended) if extended else header[1])
            message = zlib.decompress(payload + _FLUSHED + b"\x03\x00", -15) if header[0] == _COMPRESSED else payload
            yield header + extended + payload, message


def _read_all(clients: list[socket.socket], size: int) -> None:
    """Read until each client has got so many bytes behind its handshake."""
    buffer = bytearray(1 << 20)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ, None)
        while selector.get_map():
            ready = selector.select(TIMEOUT_S)
            if not ready:
                raise NotWhole(f"{len(selector.get_map()):,} clients wait for the rest")
            for key, _ in ready:
                got = key.fileobj.recv_into(buffer)  # type: ignore[union-attr]
                if not got:
                    raise NotWhole("the gateway has ended a connection")
                # The handshake comes first, and whole.
                before = -(buffer.index(b"\r\n\r\n", 0, got) + 4) if key.data is None else key.data
                if before + got < size:
                    selector.modify(key.fileobj, selectors.EVENT_READ, before + got)
                else:
                    selector.unregister(key.fileobj)
    for client in clients:
        client.close()
