"""`streamer token`, and what takes its tokens: a gateway, and `streamer watch`."""

from __future__ import annotations

import json
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import jwt
import pytest

from streamer.core.permissions import Permissions
from streamer.gateway.tokens import Tokens, TokenSettings
from tests.certificates import Certificates
from tests.commands import DEADLINE_S, first_line, run, running
from tests.gateway.signing import Issuer
from tests.gateways import GatewayProcess
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("secret") / "secret"
    assert run("token", "--new-secret", str(path)).returncode == 0
    return str(path)


@pytest.fixture(scope="module")
def gateway(valkey: RedisServer, secret: str) -> Iterator[GatewayProcess]:
    with GatewayProcess(valkey.url, "--token-secret-file", secret, "--token-leeway-s", "0") as gateway:
        yield gateway


def token(*arguments: str) -> str:
    done = run("token", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_new_secret_is_for_its_owner_alone_and_never_written_over(secret: str) -> None:
    assert stat.S_IMODE(Path(secret).stat().st_mode) == 0o600
    before = Path(secret).read_bytes()
    done = run("token", "--new-secret", secret)
    assert (done.returncode, Path(secret).read_bytes()) == (2, before)
    assert "cannot be made: File exists" in done.stderr


def test_a_token_says_what_its_owner_may_see_and_until_when(secret: str) -> None:
    claims = ["--node", "gpu-*", "--node", "cpu-1", "--job", "a?", "--expires-s", "60"]
    made = token("--secret-file", secret, *claims, "--issuer", "me", "--audience", "you")
    now = time.time()
    tokens = Tokens(TokenSettings(secret_file=secret, issuer="me", audience="you", leeway_s=0))
    permissions = tokens.verify(made, now)
    assert permissions.expires_at is not None
    assert 0 < permissions.expires_at - now <= 61
    assert permissions == Permissions(("gpu-*", "cpu-1"), ("a?",), expires_at=permissions.expires_at)
    admin = Tokens(TokenSettings(secret_file=secret)).verify(token("--secret-file", secret, "--admin"), now)
    assert admin.admin


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_the_algorithm_follows_from_the_key(tmp_path: Path, algorithm: str) -> None:
    issuer = Issuer(tmp_path, algorithm)
    (tmp_path / "private").write_bytes(issuer.key)
    made = token("--key-file", str(tmp_path / "private"), "--kid", "mine", "--node", "*")
    assert jwt.get_unverified_header(made) == {"alg": algorithm, "kid": "mine", "typ": "JWT"}
    Tokens(issuer.settings()).verify(made, time.time())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either --secret-file or --key-file"),
        (["--secret-file", "SECRET"], "give --node at least once, or --admin"),
        (["--secret-file", "none", "--admin"], "none cannot be read"),
        (["--key-file", "SECRET", "--admin"], "holds no private key"),
        (["--secret-file", "SECRET", "--key-file", "x", "--admin"], "give either"),
        (["--new-secret", "x", "--admin"], "give it alone"),
        (["--secret-file", "SECRET", "--admin", "--expires-s", "0"], "is not in the range"),
    ],
)
def test_wrong_arguments_get_a_sentence(secret: str, arguments: list[str], says: str) -> None:
    done = run("token", *(secret if argument == "SECRET" else argument for argument in arguments))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_watch_shows_its_token_and_reads_the_next_from_the_file(
    valkey: RedisServer, gateway: GatewayProcess, secret: str, node: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(token("--secret-file", secret, "--node", node, "--expires-s", "3") + "\n")
    run("publish", node, "one", redis_url=valkey.url)
    command = ["watch", node, "--json", "--gateway-url", gateway.url, "--token-file", str(file)]
    with running(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert json.loads(first_line(process))["status"] == "one"
        file.write_text(token("--secret-file", secret, "--node", node))
        assert process.stderr is not None
        assert "the token has expired" in process.stderr.readline()
        assert process.stderr.readline() == "streamer: connected\n"
        run("publish", node, "two", redis_url=valkey.url)
        assert json.loads(first_line(process))["status"] == "two"


def test_who_may_not_watch_is_told_why(gateway: GatewayProcess, secret: str, node: str) -> None:
    watch = ["watch", node, "--gateway-url", gateway.url]
    other = token("--secret-file", secret, "--node", "other")
    for arguments, says in (
        ([], "a token is needed here"),
        (["--token", "nonsense"], "this is no token"),
        (["--token", other], f"the token does not allow node '{node}'"),
    ):
        done = run(*watch, *arguments)
        assert (done.returncode, says in done.stderr) == (1, True)
    for arguments, says in (
        (["--token", "a b"], "one word"),
        (["--token-file", "/none"], "cannot be read"),
        (["--token", "a", "--token-file", "b"], "give either"),
        (["--ca", "/none"], "cannot be read"),
    ):
        done = run(*watch, *arguments)
        assert (done.returncode, says in done.stderr) == (2, True)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_watch_by_tls_through_one_process_or_several(
    valkey: RedisServer, secret: str, node: str, tmp_path: Path, processes: str
) -> None:
    certificates = Certificates(tmp_path)
    run("publish", node, "one", redis_url=valkey.url)
    tls = ["--tls-cert", certificates.path("server.crt"), "--tls-key", certificates.path("server.key")]
    keys = ["--token-secret-file", secret]
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(valkey.url, *tls, *keys, "--processes", processes))
        url = gateway.url.replace("ws://", "wss://")
        watch = ["watch", node, "--json", "--gateway-url", url, "--token", token(*keys, "--node", node)]
        for ca, says in (
            (["--ca", certificates.path("stranger.crt")], "cannot be trusted"),
            ([], "cannot be trusted"),
        ):
            done = run(*watch, *ca)
            assert (done.returncode, says in done.stderr) == (1, True)
        ca = ["--ca", certificates.path("ca.crt")]
        with running(*watch, *ca, stdout=subprocess.PIPE) as process:
            assert json.loads(first_line(process))["status"] == "one"
        # A supervisor ends its processes, which a kill would leave to notice it.
        gateway.process.terminate()
        assert gateway.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "or that everybody may with --insecure"),  # noqa: S104
        (["--token-secret-file", "/none"], "/none cannot be read: No such file or directory"),
        (["--token-issuer", "me"], "no file with keys"),
        (["--tls-cert", "/none"], "--tls-key is missing"),
        (["--tls-cert", "/none", "--tls-key", "/none"], "/none cannot be read: No such file or directory"),
    ],
)
def test_a_gateway_that_cannot_be_safe_does_not_start(options: list[str], says: str, processes: str) -> None:
    done = run("gateway", "--port", "0", "--processes", processes, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
