"""Where gateways are."""

from __future__ import annotations

from urllib.parse import urlsplit

from streamer.core.errors import InvalidSetting


def websocket_url(gateway: str) -> str:
    """A gateway's URL as `ws://HOST:PORT/PREFIX` or `wss://…`. Raises InvalidSetting where it is none."""
    try:
        parts = urlsplit(gateway)
        _ = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise InvalidSetting(f"{gateway!r} is no URL of a gateway: {error}") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidSetting(f"{gateway!r} is no URL of a gateway: it should look like ws://HOST:8080 or https://HOST")
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}"
