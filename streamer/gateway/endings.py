"""How the connections of clients have ended, counted for metrics."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus

from websockets.frames import CloseCode
from websockets.http11 import Response
from websockets.protocol import Protocol

from streamer.core.messages import EXPIRED, GAP, RESET, TOO_SLOW

_CODES = (
    CloseCode.PROTOCOL_ERROR,
    CloseCode.UNSUPPORTED_DATA,
    CloseCode.POLICY_VIOLATION,
    CloseCode.MESSAGE_TOO_BIG,
    CloseCode.INTERNAL_ERROR,
    CloseCode.SERVICE_RESTART,
    CloseCode.TRY_AGAIN_LATER,
    RESET,
    GAP,
    TOO_SLOW,
    EXPIRED,
)
_STATUSES = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.UPGRADE_REQUIRED,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""What is usual begins with 0: Prometheus sees no increase in what begins with 1."""


class Endings:
    """Counts WebSockets that the gateway has closed, by code, and requests that it has refused, by status."""

    def __init__(self) -> None:
        self.closed: Counter[int] = Counter({int(code): 0 for code in _CODES})
        self.refused: Counter[int] = Counter({int(status): 0 for status in _STATUSES})

    def count(self, response: Response | None, protocol: Protocol) -> None:
        """Count a connection that is lost, unless its client has ended it: what it was answered, and how it ended."""
        if response is not None and response.status_code >= HTTPStatus.BAD_REQUEST:
            self.refused[response.status_code] += 1
        if protocol.close_sent is not None and not protocol.close_rcvd_then_sent:
            self.closed[protocol.close_sent.code] += 1
