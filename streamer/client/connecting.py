"""How a client is made."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, TypedDict

from streamer.client.client import Client
from streamer.client.opening import Opening, Token, tls_context
from streamer.core.errors import InvalidSetting
from streamer.core.protocol import Format


class Options(TypedDict, total=False):
    """What `connect` can be told beside the URL."""

    token: Token | None
    ca_file: str | None
    tls: ssl.SSLContext | None
    format: Literal["msgpack", "json"]
    timeout: float | None
    notify: Callable[[str], None]
    rng: Random | None


def connect(
    url: str | Sequence[str],
    *,
    token: Token | None = None,
    ca_file: str | None = None,
    tls: ssl.SSLContext | None = None,
    format: Literal["msgpack", "json"] = "msgpack",
    timeout: float | None = None,
    notify: Callable[[str], None] = lambda sentence: None,
    rng: Random | None = None,
) -> Client:
    """Make a client of a gateway, or of several that serve the same log. It connects as a context manager:

        async with connect("ws://127.0.0.1:8080") as client:
            async for update in client.follow("node1", job="job1"):
                print(update.index, update.status, update.state)

    Args:
        url: a gateway's URL, as `ws://host:8080` or `https://host/prefix`; of several, each try takes the next one.
        token: is sent as `Authorization: Bearer …`. What is callable is asked at each connection, in a thread, and
            may return an awaitable; an OSError of it counts as a failed try.
        ca_file: the authorities' certificates to trust, in PEM, in place of the system's.
        tls: a context of one's own, in place of that.
        format: how messages are written. msgpack costs less.
        timeout: seconds that the first connection may take; without, it is tried for ever. Later ones always are.
        notify: is called with a sentence when the connection is lost or there again, or a topic cannot be had now.
        rng: spreads the waits, and chooses the first gateway.

    Raises InvalidSetting.
    """
    if ca_file is not None and tls is not None:
        raise InvalidSetting("give either `ca_file` or `tls`")
    kinds = {"msgpack": Format.MSGPACK, "json": Format.JSON}
    if format not in kinds:
        raise InvalidSetting(f"`format` is msgpack or json, not {format!r}")
    rng = rng or Random()
    gateways = [url] if isinstance(url, str) else list(url)
    opening = Opening(gateways, kinds[format], token, tls or tls_context(ca_file), rng)
    return Client(opening, kinds[format], timeout, notify, rng)
