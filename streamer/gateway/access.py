"""Who may make a request: the token in it, what that allows, and how it is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote_plus

from websockets.exceptions import InvalidHeader
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from streamer.core.names import Fleet, JobAnywhere, Subject
from streamer.core.permissions import EVERYTHING, Permissions
from streamer.gateway.http import answer_error
from streamer.gateway.routes import Converse, ListNodes, ListUpdates, Plain, ShowNode, Watch, WatchFleet, WatchJob
from streamer.gateway.tokens import TokenRefused, Tokens, TokenSettings

BEARER = "bearer."
"""What stands before a token in the list of subprotocols, the one header of a WebSocket that a page can set."""

PLAIN = Subprotocol("streamer.plain")
"""The subprotocol of the plain endpoint. A browser that offers any must be given one of them."""

_AUTHORIZATION = re.compile(r"\s*bearer\s+(.*?)\s*", re.IGNORECASE)
_WHERE = "send it as `Authorization: Bearer TOKEN`, or, from a browser, as the subprotocol `bearer.TOKEN`"


class Refused(Exception):
    """A request is not served: the answer to it. Nothing in that shows a token."""

    def __init__(self, status: HTTPStatus, sentence: str, challenge: str | None = None) -> None:
        super().__init__(sentence)
        self._status, self._sentence, self._challenge = status, sentence, challenge

    @property
    def response(self) -> Response:
        """The answer."""
        headers = None if self._challenge is None else {"WWW-Authenticate": self._challenge}
        return answer_error(self._status, self._sentence, headers)


class Access:
    """Says what who makes a request may see; for one event loop.

    ``tokens`` verifies the tokens, None where everybody may see everything. ``clock`` tells seconds since 1970.

    Raises InvalidSetting where a file with keys cannot be used.
    """

    def __init__(self, settings: TokenSettings, clock: Callable[[], float] = time.time) -> None:
        self.tokens = Tokens(settings) if settings.have_keys else None
        self._in_query = settings.in_query
        self._clock = clock

    def authorize(self, request: Request, route: Plain | Converse | ListNodes | ShowNode | ListUpdates) -> Permissions:
        """Return what a request's token allows, where that is enough for the route. Raises Refused.

        In a conversation it is asked again for each topic, and of a job on all nodes for each node.
        """
        permissions = self.identify(request)
        subject = _subject_of(route)
        if subject is not None and not permissions.may_watch(subject):
            raise _forbidden(permissions.missing_for(subject))
        match route:
            case ShowNode(node) if not permissions.may_see_node(node):
                raise _forbidden(f"the token does not allow node {node!r}: no pattern of its `nodes` fits")
        return permissions

    def identify(self, request: Request) -> Permissions:
        """Return what a request's token allows. Raises Refused where there is none that counts, or more than one."""
        token = self._token(request)
        if self.tokens is None:
            return EVERYTHING
        if token is None:
            raise Refused(HTTPStatus.UNAUTHORIZED, f"a token is needed here: {_WHERE}", "Bearer")
        try:
            return self.tokens.verify(token, self._clock())
        except TokenRefused as error:
            raise Refused(HTTPStatus.UNAUTHORIZED, str(error), 'Bearer error="invalid_token"') from None

    def _token(self, request: Request) -> str | None:
        in_query = _split(request.path)[1]
        if in_query and not self._in_query:
            raise Refused(
                HTTPStatus.BAD_REQUEST, f"a token is not taken from the query, which others write into logs: {_WHERE}"
            )
        given = [*in_query, *_in_authorization(request), *_in_subprotocols(request)]
        if len(given) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, "there is more than one token in the request: send one, in one place")
        return given[0] if given else None


def without_token(target: str) -> str:
    """A request's target without any token in its query: for all that may be shown or kept."""
    return _split(target)[0]


def _subject_of(route: Plain | Converse | ListNodes | ShowNode | ListUpdates) -> Subject | None:
    match route:
        case Watch(topic) | ListUpdates(topic):
            return topic
        case WatchJob(job):
            return JobAnywhere(job)
        case WatchFleet():
            return Fleet()
    return None


def _forbidden(sentence: str) -> Refused:
    return Refused(HTTPStatus.FORBIDDEN, sentence, 'Bearer error="insufficient_scope"')


def _split(target: str) -> tuple[str, list[str]]:
    """A target without the tokens in its query, and those."""
    path, mark, query = target.partition("?")
    if not mark:
        return target, []
    kept: list[str] = []
    tokens: list[str] = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote_plus(name) == "token":
            tokens.append(unquote_plus(value))
        else:
            kept.append(pair)
    return path + ("?" + "&".join(kept) if kept else ""), tokens


def _in_authorization(request: Request) -> list[str]:
    # Another scheme is for somebody else, as a proxy before the gateway.
    found = map(_AUTHORIZATION.fullmatch, request.headers.get_all("Authorization"))
    return [match[1] for match in found if match]


def _in_subprotocols(request: Request) -> list[str]:
    offered: list[Subprotocol] = []
    for value in request.headers.get_all("Sec-WebSocket-Protocol"):
        try:
            offered += parse_subprotocol(value)
        except InvalidHeader:
            # websockets would say the same, and show the header.
            raise Refused(HTTPStatus.BAD_REQUEST, "the header Sec-WebSocket-Protocol is no list of names") from None
    return [name.removeprefix(BEARER) for name in offered if name.startswith(BEARER)]
