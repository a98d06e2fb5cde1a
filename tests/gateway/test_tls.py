"""The gateway's port by TLS."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as websocket

from streamer.core.errors import InvalidSetting
from streamer.fanout.hub import HubSettings
from streamer.gateway import reloading
from streamer.gateway.server import Gateway
from streamer.gateway.tls import TlsSettings, server_context
from tests.certificates import Certificates
from tests.gateway.clients import DEADLINE_S, Node, ask, end, eventually, indexes, path, serving
from tests.servers import RedisServer, missing


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def settings(certificates: Certificates, name: str = "server") -> TlsSettings:
    return TlsSettings(certificates.path(f"{name}.crt"), certificates.path(f"{name}.key"))


@pytest.fixture
async def secure(valkey: RedisServer, certificates: Certificates) -> AsyncIterator[Gateway]:
    """A gateway behind TLS."""
    async with serving(valkey, tls=settings(certificates), ping_s=600) as gateway:
        yield gateway


def client_context(certificates: Certificates, **minimum: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.path("ca.crt"))
    context.maximum_version = minimum.get("at_most", ssl.TLSVersion.MAXIMUM_SUPPORTED)
    return context


def connect(gateway: Gateway, target: str, context: ssl.SSLContext, **options: Any) -> websocket:
    return websocket(f"wss://127.0.0.1:{gateway.port}{target}", ssl=context, compression=None, max_size=None, **options)


async def shown_certificate(gateway: Gateway, certificates: Certificates, name: str | None = None) -> bytes:
    """The certificate that a new connection is shown, with or without a server's name in what the client says."""
    context = client_context(certificates)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context, server_hostname=name or "")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return bytes(shown)


@pytest.mark.parametrize("at_most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_history_and_live_updates_come_by_tls(
    secure: Gateway, certificates: Certificates, publisher: Node, at_most: ssl.TLSVersion
) -> None:
    publisher.count(5000)
    context = client_context(certificates, at_most=at_most)
    async with connect(secure, path(publisher.name), context) as watching:
        assert await indexes(watching, 5000) == list(range(5000))
        publisher.count(3)
        assert await indexes(watching, 3) == [5000, 5001, 5002]
    assert secure.settings.internal_port
    assert (await ask(secure.settings.internal_port, "/healthz")).status == 200


async def test_what_is_no_tls_or_an_old_one_is_refused_without_a_word_in_the_log(
    secure: Gateway, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        assert not (await reader.read()).startswith(b"HTTP")
    writer.close()
    context = client_context(certificates)
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(secure, "/", context)
    assert [record for record in caplog.records if record.name.startswith("streamer")] == []


async def test_a_slow_client_costs_no_more_than_its_buffers_and_gets_all_in_the_end(
    secure: Gateway, certificates: Certificates, publisher: Node
) -> None:
    """What waits for a client that reads nothing is bounded; others go on; and nothing is lost or comes twice."""
    context = client_context(certificates)
    publisher.count(1)
    text = "x" * 1000
    async with (
        connect(secure, path(publisher.name), context, max_queue=1) as slow,
        connect(secure, path(publisher.name), context) as quick,
    ):
        assert await indexes(slow, 1) == await indexes(quick, 1) == [0]
        slow.transport.pause_reading()
        for n in range(100):
            publisher.count(99, text=text)
            assert await indexes(quick, 99) == list(range(1 + n * 99, 1 + n * 99 + 99))
        await eventually("the slow one is behind", lambda: secure.hub.statistics().behind == 1)
        [session] = [each.session for each in secure._connections if each.session and each.paused]
        assert session is not None
        assert 0 < session.unsent_bytes < 1 << 20
        assert _held_below(session.connection.transport) < 1 << 20
        slow.transport.resume_reading()
        assert await indexes(slow, 9900) == list(range(1, 9901))


def _held_below(transport: Any) -> int:
    """What the transport below that of TLS holds of it, which no public name tells."""
    below = getattr(transport, "_ssl_protocol", None)
    below = getattr(below, "_transport", None)
    return 0 if below is None else int(below.get_write_buffer_size())


async def test_a_client_that_takes_nothing_is_closed(
    valkey: RedisServer, certificates: Certificates, publisher: Node
) -> None:
    publisher.count(9000, text="x" * 1000)
    async with serving(valkey, tls=settings(certificates), hub=HubSettings(stall_s=0.5)) as gateway:
        watching = await connect(gateway, path(publisher.name), client_context(certificates), max_queue=1)
        await eventually(
            "it is given up", lambda: any(each.session and each.session._ended for each in gateway._connections)
        )
        ended = await end(watching)
        assert ended.code == 4003


async def test_a_new_certificate_is_shown_to_new_clients_and_old_ones_stay(
    valkey: RedisServer,
    certificates: Certificates,
    publisher: Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(reloading, "LOOK_S", 0)
    caplog.set_level(logging.INFO)
    cert, key = tmp_path / "cert", tmp_path / "key"

    def put(name: str) -> bytes:
        for file, suffix in ((cert, "crt"), (key, "key")):
            shutil.copyfile(certificates.path(f"{name}.{suffix}"), file)
        return ssl.PEM_cert_to_DER_cert(cert.read_text())

    _make_rsa(certificates)
    first = put("server")
    publisher.count(1)
    async with (
        serving(valkey, tls=TlsSettings(str(cert), str(key))) as gateway,
        connect(gateway, path(publisher.name), client_context(certificates)) as watching,
    ):
        assert await shown_certificate(gateway, certificates) == first
        second = put("client")
        assert second != first
        for name in (None, "localhost", "other.example.com"):
            assert await shown_certificate(gateway, certificates, name) == second
        # A certificate of another kind does not stay beside the one before it.
        third = put("rsa")
        assert await shown_certificate(gateway, certificates) == third
        fourth = put("server")
        assert await shown_certificate(gateway, certificates) == fourth
        for broken in ("nonsense", Path(certificates.path("client.key")).read_text()):
            caplog.clear()
            key.write_text(broken)
            for _ in range(3):
                assert await shown_certificate(gateway, certificates) == fourth
            assert [record.levelno for record in caplog.records if record.name.startswith("streamer")] == [
                logging.ERROR
            ]
        publisher.count(1)
        assert await indexes(watching, 2) == [0, 1]


def _make_rsa(certificates: Certificates) -> None:
    openssl = shutil.which("openssl") or missing("openssl")
    files = ["-keyout", certificates.path("rsa.key"), "-out", certificates.path("rsa.crt")]
    key = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rsa"]
    subprocess.run([openssl, "req", *key, *files], check=True, capture_output=True)


def test_files_that_do_not_fit_are_refused_with_a_sentence(certificates: Certificates, tmp_path: Path) -> None:
    encrypted, nonsense = str(tmp_path / "encrypted"), str(tmp_path / "nonsense")
    Path(nonsense).write_text("nonsense")
    key, cert = certificates.path("server.key"), certificates.path("server.crt")
    command = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    for given, says in (
        ((cert, certificates.path("client.key")), "is not that of the certificate"),
        ((cert, encrypted), "is encrypted"),
        ((nonsense, key), "hold no certificate and key in PEM"),
        ((cert, nonsense), "hold no certificate and key in PEM"),
        ((cert, str(tmp_path / "none")), "none cannot be read: No such file"),
        ((str(tmp_path / "none"), key), "none cannot be read: No such file"),
    ):
        with pytest.raises(InvalidSetting, match=says):
            server_context(TlsSettings(*given))
    for alone, missing_one in (((cert, None), "--tls-key is missing"), ((None, key), "--tls-cert is missing")):
        with pytest.raises(InvalidSetting, match=missing_one):
            TlsSettings(*alone)


async def test_who_begins_no_handshake_is_cut_off(
    secure: Gateway, monkeypatch: pytest.MonkeyPatch, valkey: RedisServer, certificates: Certificates
) -> None:
    monkeypatch.setattr("streamer.gateway.server.TLS_HANDSHAKE_S", 0.2)
    async with serving(valkey, tls=settings(certificates)) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port)) as silent:
            assert await asyncio.to_thread(silent.recv, 1) == b""
