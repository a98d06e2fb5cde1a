"""The v1 protocol: what a client may say, what it is told, and how both are written. Pure: see PROTOCOL.md.

A message is a map whose `op` says what it is. One that cannot be understood, or not be done, is answered by an `Error`;
only what leaves the connection itself without sense closes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import msgspec

from streamer.core.cursor import MAX_INDEX, Cursor
from streamer.core.errors import InvalidCursor, InvalidName
from streamer.core.fleet_view import NodeSummary
from streamer.core.messages import PlainMessage, binary_frame, deflated, payload_of, text_frame
from streamer.core.names import Fleet, JobAnywhere, Subject, Topic, check_job, check_node

FLEET = "*"
"""No node can be subscribed to by this name: it is that of the whole fleet."""

MAX_ID_CHARACTERS = 64

MAX_NODES = 1000
"""So many nodes may have cursors when a job is followed on all nodes: as many as its index keeps."""

Id = (
    Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARACTERS)]
    | Annotated[int, msgspec.Meta(ge=-MAX_INDEX, le=MAX_INDEX)]
)
"""What a client may give a request, to know the answer by."""


class Code(Enum):
    """Why a request is refused, or a subscription ends."""

    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_OP = "unknown_op"
    INVALID_NAME = "invalid_name"
    INVALID_CURSOR = "invalid_cursor"
    ALREADY_SUBSCRIBED = "already_subscribed"
    NOT_SUBSCRIBED = "not_subscribed"
    FORBIDDEN = "forbidden"
    TOO_MANY_TOPICS = "too_many_topics"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self in _TEMPORARY


_TEMPORARY = {Code.RATE_LIMITED, Code.UNAVAILABLE, Code.INTERNAL}


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", omit_defaults=True):
    """Left out is what is None."""


# From a client.


class _AboutSubject(_Message, frozen=True, kw_only=True):
    """A request about a topic or, without a node, a job on all nodes or, for the node `*`, the fleet."""

    id: Id | None = None
    node: str | None = None
    job: str | None = None

    @property
    def subject(self) -> Subject:
        """What is meant. Raises InvalidName and ValueError where there can be no such thing."""
        if self.job is not None:
            check_job(self.job)
        if self.node is None:
            if self.job is None:
                raise ValueError("give a `node`, a `job`, or both")
            return JobAnywhere(self.job)
        if self.node == FLEET:
            if self.job is not None:
                raise ValueError(f"for a job on whichever nodes run it, leave out `node`, which is {FLEET!r}")
            return Fleet()
        return Topic(check_node(self.node), self.job)


class Subscribe(_AboutSubject, frozen=True, kw_only=True, tag="subscribe", forbid_unknown_fields=True):
    """Follow a topic: from a cursor on, or else with so much history. Not both.

    Of a job on all nodes, there is a cursor for each node, by its name. The fleet has neither cursors nor history.
    """

    after: str | int | dict[str, str | int] | None = None
    history: str | int | None = None

    @property
    def cursor(self) -> Cursor | None:
        """Behind what to go on in a topic. Raises InvalidCursor."""
        if isinstance(self.after, dict):
            raise InvalidCursor("`after` has cursors by nodes only where a job is followed without a `node`")
        return None if self.after is None else Cursor.parse(str(self.after))

    @property
    def cursors(self) -> dict[str, Cursor]:
        """Behind what to go on on which node. Raises InvalidCursor and InvalidName."""
        if not isinstance(self.after, dict):
            if self.after is not None:
                raise InvalidCursor("without a `node`, `after` must be a map of nodes to cursors")
            return {}
        if len(self.after) > MAX_NODES:
            raise InvalidCursor(f"`after` may have cursors of {MAX_NODES:,} nodes at the most")
        return {check_node(node): Cursor.parse(str(cursor)) for node, cursor in self.after.items()}

    @property
    def records(self) -> int | None:
        """How many records come first, None for all. Raises ValueError."""
        match self.history:
            case None | "all":
                return None
            case "none":
                return 0
            case int(count) if 0 <= count <= MAX_INDEX:
                return count
        raise ValueError("`history` is all, none, or how many updates come first")


class Unsubscribe(_AboutSubject, frozen=True, kw_only=True, tag="unsubscribe", forbid_unknown_fields=True):
    """Follow a topic no longer, or a job on all nodes, or the fleet."""


class Ping(_Message, frozen=True, kw_only=True, tag="ping", forbid_unknown_fields=True):
    """Ask whether the gateway answers."""

    id: Id | None = None


Request = Subscribe | Unsubscribe | Ping

_REQUESTS: dict[object, type[Request]] = {"subscribe": Subscribe, "unsubscribe": Unsubscribe, "ping": Ping}


# From the gateway. `updates` is not among them, since it is put together of what is there already: see `Updates`.


class Subscribed(_Message, frozen=True, kw_only=True, tag="subscribed"):
    """It follows the topic from ``cursor`` on. ``head`` is the index of the topic's last update, -1 if there is none.

    ``log`` is the id of the node's log, left out where there is none yet. ``truncated``: older updates than those that
    follow are no longer kept. Of a job on all nodes, there are instead the ``nodes`` that are known to run it; of the
    fleet there is nothing.
    """

    id: Id | None = None
    node: str | None = None
    job: str | None = None
    log: str | None = None
    epoch: int | None = None
    head: int | None = None
    cursor: str | None = None
    truncated: bool | None = None
    nodes: list[str] | None = None


class Joined(_Message, frozen=True, kw_only=True, tag="joined"):
    """It follows a job that is followed on all nodes on this one, too. The fields are those of Subscribed."""

    node: str
    job: str
    log: str | None = None
    epoch: int
    head: int
    cursor: str
    truncated: bool


class Nodes(_Message, frozen=True, kw_only=True, tag="nodes"):
    """The newest that is known of nodes of the fleet, whatever was said of them before."""

    node: str
    nodes: list[NodeSummary]


class Live(_Message, frozen=True, kw_only=True, tag="live"):
    """All that there was when it subscribed has been sent. A topic has a cursor."""

    node: str | None = None
    job: str | None = None
    cursor: str | None = None


class Gap(_Message, frozen=True, kw_only=True, tag="gap"):
    """Updates that are due are no longer kept: from one index to another, at the most. It goes on behind them."""

    node: str
    job: str | None = None
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    cursor: str


class Rewind(_Message, frozen=True, kw_only=True, tag="rewind"):
    """The log has lost what came behind ``index``. What is there now instead follows."""

    node: str
    job: str | None = None
    index: int
    cursor: str


class Reset(_Message, frozen=True, kw_only=True, tag="reset"):
    """The log was started anew, or never had the cursor. It goes on with the first update of the log that there is."""

    node: str
    job: str | None = None
    cursor: str


class Unsubscribed(_Message, frozen=True, kw_only=True, tag="unsubscribed"):
    """It follows the topic no longer, or the job on all nodes, or the fleet."""

    id: Id | None = None
    node: str | None = None
    job: str | None = None


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The gateway answers."""

    id: Id | None = None


class Error(_Message, frozen=True, kw_only=True, tag="error"):
    """A request was refused: ``re`` is its op, as far as that is text. Without ``re``, a subscription has ended.

    ``temporary``: the same may succeed later.
    """

    code: str
    message: str
    temporary: bool
    re: str | None = None
    id: Id | None = None
    node: str | None = None
    job: str | None = None


Answer = Subscribed | Joined | Nodes | Live | Gap | Rewind | Reset | Unsubscribed | Pong | Error


def error(code: Code, message: str, **about: Any) -> Error:
    """An error. ``about`` is what it answers, or ends."""
    return Error(code=code.value, message=message, temporary=code.temporary, **about)


def named(subject: Subject) -> dict[str, str | None]:
    """The ``node`` and the ``job`` by which messages name what they are about."""
    match subject:
        case Topic(node, job):
            return {"node": node, "job": job}
        case JobAnywhere(job):
            return {"job": job}
        case Fleet():
            return {"node": FLEET}


def refusal(request: Request, code: Code, message: str) -> Error:
    """The answer to a request that is not done."""
    about = {name: getattr(request, name, None) for name in ("id", "node", "job")}
    return error(code, message, re=str(request.__struct_config__.tag), **about)


# As bytes.


class Format(Enum):
    """How messages are written. The value is the name of the WebSocket subprotocol."""

    JSON = "streamer.v1.json"
    MSGPACK = "streamer.v1.msgpack"

    def frame(self, answer: Answer) -> bytes:
        """A message as the whole bytes of a WebSocket frame."""
        if self is Format.JSON:
            return text_frame(_encode_json(answer))
        return binary_frame(_encode_msgpack(answer))

    def parse(self, message: str | bytes) -> Request | Error:
        """What a client asks for, text or bytes as the frame was; or what it is to be told."""
        if isinstance(message, str) is not (self is Format.JSON):
            kind = "text" if self is Format.JSON else "binary"
            return error(Code.INVALID_MESSAGE, f"messages of {self.value} are {kind} frames")
        decode: Any = msgspec.json.decode if self is Format.JSON else msgspec.msgpack.decode
        try:
            return _understood(decode(message))
        except (msgspec.DecodeError, ValueError, RecursionError) as fault:
            name = "JSON" if self is Format.JSON else "msgpack"
            return error(Code.INVALID_MESSAGE, f"this is no {name}: {fault}")


def _understood(content: object) -> Request | Error:
    if not isinstance(content, dict):
        return error(Code.INVALID_MESSAGE, "a message must be a map with an `op`")
    about = {"id": _echoed(content.get("id"), Id), "re": _echoed(content.get("op"), _ShortText)}
    kind = _REQUESTS.get(content.get("op")) if isinstance(content.get("op"), str) else None
    if kind is None:
        code = Code.UNKNOWN_OP if isinstance(content.get("op"), str) else Code.INVALID_MESSAGE
        return error(code, f"`op` must be one of {', '.join(map(str, _REQUESTS))}", **about)
    about |= {name: _echoed(content.get(name), _Name) for name in ("node", "job")}
    try:
        return _checked(msgspec.convert(content, kind))
    except InvalidName as fault:
        return error(Code.INVALID_NAME, str(fault), **about)
    except InvalidCursor as fault:
        return error(Code.INVALID_CURSOR, str(fault), **about)
    except (msgspec.ValidationError, ValueError) as fault:
        return error(Code.INVALID_MESSAGE, str(fault), **about)


_ShortText = Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARACTERS)]
_Name = Annotated[str, msgspec.Meta(max_length=256)]


def _echoed(value: object, kind: Any) -> Any:
    """What of a request may be given back, None where it is of another kind than it should be."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _checked(request: Request) -> Request:
    if isinstance(request, Ping):
        return request
    subject = request.subject
    if isinstance(request, Subscribe):
        if request.after is not None and request.history is not None:
            raise ValueError("give either `after` or `history`: a cursor says already what comes first")
        match subject:
            case Topic():
                _ = request.cursor, request.records
            case JobAnywhere():
                _ = request.cursors, request.records
            case Fleet() if request.after is not None or request.history is not None:
                raise ValueError("the fleet has neither `after` nor `history`: the newest of each node comes first")
    return request


def nodes_frame(nodes: list[NodeSummary], format: Format | None, deflate: bool) -> bytes:
    """Summaries as a message of v1 or, for None, as messages of the plain endpoint, compressed or not."""
    if format is not None:
        frame = format.frame(Nodes(node=FLEET, nodes=nodes))
        return deflated(frame) if deflate else frame
    frames = [text_frame(_encode_json(node)) for node in nodes]
    return b"".join(map(deflated, frames) if deflate else frames)


@dataclass(frozen=True)
class Updates:
    """The encoding of an `updates` message: all records of a run in one, the same for all who watch the topic."""

    topic: Topic
    format: Format
    deflated: bool = False

    def piece(self, frame: bytes) -> bytes:
        """An update: the map that is a message of the plain endpoint."""
        payload = payload_of(frame)
        return b"," + payload if self.format is Format.JSON else _encode_msgpack(_decode_plain(payload))

    def join(self, pieces: bytes, count: int, last: Cursor) -> bytes:
        """The message, as a frame."""
        head = {"op": "updates", "node": self.topic.node, "job": self.topic.job, "cursor": last.token}
        if self.topic.job is None:
            del head["job"]
        if self.format is Format.JSON:
            opening = _encode_json(head)[:-1] + b',"updates":['
            frame = text_frame(b"".join((opening, memoryview(pieces)[1:], b"]}")))
        else:
            encoded = _encode_msgpack(head)
            opening = bytes((encoded[0] + 1,)) + encoded[1:] + _UPDATES_KEY + _array_header(count)
            frame = binary_frame(opening + pieces)
        return deflated(frame) if self.deflated else frame


_encode_json = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode
_decode_plain = msgspec.json.Decoder(PlainMessage).decode
_UPDATES_KEY = _encode_msgpack("updates")


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")
