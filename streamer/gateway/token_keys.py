"""The keys that tokens are signed with. Which algorithm a key is for follows from its kind, never from a token."""

from __future__ import annotations

from typing import Any, NamedTuple

import jwt
import msgspec
from jwt.algorithms import Algorithm

from streamer.core.errors import InvalidSetting

SECRET_ALGORITHM = "HS256"  # noqa: S105 - an algorithm's name
KEY_ALGORITHMS = ("RS256", "ES256", "EdDSA")

LEAST_SECRET_BYTES = 32
"""As long as what HMAC with SHA-256 makes of it (RFC 7518, section 3.2)."""

_PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth"}
_KINDS = "an RSA key of 2,048 bits or more, an elliptic curve's on P-256, or an Ed25519 key"


class TokenKey(NamedTuple):
    """A key, the one algorithm that it is for, and how a set of keys calls it."""

    algorithm: str
    key: Any
    kid: str | None = None

    def __repr__(self) -> str:
        return f"TokenKey({self.algorithm!r}, kid={self.kid!r})"


def secret_key(path: str, content: bytes) -> TokenKey:
    """The key in a file that holds a secret. Raises InvalidSetting."""
    secret = content.strip(b"\r\n")
    if len(secret) < LEAST_SECRET_BYTES:
        raise InvalidSetting(
            f"the secret in {path} has {len(secret)} bytes, which can be guessed: it needs {LEAST_SECRET_BYTES} "
            "or more; `streamer token --new-secret FILE` makes one"
        )
    try:
        return TokenKey(SECRET_ALGORITHM, _algorithm(SECRET_ALGORITHM).prepare_key(secret))
    except jwt.InvalidKeyError:
        raise InvalidSetting(f"{path} holds a key of two parts, and no secret: give it as a key file") from None


def public_key(path: str, content: bytes) -> TokenKey:
    """The key in a file that holds a public key in PEM. Raises InvalidSetting."""
    if b"PRIVATE KEY" in content:
        raise InvalidSetting(
            f"{path} holds a private key, which only who makes tokens may have: give the public one, "
            "as from `openssl pkey -pubout`"
        )
    return _from_pem(path, content, f"{path} holds no public key in PEM that can be used")


def private_key(path: str, content: bytes) -> TokenKey:
    """The key in a file that holds a private key in PEM, to sign tokens. Raises InvalidSetting."""
    if b"PRIVATE KEY" not in content or b"ENCRYPTED" in content:
        raise InvalidSetting(f"{path} holds no private key in PEM that is not encrypted")
    return _from_pem(path, content, f"{path} holds no private key in PEM that can be used")


def _from_pem(path: str, content: bytes, fault: str) -> TokenKey:
    for name in KEY_ALGORITHMS:
        algorithm = _algorithm(name)
        try:
            key = algorithm.prepare_key(content)
        except (jwt.InvalidKeyError, ValueError, TypeError):
            continue
        if _is_good(name, key):
            return TokenKey(name, key)
    raise InvalidSetting(f"{fault}: it takes {_KINDS}")


def key_set(path: str, content: bytes) -> list[TokenKey]:
    """The keys in a file that holds a JWK Set (RFC 7517), those of them that can be used. Raises InvalidSetting.

    Others are left aside, as that RFC asks for: keys to encrypt with, of other kinds, and secrets, which a set of
    public keys should not hold.
    """
    try:
        keys = msgspec.json.decode(content, type=_KeySet).keys
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidSetting(f'{path} is no JWK Set, which looks like {{"keys": [{{…}}, …]}}: {error}') from None
    found = [found for key in keys if (found := _from_jwk(key)) is not None]
    if not found:
        raise InvalidSetting(f"{path} holds no key that can be used: it takes {_KINDS}")
    return found


class _KeySet(msgspec.Struct):
    keys: list[Any]


def _from_jwk(jwk: Any) -> TokenKey | None:
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        return None
    public = {name: value for name, value in jwk.items() if name not in _PRIVATE_MEMBERS}
    name = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(public.get("kty")))
    kid = public.get("kid")
    if name is None or public.get("alg", name) != name or not isinstance(kid, str | None):
        return None
    try:
        key = _algorithm(name).prepare_key(_algorithm(name).from_jwk(public))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return TokenKey(name, key, kid) if _is_good(name, key) else None


def _is_good(name: str, key: Any) -> bool:
    """Whether a key is strong enough, and of the one curve that its algorithm's name stands for here."""
    return not _algorithm(name).check_key_length(key) and "448" not in type(key).__name__


def _algorithm(name: str) -> Algorithm:
    return jwt.get_algorithm_by_name(name)
