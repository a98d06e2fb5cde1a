"""URLs of a Redis: which are good, what each means, and how one may be shown.

    redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH?db=0     one server
    redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0                   the master that these Sentinels name
    redis+cluster://HOST:PORT,HOST:PORT                              a cluster that these servers are of

``rediss`` is TLS also before ``+sentinel`` and ``+cluster``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from redis.connection import parse_url

from streamer.core.errors import InvalidSetting

_FORM = (
    "it should look like redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH?db=0, "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0 or redis+cluster://HOST:PORT,HOST:PORT"
)
_OPTIONS = {"db", "username", "password", "client_name", "health_check_interval"}
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}
_TLS_OPTIONS = {
    f"ssl_{name}" for name in ("ca_certs", "certfile", "keyfile", "password", "cert_reqs", "check_hostname")
}
_SECRET_OPTION = re.compile(r"([?&][^=&]*(?:pass|%)[^=&]*=).*", re.DOTALL | re.IGNORECASE)

Address = tuple[str, int]
"""The host and the port of a server; for a socket in the file system its path, and 0."""


class Kind(Enum):
    """What answers for a URL."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_PORTS = {Kind.SERVER: 6379, Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}


@dataclass(frozen=True)
class Place:
    """What a URL means. ``urls`` are those of the single servers that it names: the server, Sentinels, or some of a
    cluster's, each with the credentials and the database of the whole. ``service`` is what Sentinels call the master.
    """

    kind: Kind
    urls: tuple[str, ...] = field(repr=False)
    service: str = ""

    @property
    def addresses(self) -> list[Address]:
        """Where the servers are that the URL names."""
        return [self._address(parse_url(url)) for url in self.urls]  # type: ignore[no-untyped-call]

    def _address(self, options: dict[str, Any]) -> Address:
        if "path" in options:
            return options["path"], 0
        return options["host"], options.get("port", _PORTS[self.kind])

    def options(self, address: Address) -> dict[str, Any]:
        """How redis-py connects to a server that holds data; the class of connection is that of a blocking client."""
        options: dict[str, Any] = parse_url(self.urls[0])  # type: ignore[no-untyped-call]
        for name in _SENTINEL_OPTIONS:
            options.pop(name, None)
        return options if "path" in options else {**options, "host": address[0], "port": address[1]}

    def sentinel_options(self, address: Address) -> dict[str, Any]:
        """How redis-py connects to a Sentinel, which has a password of its own, if any."""
        given: dict[str, Any] = parse_url(self.urls[0])  # type: ignore[no-untyped-call]
        options = {name: value for name, value in given.items() if name == "connection_class" or name in _TLS_OPTIONS}
        for name in _SENTINEL_OPTIONS & given.keys():
            options[name.removeprefix("sentinel_")] = given[name]
        return {**options, "host": address[0], "port": address[1]}


def check_url(url: str) -> str:
    """Return the URL of a Redis unchanged; raise InvalidSetting with a sentence that says what is wrong with it."""
    parse(url)
    return url


def parse(url: str) -> Place:
    """Read a URL; raise InvalidSetting with a sentence that says what is wrong with it."""
    try:
        place = _split(url)
    except _Fault as fault:
        raise InvalidSetting(f"{without_password(url)!r} is no URL of a Redis: {_FORM}{fault}") from None
    return place


def with_credentials(url: str, username: str | None, password: str | None) -> str:
    """The URL of a Redis with a user and a password, unless it has them already. Raises InvalidSetting."""
    place = parse(url)
    options: dict[str, Any] = parse_url(place.urls[0])  # type: ignore[no-untyped-call]
    given = {"username": username, "password": password}
    added = [f"{name}={quote(value, safe='')}" for name, value in given.items() if value and not options.get(name)]
    return url + ("&" if "?" in url else "?") + "&".join(added) if added else url


def without_password(url: str) -> str:
    """The URL as it may be shown, however broken it is: where a password may stand, there is none."""
    start, rest = re.fullmatch(r"((?:[\w+]*:?//?)?)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    usual = re.fullmatch(r"([^:@/?#]*)(:[^/?#]*@)?([^@]*|@[^@]*)", rest)
    if usual is None:
        # An @ stands where none should, and so a password may have begun anywhere.
        name, *secret = re.split("[:?#]", rest, maxsplit=1)
        return f"{start}{name}{':***' if secret else ''}"
    user, password, host = usual.groups()
    return start + user + (":***@" if password else "") + _SECRET_OPTION.sub(r"\1***", host)


class _Fault(Exception):
    """What else to say of a URL; what urllib says of it is not passed on: that may quote a part of the password."""


def _split(url: str) -> Place:
    scheme, _, rest = url.partition("://")
    base, plus, name = scheme.partition("+")
    if not plus:
        _check_server(url, _OPTIONS)
        return Place(Kind.SERVER, (url,))
    if base not in ("redis", "rediss") or name not in ("sentinel", "cluster"):
        raise _Fault
    kind = Kind(name)
    authority, path, query = re.fullmatch(r"([^/?#]*)([^?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    user, at, hosts = authority.rpartition("@")
    service, database = _service(path) if kind is Kind.SENTINEL else ("", path)
    urls = tuple(f"{base}://{user}{at}{host}{database}{query}" for host in hosts.split(","))
    for each in urls:
        _check_server(each, _OPTIONS | (_SENTINEL_OPTIONS if kind is Kind.SENTINEL else set()))
    if kind is Kind.CLUSTER and parse_url(urls[0]).get("db"):  # type: ignore[no-untyped-call]
        raise _Fault(", with database 0, the only one that a cluster has")
    return Place(kind, urls, service)


def _service(path: str) -> tuple[str, str]:
    """What Sentinels call the master, and the path of its database, as in a single server's URL."""
    _, _, rest = path.partition("/")
    name, slash, database = rest.partition("/")
    if not name:
        raise _Fault(", with what Sentinels call the master behind their addresses")
    return unquote(name), slash + database


def _check_server(url: str, known_options: set[str]) -> None:
    """Raise _Fault for the URL of a single server that redis-py would misread, or fail on later."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _Fault(", with an IPv6 address in brackets") from None
    local = parts.scheme == "unix"
    place = unquote((parts.path if local else parts.hostname) or "")
    if not url.startswith(("redis://", "rediss://", "unix://")) or not place or (local and parts.hostname):
        raise _Fault
    if parts.fragment or _port(parts) == 0:
        raise _Fault(", with a port from 1 to 65535, and what is special in a password escaped, such as %23 for #")
    if not (_can_be_a_host(place) or (local and "\0" not in place)):
        raise _Fault(", with the name or the address of a host, or the path of a socket")
    known = known_options | (_TLS_OPTIONS if parts.scheme == "rediss" else set())
    if parse_qs(parts.query, keep_blank_values=True).keys() - known:
        raise _Fault(f", with no other options than {', '.join(sorted(known))}")
    try:
        options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise _Fault(", with numbers for db and health_check_interval") from None
    if options.get("db", 0) < 0 or not (local or re.fullmatch("/?[0-9]*", parts.path)):
        raise _Fault(", with a number as the database")
    if options.get("ssl_cert_reqs", "none") not in ("none", "optional", "required"):
        raise _Fault(", with none, optional or required for ssl_cert_reqs")


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return 0


def _can_be_a_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return bool(re.fullmatch(r"[\w.:%-]+", name))
