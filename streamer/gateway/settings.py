"""What a gateway can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from streamer.core.errors import InvalidSetting
from streamer.fanout.hub import HubSettings
from streamer.gateway.tls import TlsSettings
from streamer.gateway.tokens import TokenSettings
from streamer.log.keys import Keys
from streamer.log.url import check_url

MOST_LINGER_MS = 1000.0


@dataclass(frozen=True)
class GatewaySettings:
    """Where a gateway listens, and how it treats its clients.

    ``internal_port`` serves health and metrics, on the same host; None for not at all. ``notice_s`` is for how many
    seconds a gateway that is told to stop still accepts clients, while it says that it is not ready: for load balancers
    to learn of it. ``drain_s`` is over how many seconds it then spreads the closing of its clients. ``ping_s`` is how
    often, in seconds, a client is asked whether it is still there, and how long it has to answer. ``linger_ms`` is for
    how many milliseconds updates are collected before they are written together, which costs less and delays them.
    ``compress`` offers compression (RFC 7692) to clients. On a v1 connection, a client may have ``max_topics`` at the
    same time, and send messages of ``max_message_bytes`` and ``max_messages_s`` of them a second. ``reuse_port`` lets
    other processes of this user that set it, too, listen on the same port.
    ``tokens`` says which tokens count; where it names no keys, everybody may see everything, which takes ``insecure``
    where the host is not this machine alone. ``tls`` serves the port, and not the internal one, by TLS.

    Raises InvalidSetting where a value is out of range, or where everybody could watch and nobody said so.
    """

    redis_url: str = field(repr=False)  # it may hold a password
    keys: Keys = field(default_factory=Keys)
    host: str = "127.0.0.1"
    port: int = 8080
    internal_port: int | None = None
    notice_s: float = 0.0
    drain_s: float = 10.0
    ping_s: float = 20.0
    linger_ms: float = 0.0
    compress: bool = False
    hub: HubSettings = field(default_factory=HubSettings)
    max_topics: int = 1000
    max_message_bytes: int = 64 * 1024
    max_messages_s: float = 100.0
    reuse_port: bool = False
    tokens: TokenSettings = field(default_factory=TokenSettings)
    insecure: bool = False
    tls: TlsSettings = field(default_factory=TlsSettings)

    def __post_init__(self) -> None:
        check_url(self.redis_url)
        if self.internal_port is not None and self.internal_port == self.port != 0:
            raise InvalidSetting(f"the internal port must be another than the port, which is {self.port}")
        if not (self.notice_s >= 0 and self.drain_s >= 0 and self.ping_s > 0):
            raise InvalidSetting("notice_s and drain_s must be 0 or more seconds, and ping_s more than 0")
        if self.max_topics < 1 or self.max_message_bytes < 1:
            raise InvalidSetting("max_topics and max_message_bytes must be 1 or more")
        if not 0 < self.max_messages_s < float("inf"):
            raise InvalidSetting(f"max_messages_s must be more than 0, not {self.max_messages_s}")
        if not 0 <= self.linger_ms <= MOST_LINGER_MS:
            raise InvalidSetting(f"linger_ms must be from 0 to {MOST_LINGER_MS:g}, not {self.linger_ms}")
        if not (self.insecure or self.tokens.have_keys or _is_loopback(self.host)):
            raise InvalidSetting(
                f"on {self.host or 'all addresses'}, which others can reach, everybody could see everything: "
                "say which tokens count with --token-secret-file, --token-key-file or --token-jwks-file, "
                "or that everybody may with --insecure"
            )

    @property
    def scheme(self) -> str:
        """What the port's URLs begin with."""
        return "http://" if self.tls.cert is None else "https://"


def _is_loopback(host: str) -> bool:
    """Whether a host is certain to be this machine alone. Whatever other names mean is not looked up."""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
