"""A Redis behind TLS, which shows a certificate and wants one of its clients."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from streamer.core.cursor import START
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber
from tests.log.test_subscribing import Recorder
from tests.log.writing import Writer, indexes
from tests.servers import free_port, missing, redis_command, wait_until


class Certificates:
    """An authority, a certificate of the server and one of a client, in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._make("ca", "-x509", "-subj", "/CN=authority")
        for name in ("server", "client"):
            self._make(
                name,
                *("-x509", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"), "-addext", "basicConstraints=CA:FALSE"),
            )
        self._make("stranger", "-x509", "-subj", "/CN=authority")

    def path(self, name: str) -> str:
        """Where a file is."""
        return str(self._directory / name)

    def _make(self, name: str, *options: str) -> None:
        openssl = shutil.which("openssl") or missing("openssl")
        files = ["-keyout", self.path(f"{name}.key"), "-out", self.path(f"{name}.crt")]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        subprocess.run([openssl, "req", *key, *files, *options], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def port(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Redis that speaks TLS alone."""
    port, directory = free_port(), tmp_path_factory.mktemp("redis")
    options = {"--tls-port": str(port), "--port": "0", "--save": "", "--dir": str(directory), "--bind": "127.0.0.1"}
    files = {"cert": "server.crt", "key": "server.key", "ca-cert": "ca.crt"}
    options |= {f"--tls-{name}-file": certificates.path(file) for name, file in files.items()}
    command = [redis_command("redis") or missing("redis-server"), *(word for each in options.items() for word in each)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until("it listens", lambda: _listens(port, process))
            yield port
        finally:
            process.kill()


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        missing("a redis-server that can do TLS")
    with NodeLog(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none&ssl_check_hostname=false", Keys(), "n") as log:
        try:
            log.read(None, START)
        except LogUnavailable as error:
            return "refused" not in str(error)
    return True


def url(port: int, host: str = "127.0.0.1", **files: str) -> str:
    return f"rediss://{host}:{port}/0?{urlencode({f'ssl_{name}': path for name, path in files.items()})}"


async def test_the_log_works_over_tls_with_certificates_on_both_sides(
    port: int, certificates: Certificates, node: str
) -> None:
    files = {"ca_certs": "ca.crt", "certfile": "client.crt", "keyfile": "client.key"}
    place = url(port, **{name: certificates.path(file) for name, file in files.items()})
    subscriber, reader, recorder = Subscriber(place), Reader(place, Keys()), Recorder()
    await subscriber.subscribe(Keys().records(Topic(node)), recorder)
    with NodeLog(place, Keys(), node) as log:
        Writer(log).append("job", None)
    await recorder.until(lambda recorder: recorder.messages)
    assert indexes((await reader.read(Topic(node), START)).updates) == [0, 1]
    await subscriber.aclose()
    await reader.aclose()


@pytest.mark.parametrize(
    ("host", "files", "says"),
    [
        ("127.0.0.1", {"ca_certs": "ca.crt"}, "required|closed|reset|does not answer"),
        ("127.0.0.1", {"ca_certs": "stranger.crt", "certfile": "client.crt", "keyfile": "client.key"}, "certificate"),
        ("localhost", {"ca_certs": "ca.crt", "certfile": "client.crt", "keyfile": "client.key"}, "[Hh]ostname|match"),
        ("127.0.0.1", {"ca_certs": "none.crt"}, "No such file"),
    ],
    ids=["no certificate of the client", "another authority", "another name", "no such file"],
)
async def test_what_does_not_fit_is_refused_with_a_sentence(
    port: int, certificates: Certificates, host: str, files: dict[str, str], says: str
) -> None:
    place = url(port, host, **{name: certificates.path(file) for name, file in files.items()})
    with NodeLog(place, Keys(), "n") as log, pytest.raises(LogUnavailable, match=says):
        log.read(None, START)
    reader = Reader(place, Keys())
    with pytest.raises(LogUnavailable, match=says):
        await reader.ping()
    await reader.aclose()
