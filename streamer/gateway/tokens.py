"""Tokens (JWT, RFC 7519): what they must be like, and what they allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jwt

from streamer.core.errors import InvalidSetting, StreamerError
from streamer.core.permissions import Permissions
from streamer.gateway.reloading import Reloaded
from streamer.gateway.token_keys import TokenKey, key_set, public_key, secret_key

MOST_CHARACTERS = 8192
"""A header's line is no longer either."""

KEPT = 1024
"""Tokens whose signatures are known to be good: those who come back in a herd are told so at once."""

_MOST_SECONDS = 1e11

_OPTIONS: Any = {
    "require": ["exp"],
    # These are checked here, against a clock that is an argument.
    "verify_exp": False,
    "verify_nbf": False,
    # It says when the token was made, not when it counts.
    "verify_iat": False,
    # Whose token it is, and which of his, does not matter here.
    "verify_sub": False,
    "verify_jti": False,
}


class TokenRefused(StreamerError):
    """A token does not count; the text says why, as its owner may read it, and shows nothing of it."""


@dataclass(frozen=True)
class TokenSettings:
    """Which tokens count.

    ``secret_file``, ``key_file`` (a public key, PEM) and ``jwks_file`` (a JWK Set) name files with keys, read again
    when they change; a token may be signed with any of them. ``issuer`` and ``audience`` are what it must name, None
    for whatever it be, though where no audience is set a token that is for one is refused. ``leeway_s`` is by how many
    seconds clocks may differ. ``in_query`` takes tokens also in a URL's query.

    Raises InvalidSetting where values do not fit.
    """

    secret_file: str | None = None
    key_file: str | None = None
    jwks_file: str | None = None
    issuer: str | None = None
    audience: str | None = None
    leeway_s: float = 30.0
    in_query: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.leeway_s < math.inf:
            raise InvalidSetting(f"the tokens' leeway must be 0 or more seconds, not {self.leeway_s}")
        if not self.have_keys and (self.issuer is not None or self.audience is not None):
            raise InvalidSetting("an issuer or an audience of tokens is set, but no file with keys to check them")

    @property
    def have_keys(self) -> bool:
        """Whether there are keys, and so tokens are asked for."""
        return any(path for path in (self.secret_file, self.key_file, self.jwks_file))


class Tokens:
    """Verifies tokens; for one event loop. Raises InvalidSetting where a file with keys cannot be used."""

    def __init__(self, settings: TokenSettings) -> None:
        self._settings = settings
        self._files: list[Reloaded[list[TokenKey]]] = []
        if path := settings.secret_file:
            self._files.append(_reloaded(path, lambda path, content: [secret_key(path, content)]))
        if path := settings.key_file:
            self._files.append(_reloaded(path, lambda path, content: [public_key(path, content)]))
        if path := settings.jwks_file:
            self._files.append(_reloaded(path, key_set))
        self._keys: list[TokenKey] = []
        self._kept: dict[str, dict[str, Any]] = {}

    def verify(self, token: str, now: float) -> Permissions:
        """Return what a token allows.

        ``now`` is in seconds since 1970. The permissions expire when the token does, and the leeway is over. Raises
        TokenRefused.
        """
        return self._permissions(self._claims(token), now)

    def _claims(self, token: str) -> dict[str, Any]:
        keys = [key for file in self._files for key in file.current()]
        if keys != self._keys:
            self._keys = keys
            self._kept.clear()
        claims = self._kept.get(token)
        if claims is None:
            claims = self._verified(token)
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[token] = claims
        return claims

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a token whose signature, issuer and audience are good."""
        if len(token) > MOST_CHARACTERS:
            raise TokenRefused(f"the token is too long: {MOST_CHARACTERS:,} characters are the most")
        if not token.isascii():
            raise TokenRefused("this is no token: it is not of the form of a JWT")
        try:
            header = jwt.get_unverified_header(token)
            return self._decode(token, self._candidates(header))
        except jwt.MissingRequiredClaimError as error:
            raise TokenRefused(f"the token has no `{error.claim}`") from None
        except jwt.InvalidIssuerError:
            raise TokenRefused("the token's issuer (`iss`) is not the one that counts here") from None
        except jwt.InvalidAudienceError:
            raise TokenRefused("the token is not for here: its audience (`aud`) is another") from None
        except jwt.PyJWTError:
            raise TokenRefused("this is no token: it is not of the form of a JWT") from None

    def _candidates(self, header: dict[str, Any]) -> list[TokenKey]:
        """The keys that may have signed a token: of the algorithm that it names, and of the name that it gives."""
        algorithm, kid = header.get("alg"), header.get("kid")
        fitting = [key for key in self._keys if key.algorithm == algorithm]
        if not fitting:
            known = ", ".join(sorted({key.algorithm for key in self._keys}))
            raise TokenRefused(f"the token is signed with an algorithm that no key here is for; it must be {known}")
        named = [key for key in fitting if kid is None or key.kid is None or key.kid == kid]
        if not named:
            raise TokenRefused("the token names a key (`kid`) that is not known here")
        return named

    def _decode(self, token: str, candidates: list[TokenKey]) -> dict[str, Any]:
        settings = self._settings
        for key in candidates:
            try:
                return jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    options=_OPTIONS,
                    issuer=settings.issuer,
                    audience=settings.audience,
                )
            except jwt.InvalidSignatureError:
                continue
        raise TokenRefused("the token is not signed with a key that counts here")

    def _permissions(self, claims: dict[str, Any], now: float) -> Permissions:
        leeway_s = self._settings.leeway_s
        if _time(claims, "nbf", -math.inf) > now + leeway_s:
            raise TokenRefused("the token does not count yet (`nbf`)")
        expires_at = _time(claims, "exp", -math.inf) + leeway_s
        if expires_at <= now:
            raise TokenRefused("the token has expired: come back with a new one")
        admin = claims.get("admin", False)
        if not isinstance(admin, bool):
            raise TokenRefused("the token's `admin` must be true or false")
        return Permissions(
            nodes=_patterns(claims, "nodes", missing=()),
            jobs=_patterns(claims, "jobs", missing=("*",)),
            admin=admin,
            expires_at=expires_at,
        )


def _reloaded(path: str, read: Any) -> Reloaded[list[TokenKey]]:
    return Reloaded((path,), lambda contents: read(path, contents[0]))


def _time(claims: dict[str, Any], name: str, missing: float) -> float:
    if name not in claims:
        return missing
    value = claims[name]
    # NaN and infinity, which are no JSON and are read all the same, are in no range.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST_SECONDS:
        return float(value)
    raise TokenRefused(f"the token's `{name}` must be a number of seconds since 1970")


def _patterns(claims: dict[str, Any], name: str, missing: tuple[str, ...]) -> tuple[str, ...]:
    patterns = claims.get(name)
    if patterns is None:
        # An explicit null must not allow more than an empty list.
        return missing if name not in claims else ()
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TokenRefused(f'the token\'s `{name}` must be a list of patterns, as in ["gpu-*"]')
    return tuple(patterns)
