"""A server that speaks v1 as a script says."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Line = Response | tuple[int, str] | Sequence[dict[str, Any] | str]

JSON = Subprotocol("streamer.v1.json")


class Script:
    """Treats each connection as the next line says, the last one again and again, and notes what it was asked.

    A line is a refusal; a code and a reason to close with; or messages, which are sent once the client has said
    something, with the number of its first request as their ``id`` where they have one.
    """

    def __init__(self, *lines: Line) -> None:
        self.lines = list(lines)
        self.requests: list[Request] = []
        self.said: list[dict[str, Any]] = []
        self.connections: list[ServerConnection] = []

    @property
    def _line(self) -> Line:
        return self.lines[min(len(self.requests), len(self.lines)) - 1]

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse the connection where that is its line."""
        self.requests.append(request)
        return self._line if isinstance(self._line, Response) else None

    async def handle(self, connection: ServerConnection) -> None:
        """Act as the line says, and hear what is said."""
        line = self._line
        self.connections.append(connection)
        try:
            if isinstance(line, tuple):
                await connection.close(*line)
                return
            assert not isinstance(line, Response)
            first = json.loads(await connection.recv())
            self.said.append(first)
            for message in line:
                if isinstance(message, dict) and "id" in message:
                    message = message | {"id": first["id"]}
                await connection.send(message if isinstance(message, str) else json.dumps(message))
            async for data in connection:
                self.said.append(json.loads(data))
        except ConnectionClosed:
            pass


@asynccontextmanager
async def scripted(script: Script, *, tls: ssl.SSLContext | None = None, v1: bool = True) -> AsyncIterator[str]:
    """Serve a script until the end of the block; gives its URL."""
    subprotocols = [JSON] if v1 else None
    async with serve(
        script.handle, "127.0.0.1", 0, process_request=script.answer, subprotocols=subprotocols, ssl=tls
    ) as server:
        yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def refusal(status: HTTPStatus, body: bytes = b"") -> Response:
    """An answer that is no WebSocket."""
    return Response(status.value, status.phrase, Headers({"Content-Length": str(len(body))}), body)


def subscribed(node: str = "n", cursor: str = "ab.1.-1", **more: Any) -> dict[str, Any]:
    """What is said when a topic is followed."""
    facts = {"epoch": 1, "head": 9, "cursor": cursor, "truncated": False}
    return {"op": "subscribed", "id": None, "node": node, **facts, **more}


def updates(*indexes: int, node: str = "n", **more: Any) -> dict[str, Any]:
    """Updates of these indexes."""
    each = [
        {"status": "s", "state": {}, "timestamp": 1, "index": index, "previous": -1, "cursor": f"ab.1.{index}"}
        for index in indexes
    ]
    return {"op": "updates", "node": node, "updates": each, "cursor": each[-1]["cursor"], **more}
