"""Answers to plain HTTP requests."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import msgspec
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

UNAVAILABLE = "the log cannot be read now; try again"
"""What the public is told where Redis does not answer; why is for the gateway's own log."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def answer(status: HTTPStatus, kind: str, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """An answer after which the connection is closed."""
    all_headers = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **(headers or {}),
    }
    return Response(status.value, status.phrase, Headers(all_headers), body)


def answer_json(content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return answer(status, "application/json", msgspec.json.encode(content), headers)


def answer_error(status: HTTPStatus, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """An error: a sentence that says what was wrong and what to do."""
    return answer_json({"error": sentence}, status, headers)


def answer_unavailable() -> Response:
    """Say that Redis does not answer, and that another try may help."""
    return answer_error(HTTPStatus.SERVICE_UNAVAILABLE, UNAVAILABLE, {"Retry-After": "1"})


@cache
def _content(path: str) -> bytes:
    return (files("streamer") / path).read_bytes()


def answer_file(path: str) -> Response:
    """A file of the package. A page may load nothing from elsewhere; pages of others may load the client from here."""
    headers = {
        "Content-Security-Policy": _PAGE_POLICY,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "Access-Control-Allow-Origin": "*",
    }
    return answer(HTTPStatus.OK, _TYPES[PurePath(path).suffix], _content(path), headers)


def wants_upgrade(request: Request) -> bool:
    """Whether a request asks for a WebSocket."""
    return any("websocket" in value.lower() for value in request.headers.get_all("Upgrade"))
