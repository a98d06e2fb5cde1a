"""Metrics of a process that publishes, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from prometheus_client import CollectorRegistry, start_http_server

from streamer.core.errors import StreamerError
from streamer.metrics import NodeCollector
from workers.options import Command, option


class NoMetricsPort(StreamerError):
    """The port for metrics cannot be had; the text says which and why."""


def metrics_options(command: Command) -> Command:
    """Where a process that publishes serves its metrics; the command gets ``metrics_port`` and ``metrics_host``."""
    port: Callable[[Command], Command] = option(
        "--metrics-port", type=click.IntRange(1, 65535), help="A port for /metrics; left out, there are none."
    )
    host: Callable[[Command], Command] = option(
        "--metrics-host", default="127.0.0.1", help="The address of that port; 0.0.0.0 for all."
    )
    return port(host(command))


@contextmanager
def serving_metrics(port: int | None, host: str) -> Iterator[None]:
    """Serve the figures of all nodes that this process publishes for, in a thread, to the end of the block.

    Does nothing where there is no port. Raises NoMetricsPort.
    """
    if port is None:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise NoMetricsPort(
            f"metrics cannot be served on port {port} of {host}: {error.strerror or error}; "
            "choose another with --metrics-port"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
