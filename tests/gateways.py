"""Gateways in processes of their own."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.commands import command, environment
from tests.servers import free_port, wait_until


class GatewayProcess:
    """A gateway as users run it; a context manager that kills it at the end."""

    def __init__(self, redis_url: str, *options: str, **process: Any) -> None:
        self.port, self.internal_port = free_port(), free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        ports = ["--port", str(self.port), "--internal-port", str(self.internal_port)]
        arguments = command("gateway", "--redis-url", redis_url, *ports, "--log-level", "warning", *options)
        self.process = subprocess.Popen(arguments, **{"env": environment(), **process})

    def __enter__(self) -> GatewayProcess:
        wait_until("the gateway is ready", self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self.process.kill()
        self.process.wait()

    def metrics(self) -> dict[str, float]:
        """The samples without labels."""
        with urlopen(f"http://127.0.0.1:{self.internal_port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"the gateway ended with {self.process.returncode} on starting"
        with (
            suppress(URLError, ConnectionError),
            urlopen(f"http://127.0.0.1:{self.internal_port}/readyz", timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        return False
