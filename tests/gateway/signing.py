"""Who makes tokens: their keys, and files with what gateways need of these."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from streamer.gateway.tokens import TokenSettings

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
_MAKE: dict[str, Any] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def private_pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def public_pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


class Issuer:
    """Makes tokens by one algorithm, and writes what gateways need for it into files of a directory."""

    def __init__(self, directory: Path, algorithm: str = "HS256", kid: str | None = None) -> None:
        self.algorithm, self.kid = algorithm, kid
        self._file = directory / f"key-{algorithm}-{kid}"
        if algorithm == "HS256":
            self.key = self.public = secrets.token_hex(32).encode()
        else:
            key = _MAKE[algorithm]()
            self.key, self.public = private_pem(key), public_pem(key)
        self._file.write_bytes(self.public)

    @property
    def path(self) -> str:
        """The file with the secret, or with the public key."""
        return str(self._file)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as a JWK."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        jwk = dict(algorithm.to_jwk(algorithm.prepare_key(self.public), as_dict=True))
        return jwk if self.kid is None else {**jwk, "kid": self.kid}

    def settings(self, **others: Any) -> TokenSettings:
        """A gateway's settings by which these tokens count."""
        kind = "secret_file" if self.algorithm == "HS256" else "key_file"
        return TokenSettings(**{kind: self.path}, **others)

    def token(self, expires_s: float = 600, **claims: Any) -> str:
        """A token that is good for so long; ``claims`` come beside its end, or instead. None takes one out."""
        all_claims = {"exp": time.time() + expires_s, "nodes": ["*"], **claims}
        given = {name: value for name, value in all_claims.items() if value is not None}
        # Not jwt.encode, which looks after claims.
        payload = json.dumps(given).encode()
        return jwt.PyJWS().encode(payload, self.key, self.algorithm, {"kid": self.kid} if self.kid else None)


def jwk_set(path: Path, *issuers: Issuer, more: tuple[Any, ...] = ()) -> TokenSettings:
    """Write the keys of issuers into a file, and ``more``; return a gateway's settings by which their tokens count."""
    path.write_text(json.dumps({"keys": [*more, *(issuer.jwk for issuer in issuers)]}))
    return TokenSettings(jwks_file=str(path))
