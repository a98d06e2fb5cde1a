"""Metrics of a process that publishes, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from prometheus_client import CollectorRegistry, start_http_server

from streamer.core.errors import StreamerError
from streamer.metrics import NodeCollector
from workers.options import Command, option

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


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

    They are at `/metrics`; `/healthz` says that the process runs. Does nothing where there is no port.
    Raises NoMetricsPort.
    """
    if port is None:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector())
    try:
        server, thread = start_http_server(port, host, registry)
        metrics = server.get_app()
        assert metrics is not None
        server.set_app(_with_paths(metrics))
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


def _with_paths(metrics: WSGIApplication) -> WSGIApplication:
    """Serve metrics under their path alone: prometheus_client has them under every path."""

    def serve(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, body = "404 Not Found", b"here are /healthz and /metrics\n"
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                status, body = "200 OK", b"ok\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
        return [body]

    return serve
