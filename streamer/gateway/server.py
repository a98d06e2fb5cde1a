"""The gateway's server: requests come in, are answered or become sessions; it stops in an orderly way."""

from __future__ import annotations

import asyncio
import logging
import time
from http import HTTPStatus
from typing import cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from streamer.core.errors import InvalidInput, LogUnavailable
from streamer.fanout.hub import Hub
from streamer.fanout.session import TRY_AGAIN_LATER, Session
from streamer.gateway.api import answer_api
from streamer.gateway.connection import GatewayConnection
from streamer.gateway.http import answer_error, answer_page, answer_unavailable, wants_upgrade
from streamer.gateway.internal import answer_internal
from streamer.gateway.routes import ShowPage, UnknownPath, Watch, parse_target
from streamer.gateway.settings import GatewaySettings

MAX_MESSAGE_BYTES = 4096
"""Clients of the plain endpoint have nothing to say."""

BACKLOG = 4096
LAST_WORDS_S = 1.0

_log = logging.getLogger(__name__)


class Gateway:
    """Serves clients on a port; for one event loop. Start it once, stop it once."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.hub = Hub(settings.redis_url, settings.keys, settings.hub)
        self.draining = False
        self._server: Server | None = None
        self._internal: Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError where a port cannot be had; nothing listens then."""
        settings = self.settings
        self.hub.start()
        try:
            if settings.internal_port is not None:
                self._internal = await serve(
                    self._handle,
                    settings.host,
                    settings.internal_port,
                    process_request=self._process_internal,
                    compression=None,
                    server_header=None,
                    create_connection=GatewayConnection,
                )
            self._server = await serve(
                self._handle,
                settings.host,
                settings.port,
                process_request=self._process_request,
                process_response=self._process_response,
                compression=None,
                server_header=None,
                ping_interval=settings.ping_s,
                ping_timeout=settings.ping_s,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=1,
                create_connection=GatewayConnection,
                backlog=BACKLOG,
            )
        except OSError:
            await self._close()
            raise

    @property
    def port(self) -> int:
        """The port it listens on, also where 0 was asked for."""
        assert self._server is not None
        return cast(int, self._server.sockets[0].getsockname()[1])

    async def stop(self, drain_s: float | None = None) -> None:
        """Stop in order: be not ready, accept no more, close the clients spread over the time given, let go of Redis.

        Each client is told where to go on elsewhere. ``drain_s`` is by default the settings'. May be cancelled, which
        makes it quick.
        """
        self.draining = True
        drain_s = self.settings.drain_s if drain_s is None else drain_s
        try:
            if self._server is not None:
                self._server.close(close_connections=False)
                connections = [cast(GatewayConnection, connection) for connection in self._server.connections]
                if connections:
                    _log.info("closing %d clients over %g s", len(connections), drain_s)
                for connection in connections:
                    self._dismiss(connection)
                    await asyncio.sleep(drain_s / len(connections))
        finally:
            await self._close()

    def _dismiss(self, connection: GatewayConnection) -> None:
        if connection.session is not None:
            connection.session.close(CloseCode.SERVICE_RESTART, f"service restart; {connection.session.how_to_go_on()}")

    async def _close(self) -> None:
        for server in (self._server, self._internal):
            if server is not None:
                server.close(close_connections=False)
                # Whoever was told has this long to answer the close.
                await asyncio.wait([asyncio.ensure_future(server.wait_closed())], timeout=LAST_WORDS_S)
                for connection in server.all_connections:
                    connection.transport.abort()
                await server.wait_closed()
        await self.hub.aclose()

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request, or return None for a WebSocket to be opened."""
        if request.method != "GET":
            return answer_error(
                HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is not served here, only GET is", {"Allow": "GET"}
            )
        try:
            route = parse_target(request.path)
            if isinstance(route, ShowPage):
                return answer_page(route.file)
            if not isinstance(route, Watch):
                return await answer_api(self.hub.reader, route)
            if not wants_upgrade(request):
                return answer_error(
                    HTTPStatus.UPGRADE_REQUIRED,
                    "this is a WebSocket endpoint: open it with ws:// or wss://, or see / in a browser",
                    {"Upgrade": "websocket", "Connection": "upgrade, close"},
                )
            await self._locate(cast(GatewayConnection, connection), route)
            return None
        except UnknownPath:
            return answer_error(
                HTTPStatus.NOT_FOUND,
                "nothing is here; WebSockets are at /nodes/NODE and /nodes/NODE/jobs/JOB, the API is at /api/nodes",
            )
        except InvalidInput as error:
            return answer_error(HTTPStatus.BAD_REQUEST, str(error))
        except LogUnavailable as error:
            return answer_unavailable(error)

    async def _locate(self, connection: GatewayConnection, watch: Watch) -> None:
        connection.position = await self.hub.locate(watch.topic, watch.after, watch.history)
        connection.watch = watch

    def _process_response(self, connection: ServerConnection, request: Request, response: Response) -> None:
        """Say in the handshake where the client joins."""
        position = cast(GatewayConnection, connection).position
        if position is not None and response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            response.headers["Streamer-Log"] = position.log_id
            response.headers["Streamer-Head"] = str(position.head)
            response.headers["Streamer-History"] = "truncated" if position.truncated else "complete"

    async def _process_internal(self, connection: ServerConnection, request: Request) -> Response:
        return await answer_internal(self, request)

    async def _handle(self, connection: ServerConnection) -> None:
        """Serve a WebSocket until it is closed."""
        connection = cast(GatewayConnection, connection)
        assert connection.watch is not None
        began = time.monotonic()
        session = connection.session = Session(connection, connection.watch.topic, self.settings.hub.max_lag)
        try:
            await self.hub.join(session, connection.position)
            connection.release_held()
            await connection.recv()
            session.close(CloseCode.UNSUPPORTED_DATA, "this endpoint only sends: it takes no messages from clients")
            await connection.wait_closed()
        except ConnectionClosed:
            pass
        except LogUnavailable as error:
            await connection.close(TRY_AGAIN_LATER, str(error)[:120])
        finally:
            session.end()
            _log.debug("%s was watched for %.1f s", session.topic, time.monotonic() - began)
