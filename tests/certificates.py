"""Certificates of the tests' own, for servers that speak TLS alone and want a certificate of each client."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

from tests.servers import missing


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

    @property
    def settings(self) -> dict[str, str]:
        """What a server is told, without its ports; servers, and Sentinels, speak TLS with each other, too."""
        files = {"cert": "server.crt", "key": "server.key", "ca-cert": "ca.crt"}
        return {
            **{f"tls-{name}-file": self.path(file) for name, file in files.items()},
            "tls-replication": "yes",
        }

    @property
    def query(self) -> str:
        """What a client adds to its URL."""
        return query(ca_certs=self.path("ca.crt"), certfile=self.path("client.crt"), keyfile=self.path("client.key"))

    def _make(self, name: str, *options: str) -> None:
        openssl = shutil.which("openssl") or missing("openssl")
        files = ["-keyout", self.path(f"{name}.key"), "-out", self.path(f"{name}.crt")]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        subprocess.run([openssl, "req", *key, *files, *options], check=True, capture_output=True)


def query(**files: str) -> str:
    """The options of a URL that name these files."""
    return "?" + urlencode({f"ssl_{name}": path for name, path in files.items()})
