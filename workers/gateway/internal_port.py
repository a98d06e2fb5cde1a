"""The internal port of several gateway processes: one that answers for them all, as a lone gateway's does for itself.

To share it as they share the other would not do: each request would reach one of them, whichever it be.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from http import HTTPStatus
from typing import Any, Self, cast

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from streamer.gateway.connection import GatewayConnection
from streamer.gateway.http import answer, answer_error, answer_json
from workers.gateway.merged_metrics import merge
from workers.gateway.processes import GatewayProcesses


class InternalPort:
    """Serves health and metrics of processes within an `async with`; nothing where ``port`` is None.

    Raises OSError where the port cannot be had.
    """

    def __init__(self, host: str, port: int | None, processes: GatewayProcesses) -> None:
        self._host, self._port, self._processes = host, port, processes
        self._connections: set[GatewayConnection] = set()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        if self._port is not None:
            self._server = await serve(
                _nobody,
                self._host,
                self._port,
                process_request=self._process_request,
                compression=None,
                server_header=None,
                create_connection=cast(type[ServerConnection], partial(GatewayConnection, self._connections)),
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close(close_connections=False)
            for task in self._server.handler_tasks:
                task.cancel()
        for connection in self._connections:
            connection.transport.abort()

    async def _process_request(self, _connection: ServerConnection, request: Request) -> Response:
        response = await answer_for_all(self._processes, request.path.partition("?")[0])
        if request.method == "HEAD":
            response.body = b""
        return response


async def _nobody(_connection: ServerConnection) -> None:
    """No request becomes a WebSocket."""


async def answer_for_all(processes: GatewayProcesses, path: str) -> Response:
    """Answer a request for a path.

    `/healthz`: every process that serves answers. `/readyz`: at least one serves, and all that do are ready, since
    each may get the next client; one that is about to serve gets none. `/metrics`: all that each has, with a label
    `process`.
    """
    match path:
        case "/healthz":
            return await _health(processes)
        case "/readyz":
            return await _readiness(processes)
        case "/metrics":
            return await _metrics(processes)
    return answer_error(HTTPStatus.NOT_FOUND, "here are /healthz, /readyz and /metrics")


async def _health(processes: GatewayProcesses) -> Response:
    for number, answered in (await processes.ask("/healthz")).items():
        if answered is None:
            return _unavailable(f"process {number} does not answer")
    return answer_json({"status": "ok"})


async def _readiness(processes: GatewayProcesses) -> Response:
    if processes.stopping.is_set():
        return _unavailable("the gateway is stopping")
    answers = await processes.ask("/readyz")
    for number, answered in answers.items():
        if answered is None:
            return _unavailable(f"process {number} does not answer")
        if answered.status != HTTPStatus.OK:
            return _unavailable(f"process {number}: {_error(answered.body)}")
    return answer_json({"status": "ready"}) if answers else _unavailable("no process serves yet")


async def _metrics(processes: GatewayProcesses) -> Response:
    answers = await processes.ask("/metrics")
    texts = {number: answered.body.decode() for number, answered in answers.items() if answered is not None}
    return answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, merge(texts, _own_metrics(processes, texts)))


def _own_metrics(processes: GatewayProcesses, answering: Iterable[int]) -> list[Metric]:
    up = GaugeMetricFamily("streamer_process_up", "1 while the process serves and answers.", labels=["process"])
    restarts = CounterMetricFamily(
        "streamer_process_restarts", "Times that the process was started again.", labels=["process"]
    )
    for number, times in processes.restarts.items():
        up.add_metric([str(number)], number in answering)
        restarts.add_metric([str(number)], times)
    return [up, restarts]


def _error(body: bytes) -> str:
    content: dict[str, Any] = msgspec.json.decode(body)
    return str(content["error"])


def _unavailable(why: str) -> Response:
    return answer_error(HTTPStatus.SERVICE_UNAVAILABLE, why)
