"""The port by TLS, with a certificate that is read again when it changes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from streamer.core.errors import InvalidSetting
from streamer.gateway.reloading import Reloaded


@dataclass(frozen=True)
class TlsSettings:
    """The files, in PEM, of a certificate with those that lead to its authority, and of its key; None for no TLS.

    Raises InvalidSetting where one is given without the other.
    """

    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            missing = "--tls-key is missing" if self.cert else "--tls-cert is missing"
            raise InvalidSetting(f"{missing}: TLS takes both a certificate and its key")


def server_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """What a server needs to speak TLS 1.2 and later; None where no certificate is set. Raises InvalidSetting.

    Each handshake gets the certificate of the moment. It is a context of its own each time: one that is loaded twice
    keeps the former certificate beside a new one of another kind, and is left without a key where they do not fit.
    """
    if not (settings.cert and settings.key):
        return None
    cert, key = settings.cert, settings.key
    contexts = Reloaded((cert, key), lambda _contents: _load(cert, key))

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = contexts.current()

    front = _load(cert, key)
    front.sni_callback = choose  # OpenSSL asks it also where the client names no server
    return front


def _load(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Encrypted:
        raise InvalidSetting(
            f"the key in {key} is encrypted: give one that is not, which nobody else can read"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidSetting(f"the key in {key} is not that of the certificate in {cert}") from None
        raise InvalidSetting(f"{cert} and {key} hold no certificate and key in PEM that can be used: {error}") from None
    except OSError as error:
        raise InvalidSetting(f"{cert} or {key} cannot be read: {error.strerror}") from None
    return context


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted
