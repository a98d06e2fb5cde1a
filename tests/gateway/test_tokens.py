"""Which tokens count, and what they allow."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.errors import InvalidSetting
from streamer.core.permissions import Permissions
from streamer.gateway import reloading
from streamer.gateway.tokens import KEPT, MOST_CHARACTERS, TokenRefused, Tokens, TokenSettings
from tests.gateway.signing import ALGORITHMS, Issuer, jwk_set, public_pem

NOW = time.time()


@cache
def issuer(algorithm: str) -> Issuer:
    return Issuer(Path(mkdtemp(prefix="streamer-test-")), algorithm)


def refused(tokens: Tokens, token: str, now: float | None = None) -> str:
    with pytest.raises(TokenRefused) as error:
        tokens.verify(token, now or time.time())
    return str(error.value)


def part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_of_every_algorithm_counts_where_its_key_is_known(algorithm: str) -> None:
    good = issuer(algorithm)
    token = good.token(nodes=["gpu-*"], jobs=["train-*"], exp=NOW + 60)
    permissions = Tokens(good.settings(leeway_s=5)).verify(token, NOW)
    assert permissions == Permissions(("gpu-*",), ("train-*",), expires_at=NOW + 65)
    stranger = Issuer(Path(mkdtemp(prefix="streamer-test-")), algorithm)
    assert "not signed with a key" in refused(Tokens(stranger.settings()), token)


def test_without_nodes_nothing_is_allowed_and_without_jobs_all_of_the_nodes() -> None:
    good = issuer("HS256")
    tokens = Tokens(good.settings())
    assert tokens.verify(good.token(nodes=None), NOW).nodes == ()
    assert tokens.verify(good.token(), NOW).jobs == ("*",)
    assert tokens.verify(good.token(jobs=[]), NOW).jobs == ()
    assert tokens.verify(good.token(admin=True, nodes=None), NOW).admin
    null = jwt.encode({"exp": NOW + 60, "nodes": None, "jobs": None}, good.key, "HS256")
    assert tokens.verify(null, NOW) == Permissions(expires_at=NOW + 90)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("by_set", [False, True])
def test_a_public_key_is_never_taken_for_a_secret(tmp_path: Path, algorithm: str, by_set: bool) -> None:
    good = issuer(algorithm)
    tokens = Tokens(jwk_set(tmp_path / "jwks", good) if by_set else good.settings())
    for secret in (good.public, good.public.strip(), json.dumps(good.jwk).encode()):
        body = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'exp': NOW + 60, 'admin': True})}"
        signature = base64.urlsafe_b64encode(hmac.digest(secret, body.encode(), hashlib.sha256)).decode().rstrip("=")
        assert "algorithm" in refused(tokens, f"{body}.{signature}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None, 1, ["HS256"], {}])
def test_an_unsigned_token_never_counts(algorithm: str, name: Any) -> None:
    tokens = Tokens(issuer(algorithm).settings())
    for header in ({"typ": "JWT", "alg": name}, {"typ": "JWT"}):
        body = f"{part(header)}.{part({'exp': NOW + 60, 'admin': True})}"
        refused(tokens, f"{body}.")
        refused(tokens, f"{body}.{part('signature')}")


def test_an_algorithm_is_not_taken_for_another_of_the_same_kind_of_key() -> None:
    for algorithm, other in (("HS256", "HS512"), ("RS256", "PS256"), ("RS256", "RS512")):
        good = issuer(algorithm)
        token = jwt.encode({"exp": NOW + 60}, good.key * (2 if other == "HS512" else 1), other)
        assert "algorithm" in refused(Tokens(good.settings()), token)


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"exp": None}, "`exp`"),
        ({"exp": "tomorrow"}, "must be a number"),
        ({"exp": True}, "must be a number"),
        ({"exp": float("nan")}, "must be a number"),
        ({"exp": float("inf")}, "must be a number"),
        ({"exp": 10**400}, "must be a number"),
        ({"exp": [1]}, "must be a number"),
        ({"exp": NOW - 31}, "has expired"),
        ({"nbf": NOW + 31}, "does not count yet"),
        ({"nbf": "now"}, "must be a number"),
        ({"iss": "other"}, "issuer"),
        ({"iss": None}, "`iss`"),
        ({"iss": 7}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": None}, "`aud`"),
        ({"aud": {"streamer": 1}}, "audience"),
        ({"aud": [1]}, "audience"),
        ({"nodes": "gpu-*"}, "`nodes` must be a list"),
        ({"nodes": [1]}, "`nodes` must be a list"),
        ({"nodes": {"*": True}}, "`nodes` must be a list"),
        ({"jobs": 5}, "`jobs` must be a list"),
        ({"jobs": [["*"]]}, "`jobs` must be a list"),
        ({"admin": "yes"}, "`admin`"),
        ({"admin": 1}, "`admin`"),
    ],
)
def test_claims_that_do_not_fit_are_refused_with_a_sentence(claims: dict[str, Any], says: str) -> None:
    good = issuer("HS256")
    tokens = Tokens(good.settings(issuer="me", audience="streamer"))
    fitting = {"iss": "me", "aud": "streamer", "exp": NOW + 60}
    assert tokens.verify(good.token(**fitting), NOW)
    assert says in refused(tokens, good.token(**{**fitting, **claims}), NOW)


def test_the_leeway_is_what_clocks_may_differ_by() -> None:
    good = issuer("HS256")
    tokens = Tokens(good.settings(leeway_s=10))
    token = good.token(exp=NOW + 100, nbf=NOW)
    assert "yet" in refused(tokens, token, NOW - 11)
    tokens.verify(token, NOW - 9)
    assert tokens.verify(token, NOW + 109).expires_at == NOW + 110
    assert "expired" in refused(tokens, token, NOW + 110)


def test_a_token_for_another_audience_does_not_count_where_none_is_set() -> None:
    good = issuer("HS256")
    assert "audience" in refused(Tokens(good.settings()), good.token(aud="other"))


def test_what_is_no_token_is_refused_and_never_shown() -> None:
    tokens = Tokens(issuer("RS256").settings())
    deep = base64.urlsafe_b64encode(b'{"alg":' + b"[" * 5000).decode().rstrip("=")
    for token in (
        "",
        ".",
        "..",
        "a.b.c",
        "x" * 5000,
        f"{deep}.e30.e30",
        "é.é.é",
        "\ud800",
        "a b c",
        f"{part([1])}.e30.e30",
    ):
        sentence = refused(tokens, token)
        assert len(token) < 4 or token not in sentence
    assert "too long" in refused(tokens, "x" * (MOST_CHARACTERS + 1))
    assert "kid" not in refused(tokens, f"{part({'alg': 'RS256', 'kid': 5})}.e30.e30")


THREE_PARTS = st.tuples(st.binary(), st.binary(), st.binary()).map(
    lambda parts: ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts)
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "crit", "b64", "typ"]),
    st.sampled_from(["RS256", "HS256", "none", None, True, False, [], ["b64"], {}, 1]),
)
JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists)
FORGED = st.tuples(HEADERS, JSON).map(lambda parts: f"{part(parts[0])}.{part(parts[1])}.e30")


@given(st.text(max_size=60) | THREE_PARTS | FORGED)
def test_whatever_comes_is_refused_and_raises_nothing_else(token: str) -> None:
    refused(Tokens(issuer("RS256").settings()), token)


# Sets of keys


def test_a_set_of_keys_is_searched_by_the_name_that_the_token_gives(tmp_path: Path) -> None:
    one, two, three = (
        Issuer(tmp_path, algorithm, kid) for algorithm, kid in (("RS256", "1"), ("ES256", "2"), ("EdDSA", "3"))
    )
    tokens = Tokens(jwk_set(tmp_path / "jwks", one, two, three))
    for each in (one, two, three):
        tokens.verify(each.token(), NOW)
    two.kid = "4"
    assert "`kid`" in refused(tokens, two.token())
    two.kid = "1"
    refused(tokens, two.token())
    two.kid = None
    tokens.verify(two.token(), NOW)


def test_keys_of_a_set_that_cannot_be_used_are_left_aside(tmp_path: Path) -> None:
    good, other = Issuer(tmp_path, "RS256", "good"), Issuer(tmp_path, "RS256", "other")
    secret = {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "secret", "alg": "HS256"}
    weak = {"kty": "RSA", "n": "AQAB" * 40, "e": "AQAB", "kid": "weak"}
    for_encryption = {**other.jwk, "use": "enc"}
    bad: tuple[Any, ...] = (
        secret,
        weak,
        for_encryption,
        {},
        7,
        None,
        {"kty": "RSA"},
        {"kty": ["RSA"]},
        {**other.jwk, "alg": "PS256"},
    )
    tokens = Tokens(jwk_set(tmp_path / "jwks", good, more=bad))
    tokens.verify(good.token(), NOW)
    refused(tokens, other.token())
    token = jwt.encode({"exp": NOW + 60}, b"secret" * 8, "HS256", {"kid": "secret"})
    assert "algorithm" in refused(tokens, token)
    with pytest.raises(InvalidSetting, match="no key that can be used"):
        Tokens(jwk_set(tmp_path / "jwks", more=bad))


def test_several_files_count_together(tmp_path: Path) -> None:
    secret, pem, of_set = (Issuer(tmp_path, algorithm, "kid") for algorithm in ("HS256", "RS256", "ES256"))
    settings = jwk_set(tmp_path / "jwks", of_set)
    tokens = Tokens(TokenSettings(secret_file=secret.path, key_file=pem.path, jwks_file=settings.jwks_file))
    for each in (secret, pem, of_set):
        tokens.verify(each.token(), NOW)


# Files


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("secret_file", b"short\n", "has 5 bytes"),
        ("secret_file", b"x" * 31 + b"\n", "has 31 bytes"),
        ("key_file", b"x" * 100, "holds no public key"),
        ("key_file", b"\xff\xfe", "holds no public key"),
        ("jwks_file", b"nonsense", "is no JWK Set"),
        ("jwks_file", b'{"keys": 5}', "is no JWK Set"),
        ("jwks_file", b'{"keys": []}', "holds no key"),
        ("jwks_file", b'{"keys":' + b"[" * 100_000, "is no JWK Set"),
        ("jwks_file", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_a_sentence(
    tmp_path: Path, kind: str, content: bytes, says: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidSetting, match=says) as error:
        Tokens(TokenSettings(**{kind: str(path)}))
    assert str(path) in str(error.value)


def test_keys_in_the_wrong_kind_of_file_are_refused(tmp_path: Path) -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        good = issuer(algorithm)
        with pytest.raises(InvalidSetting, match="no secret"):
            Tokens(TokenSettings(secret_file=good.path))
        (tmp_path / "private").write_bytes(good.key)
        with pytest.raises(InvalidSetting, match="private key"):
            Tokens(TokenSettings(key_file=str(tmp_path / "private")))


def test_weak_keys_and_other_curves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for key in (
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP384R1()),
        ed448.Ed448PrivateKey.generate(),
    ):
        path.write_bytes(public_pem(key))
        with pytest.raises(InvalidSetting, match="holds no public key"):
            Tokens(TokenSettings(key_file=str(path)))


def test_an_issuer_without_keys_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="no file with keys"):
        TokenSettings(issuer="me")


def test_a_new_key_counts_and_the_old_one_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_S", 0)
    old, new = Issuer(tmp_path, "HS256", "old"), Issuer(tmp_path, "HS256", "new")
    tokens = Tokens(old.settings())
    token = old.token()
    tokens.verify(token, NOW)
    Path(old.path).write_bytes(new.key)
    tokens.verify(new.token(), NOW)
    assert "not signed" in refused(tokens, token)


def test_no_more_than_so_many_tokens_are_kept() -> None:
    good = issuer("HS256")
    tokens = Tokens(good.settings())
    for n in range(KEPT + 10):
        tokens.verify(good.token(jti=str(n)), NOW)
    assert len(tokens._kept) == KEPT
