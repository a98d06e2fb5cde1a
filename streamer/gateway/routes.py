"""What a request's path and query ask for. Pure: text goes in, a route or an error comes out."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from streamer.core.cursor import MAX_INDEX, Cursor
from streamer.core.errors import InvalidCursor, InvalidInput
from streamer.core.names import Topic, check_job, check_node

PUBLIC_FILES = {
    "/": "gateway/page/index.html",
    "/page/style.css": "gateway/page/style.css",
    "/page/app.js": "gateway/page/app.js",
    "/page/icon.svg": "gateway/page/icon.svg",
    "/client.js": "client/js/client.js",
}
"""Files that anybody may have, by their paths, as they lie in the package."""


class Watch(NamedTuple):
    """Follow a topic by WebSocket: from a cursor or else with so many updates of history, None for all."""

    topic: Topic
    after: Cursor | None
    history: int | None


class WatchJob(NamedTuple):
    """Follow a job on all nodes by WebSocket: from a cursor on those that have one, else as Watch."""

    job: str
    after: dict[str, Cursor]
    history: int | None


class WatchFleet(NamedTuple):
    """Follow the fleet by WebSocket."""


class Converse(NamedTuple):
    """Speak v1 by WebSocket."""


class ListNodes(NamedTuple):
    """List the fleet."""


class ShowNode(NamedTuple):
    """Show a node and its jobs."""

    node: str


class ListUpdates(NamedTuple):
    """Give a page of a topic's updates."""

    topic: Topic
    after: Cursor | None


class GiveFile(NamedTuple):
    """Give a file of the web page, or the client for JavaScript."""

    file: str


Plain = Watch | WatchJob | WatchFleet
"""What a plain endpoint sends."""

Route = Plain | Converse | ListNodes | ShowNode | ListUpdates | GiveFile


_FIXED: dict[tuple[str, ...], Route] = {
    ("ws",): Converse(),
    ("fleet",): WatchFleet(),
    ("api", "nodes"): ListNodes(),
}
"""What has neither names nor a query."""


class UnknownPath(Exception):
    """Nothing is served under this path."""


def parse_target(target: str) -> Route:
    """Read a request's target, as in `/nodes/gpu-1?after=41`.

    Raises UnknownPath, and InvalidInput with a sentence that says what is wrong.
    """
    path, _, query = target.partition("?")
    if file := PUBLIC_FILES.get(path):
        return GiveFile(file)
    segments = _segments(path)
    fixed = _FIXED.get(tuple(segments))
    if fixed is not None:
        _parameters(query, known=())
        return fixed
    match segments:
        case ["nodes", node]:
            return _watch(Topic(check_node(node)), query)
        case ["nodes", node, "jobs", job]:
            return _watch(Topic(check_node(node), check_job(job)), query)
        case ["jobs", job]:
            return _watch_job(check_job(job), query)
        case ["api", "nodes", node]:
            _parameters(query, known=())
            return ShowNode(check_node(node))
        case ["api", "nodes", node, "updates"]:
            return _updates(Topic(check_node(node)), query)
        case ["api", "nodes", node, "jobs", job, "updates"]:
            return _updates(Topic(check_node(node), check_job(job)), query)
    raise UnknownPath(path)


def _segments(path: str) -> list[str]:
    try:
        return [unquote(segment, errors="strict") for segment in path.split("/")[1:]]
    except UnicodeDecodeError:
        raise InvalidInput("the path must be UTF-8, percent-encoded") from None


def _watch(topic: Topic, query: str) -> Watch:
    given = _parameters(query, known=("after", "history"))
    if len(given) == 2:
        raise InvalidInput("give either `after` or `history`: a cursor says already what comes first")
    after = Cursor.parse(given["after"]) if "after" in given else None
    return Watch(topic, after, _history(given.get("history", "all")))


def _watch_job(job: str, query: str) -> WatchJob:
    pairs = _pairs(query, known=("after", "history"))
    after = dict(_node_and_cursor(value) for name, value in pairs if name == "after")
    given = _once([pair for pair in pairs if pair[0] != "after"])
    if after and given:
        raise InvalidInput("give either `after` or `history`: cursors say already what comes first")
    return WatchJob(job, after, _history(given.get("history", "all")))


def _node_and_cursor(value: str) -> tuple[str, Cursor]:
    node, colon, cursor = value.rpartition(":")
    if not colon:
        raise InvalidCursor(f"{value[:80]!a} is no node and its cursor: give `after=NODE:CURSOR`, once for each node")
    return check_node(node), Cursor.parse(cursor)


def _updates(topic: Topic, query: str) -> ListUpdates:
    given = _parameters(query, known=("after",))
    return ListUpdates(topic, Cursor.parse(given["after"]) if "after" in given else None)


def _history(text: str) -> int | None:
    if text == "all":
        return None
    if text == "none":
        return 0
    if text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_INDEX:
        return int(text)
    raise InvalidInput(f"`history` is all, none, or how many updates come first; {text[:80]!a} is none of these")


def _parameters(query: str, known: tuple[str, ...]) -> dict[str, str]:
    return _once(_pairs(query, known))


def _pairs(query: str, known: tuple[str, ...]) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict") if query else []
    except ValueError:
        raise InvalidInput(f"the query {query[:80]!a} is not of the form name=value&name=value") from None
    for name, _ in pairs:
        if name not in known:
            means = f"known here: {', '.join(known)}" if known else "none is known here"
            raise InvalidInput(f"unknown query parameter {name[:80]!a}; {means}")
    return pairs


def _once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    given = dict(pairs)
    if len(given) < len(pairs):
        raise InvalidInput("a query parameter may be given once")
    return given
