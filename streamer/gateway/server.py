"""The gateway's server: requests come in, are answered or become sessions; it stops in an orderly way."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from streamer.core.errors import InvalidInput, LogUnavailable
from streamer.core.messages import EXPIRED
from streamer.core.protocol import Format
from streamer.fanout.fleet_session import FleetSession
from streamer.fanout.hub import Hub
from streamer.fanout.job_session import JobSession
from streamer.fanout.locating import Position
from streamer.fanout.session import Session
from streamer.gateway.access import PLAIN, Access, Refused, without_token
from streamer.gateway.api import answer_api
from streamer.gateway.connection import GatewayConnection
from streamer.gateway.conversation import Conversation, Limits
from streamer.gateway.endings import Endings
from streamer.gateway.expiries import Expiries
from streamer.gateway.http import UNAVAILABLE, answer_error, answer_file, answer_unavailable, wants_upgrade
from streamer.gateway.internal import answer_internal
from streamer.gateway.routes import Converse, GiveFile, Plain, UnknownPath, Watch, WatchFleet, WatchJob, parse_target
from streamer.gateway.settings import GatewaySettings
from streamer.gateway.tls import server_context
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber

MAX_MESSAGE_BYTES = 4096
"""Clients of the plain endpoint have nothing to say."""

BACKLOG = 4096
SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel may hold for a client that does not read; without a bound, it is megabytes each."""

TLS_HANDSHAKE_S = 10.0

LAST_WORDS_S = 1.0
"""How long those who were told that the gateway stops have to answer."""

COMPLAIN_S = 60.0
"""Why the log cannot be read is logged this often at the most, however many ask."""

# Without context takeover, what is compressed once is the same for every client.
_DEFLATE = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)

_log = logging.getLogger(__name__)


def offered_formats(request: Request) -> list[Format]:
    """The formats of v1 that a client offers as subprotocols, what it likes best first."""
    known = {format.value: format for format in Format}
    values = request.headers.get_all("Sec-WebSocket-Protocol")
    names = [name.strip() for value in values for name in value.split(",")]
    return [known[name] for name in names if name in known]


def _select_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The format of v1, or the plain endpoint's name, where it is offered; else none, which only browsers refuse."""
    format = cast(GatewayConnection, connection).format
    if format is not None:
        return Subprotocol(format.value)
    return PLAIN if PLAIN in offered else None


class Gateway:
    """Serves clients on a port; for one event loop. Start it once, stop it once.

    Raises InvalidSetting where a file with keys or a certificate cannot be used.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.access = Access(settings.tokens)
        self._tls = server_context(settings.tls)
        self._expiries: Expiries[GatewayConnection] = Expiries(self._expire)
        reader = Reader(settings.redis_url, settings.keys)
        subscriber = Subscriber(settings.redis_url, linger_s=settings.linger_ms / 1000, keys=settings.keys)
        self.hub = Hub(reader, subscriber, settings.keys, settings.hub)
        self.endings = Endings()
        self.draining = False
        self._ending = False
        self._server: Server | None = None
        self._internal: Server | None = None
        self._connections: set[GatewayConnection] = set()
        self._complained_at = -math.inf

    async def start(self) -> None:
        """Listen. Raises OSError where a port cannot be had; nothing listens then, nor where it is cancelled."""
        settings = self.settings
        self.hub.start()
        try:
            if settings.internal_port is not None:
                self._internal = await self._serve(settings.internal_port, process_request=self._process_internal)
            self._server = await self._serve(
                settings.port,
                self.endings,
                process_request=self._process_request,
                # Longer than a handshake waits for Redis, so that who is refused is told why.
                open_timeout=settings.hub.open_timeout_s + 5,
                ping_interval=settings.ping_s,
                ping_timeout=settings.ping_s,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=1,
                backlog=BACKLOG,
                extensions=[_DEFLATE] if settings.compress else None,
                select_subprotocol=_select_subprotocol,
                reuse_port=settings.reuse_port,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else TLS_HANDSHAKE_S,
            )
            for listening in self._server.sockets:
                # Accepted sockets inherit it.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        except BaseException:
            await self._release()
            raise

    async def _serve(self, port: int, endings: Endings | None = None, **options: Any) -> Server:
        return await serve(
            self._handle,
            self.settings.host,
            port,
            process_response=self._process_response,
            compression=None,
            server_header=None,
            create_connection=cast(
                type[ServerConnection], partial(GatewayConnection, self._connections, endings=endings)
            ),
            **options,
        )

    @property
    def port(self) -> int:
        """The port it listens on, also where 0 was asked for."""
        assert self._server is not None
        return cast(int, self._server.sockets[0].getsockname()[1])

    async def stop(self, drain_s: float | None = None, notice_s: float | None = None) -> None:
        """Stop in order: be not ready, accept no more, close the clients spread over the time given, let go of Redis.

        For ``notice_s`` seconds after it is not ready any more it still serves whoever comes. Each client is told where
        to go on elsewhere. Both times are the settings' by default. May be cancelled, which makes it quick: who is
        still there is told at once. Cancelled once more, it waits for nobody's answer.
        """
        self.draining = True
        try:
            await self._give_notice(self.settings.notice_s if notice_s is None else notice_s)
            self._accept_no_more()
            await self._drain(self.settings.drain_s if drain_s is None else drain_s)
        finally:
            self._accept_no_more()
            try:
                await self._hear_last_words()
            finally:
                await self._release()

    async def _give_notice(self, notice_s: float) -> None:
        if notice_s > 0:
            _log.info("not ready any more; clients are accepted for another %g s", notice_s)
            await asyncio.sleep(notice_s)

    def _accept_no_more(self) -> None:
        if self._server is not None:
            self._server.close(close_connections=False)

    async def _drain(self, drain_s: float) -> None:
        clients = [connection for connection in self._connections if connection.session is not None]
        if clients:
            _log.info("closing %d clients over %g s", len(clients), drain_s)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for n, connection in enumerate(clients):
            # By the clock: each sleep is longer than asked for, which would add up to minutes for many clients.
            early_s = began + n * drain_s / len(clients) - loop.time()
            if early_s > 0:
                await asyncio.sleep(early_s)
            self._dismiss(connection)

    async def _hear_last_words(self) -> None:
        """Dismiss all who are still there, and wait a little for them, and for those whom an answer is due."""
        self._ending = True
        for connection in self._connections:
            self._dismiss(connection)
        due = [connection.connection_lost_waiter for connection in self._connections if connection.request is not None]
        if due:
            await asyncio.wait(due, timeout=LAST_WORDS_S)

    def _dismiss(self, connection: GatewayConnection) -> None:
        if connection.session is not None:
            connection.session.close(CloseCode.SERVICE_RESTART, f"service restart; {connection.session.how_to_go_on()}")

    def _expire(self, connection: GatewayConnection) -> None:
        if connection.session is not None:
            go_on = connection.session.how_to_go_on()
            connection.session.close(EXPIRED, f"the token has expired; come back with a new one, and {go_on}")

    async def _release(self) -> None:
        """Close and cut off all that there is."""
        self._expiries.close()
        for server in (self._server, self._internal):
            if server is not None:
                server.close(close_connections=False)
                for task in server.handler_tasks:
                    task.cancel()
        for connection in self._connections:
            connection.transport.abort()
        # It goes on to its end also where this is cancelled.
        await asyncio.shield(self.hub.aclose())

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request, or return None for a WebSocket to be opened."""
        if request.method != "GET":
            return answer_error(
                HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is not served here, only GET is", {"Allow": "GET"}
            )
        try:
            route = parse_target(without_token(request.path))
            if isinstance(route, GiveFile):
                return answer_file(route.file)
            permissions = self.access.authorize(request, route)
            if not isinstance(route, Plain | Converse):
                return await answer_api(self.hub.reader, route, permissions)
            if not wants_upgrade(request):
                return answer_error(
                    HTTPStatus.UPGRADE_REQUIRED,
                    "this is a WebSocket endpoint: open it with ws:// or wss://, or see / in a browser",
                    {"Upgrade": "websocket", "Connection": "upgrade, close"},
                )
            connection = cast(GatewayConnection, connection)
            connection.permissions = permissions
            if isinstance(route, Converse):
                return self._agree(connection, request)
            await self._locate(connection, route)
            return None
        except Refused as refused:
            return refused.response
        except UnknownPath:
            return answer_error(
                HTTPStatus.NOT_FOUND,
                "nothing is here; WebSockets are at /nodes/NODE, /nodes/NODE/jobs/JOB, /jobs/JOB, /fleet and /ws, "
                "the API is at /api/nodes",
            )
        except InvalidInput as error:
            return answer_error(HTTPStatus.BAD_REQUEST, str(error))
        except LogUnavailable as error:
            self._complain(error)
            return answer_unavailable()

    def _agree(self, connection: GatewayConnection, request: Request) -> Response | None:
        """Take the first of the formats that a client offers, or say which it might."""
        connection.format = next(iter(offered_formats(request)), None)
        if connection.format is None:
            names = " or ".join(format.value for format in Format)
            return answer_error(HTTPStatus.BAD_REQUEST, f"offer a WebSocket subprotocol: {names}")
        connection.protocol.max_message_size = self.settings.max_message_bytes
        return None

    async def _locate(self, connection: GatewayConnection, watch: Plain) -> None:
        match watch:
            case Watch(topic, after, history):
                connection.position = await self.hub.locate(topic, after, history)
            case WatchJob(job):
                await self.hub.lookouts.job(job)
            case WatchFleet():
                await self.hub.lookouts.fleet()
        connection.watch = watch

    def _complain(self, error: LogUnavailable) -> None:
        now = time.monotonic()
        if now - self._complained_at >= COMPLAIN_S:
            self._complained_at = now
            _log.warning("clients are refused: %s", error)

    def _process_response(self, connection: ServerConnection, request: Request, response: Response) -> None:
        """Say in the handshake where the client joins."""
        if request.method == "HEAD":
            response.body = b""
        position = cast(GatewayConnection, connection).position
        if position is not None and response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            cursor = position.cursor
            response.headers["Streamer-Log"] = cursor.log_id
            response.headers["Streamer-Cursor"] = cursor.after
            response.headers["Streamer-Head"] = str(position.head)
            whole = not (position.truncated or position.missing or position.reset)
            response.headers["Streamer-History"] = "complete" if whole else "truncated"

    async def _process_internal(self, connection: ServerConnection, request: Request) -> Response:
        return await answer_internal(self.hub, self.endings, self.draining, request)

    def _handle(self, connection: ServerConnection) -> Coroutine[Any, Any, None]:
        """Serve a WebSocket until it is closed."""
        # Not a coroutine itself: one that waits for another holds half a KiB, as often as there are clients.
        connection = cast(GatewayConnection, connection)
        connection.forget_handshake()
        if connection.format is not None:
            return self._converse(connection, connection.format)
        return self._watch(connection)

    async def _converse(self, connection: GatewayConnection, format: Format) -> None:
        """Serve a v1 connection until it is closed."""
        settings = self.settings
        limits = Limits(settings.max_topics, settings.max_messages_s, settings.hub.stall_s)
        permissions = connection.permissions
        conversation = connection.session = Conversation(connection, self.hub, format, limits, permissions)
        self._expiries.add(connection, permissions.expires_at)
        try:
            if self._ending:
                self._dismiss(connection)  # else the drain does
            await conversation.run()
        except ConnectionClosed:
            pass
        finally:
            conversation.end()
            self._expiries.discard(connection, permissions.expires_at)

    async def _watch(self, connection: GatewayConnection) -> None:
        """Serve a connection of the plain endpoint until it is closed."""
        watch, began = connection.watch, time.monotonic()
        assert watch is not None
        session = connection.session = self._session_of(connection, watch)
        expires_at = connection.permissions.expires_at
        self._expiries.add(connection, expires_at)
        try:
            await self._join(session, connection.position)
            if self._ending:
                self._dismiss(connection)  # else the drain does
            await connection.recv()
            session.close(CloseCode.UNSUPPORTED_DATA, "this endpoint only sends: it takes no messages from clients")
            while True:
                # The answer to the close stands behind whatever else the client sends.
                await connection.recv()
        except ConnectionClosed:
            pass
        finally:
            session.end()
            self._expiries.discard(connection, expires_at)
            _log.debug("%s was watched for %.1f s", watch, time.monotonic() - began)

    def _session_of(self, connection: GatewayConnection, watch: Plain) -> Session | JobSession | FleetSession:
        stall_s = self.settings.hub.stall_s
        match watch:
            case Watch(topic):
                return Session(connection, topic, stall_s)
            case WatchJob(job, after, history):
                permits = connection.permissions.may_watch
                return JobSession(connection, self.hub, job, after, history, stall_s, permits)
            case WatchFleet():
                return FleetSession(connection, stall_s)

    async def _join(self, session: Session | JobSession | FleetSession, position: Position | None) -> None:
        try:
            match session:
                case Session():
                    await self.hub.join(session, position)
                case JobSession():
                    session.begin(await self.hub.lookouts.job(session.job))
                case FleetSession():
                    session.begin(await self.hub.lookouts.fleet())
        except LogUnavailable as error:
            self._complain(error)
            session.close(CloseCode.TRY_AGAIN_LATER, UNAVAILABLE)
