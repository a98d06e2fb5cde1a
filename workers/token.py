"""`streamer token`: tokens for tests and scripts."""

from __future__ import annotations

import math
import os
import secrets
import time
from typing import Any

import click
import jwt

from streamer.core.errors import InvalidSetting
from streamer.gateway.reloading import read_file
from streamer.gateway.token_keys import LEAST_SECRET_BYTES, TokenKey, private_key, secret_key
from workers.options import Seconds, option, token_claims, token_secret_file

EXPIRES_S = 3600.0


@click.command(short_help="Make a token that says what its owner may see.")
@token_secret_file
@option("--private-key-file", "--key-file", metavar="FILE", help="A private key (PEM) to sign with.")
@option("--kid", metavar="NAME", help="What the gateway's JWK Set calls that key.")
@option("--node", "nodes", multiple=True, metavar="PATTERN", help="Nodes that may be seen; as often as you like.")
@option("--job", "jobs", multiple=True, metavar="PATTERN", help="Jobs of these that may be seen; without it: all.")
@option("--admin", is_flag=True, help="Everything may be seen.")
@option("--expires-s", type=Seconds(more_than_0=True), default=EXPIRES_S, help="Seconds for which the token counts.")
@token_claims
@option("--new-secret", metavar="FILE", help="Make no token, but a new secret, in a file that only its owner can read.")
def token(
    token_secret_file: str | None,
    private_key_file: str | None,
    kid: str | None,
    nodes: tuple[str, ...],
    jobs: tuple[str, ...],
    admin: bool,
    expires_s: float,
    token_issuer: str | None,
    token_audience: str | None,
    new_secret: str | None,
) -> None:
    """Print a token (JWT) that says what its owner may see, and until when.

    \b
      streamer token --new-secret secret
      streamer gateway --host 0.0.0.0 --token-secret-file secret
      streamer token --secret-file secret --node 'gpu-*' --job 'train-*' >token
      streamer watch gpu-1 --job train-7 --token-file token

    In a pattern `*` stands for any run of characters and `?` for one; it must fit the whole name. All of a node,
    without a job, may be watched by who may see every job: with no --job, or with '*'.

    Who has the secret can make any token. With --key-file the gateway needs only the public key (--token-key-file),
    or a JWK Set with it; the algorithm follows from the key: RS256, ES256 (P-256) or EdDSA (Ed25519).
    """
    if new_secret is not None:
        if nodes or jobs or admin:
            raise click.UsageError("--new-secret makes a secret, and no token: give it alone")
        _write_secret(new_secret)
        return
    if bool(token_secret_file) == bool(private_key_file):
        raise click.UsageError("give either --secret-file or --key-file; `streamer token --new-secret FILE` makes one")
    if not (nodes or admin):
        raise click.UsageError("give --node at least once, or --admin: else the token would allow nothing")
    now = time.time()
    claims: dict[str, Any] = {"iat": int(now), "exp": math.ceil(now + expires_s), "nodes": list(nodes)}
    optional = {"jobs": list(jobs), "admin": admin, "iss": token_issuer, "aud": token_audience}
    claims |= {name: value for name, value in optional.items() if value}
    click.echo(_sign(_key(token_secret_file, private_key_file), claims, kid))


def _key(secret_file: str | None, key_file: str | None) -> TokenKey:
    if secret_file:
        return secret_key(secret_file, read_file(secret_file))
    assert key_file is not None
    return private_key(key_file, read_file(key_file))


def _sign(key: TokenKey, claims: dict[str, Any], kid: str | None) -> str:
    return jwt.encode(claims, key.key, key.algorithm, {"kid": kid} if kid else None)


def _write_secret(path: str) -> None:
    try:
        # One that is there stays: gateways count on it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(LEAST_SECRET_BYTES) + "\n")
    except OSError as error:
        raise InvalidSetting(f"{path} cannot be made: {error.strerror}") from None
