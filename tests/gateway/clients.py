"""Both ends of a gateway in one event loop: who publishes, the gateway, and who asks or watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame

from streamer.core.entries import Batch, Entry
from streamer.core.records import pack_tail
from streamer.fanout.hub import HubSettings
from streamer.gateway.server import Gateway
from streamer.gateway.settings import GatewaySettings
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Retention, append_request, new_id, source
from tests.servers import RedisServer, free_port

DEADLINE_S = 20.0
PROMPT_S = 8.0
"""A deadline that is shorter than the timeouts of 10 s, behind which what hangs would hide."""

Message = dict[str, Any]


class Node(NodeLog):
    """A node's process. What it publishes is in Redis once the call returns, and is one message on each channel."""

    def __init__(self, store: RedisServer, name: str, keep: int = 10_000) -> None:
        super().__init__(store.url, Keys(), name)
        self.name = name
        self._store, self._retention = store, Retention(records=keep)
        self._id, self._published = new_id(), 0

    def publish(self, *states: dict[str, Any]) -> None:
        """Publish updates, each of the job that its state names, if it does."""
        self.append(self._id, self._batch(states), self._retention)

    def count(self, many: int, **state: Any) -> None:
        """Publish so many updates, numbered on by ``n``."""
        self.publish(*({"n": self._published + n, **state} for n in range(many)))

    def append_silently(self, *states: dict[str, Any]) -> None:
        """Append updates of which pub/sub delivers nothing."""
        request = append_request(Keys(), self.name, self._id, self._batch(states), self._retention)
        arguments = ["EXISTS" if argument == "PUBLISH" else argument for argument in request.args]
        with self._store.client() as client:
            client.eval(source("append"), len(request.keys), *request.keys, *arguments)

    def _batch(self, states: tuple[dict[str, Any], ...]) -> Batch:
        first = self._published + 1
        self._published += len(states)
        return Batch(first, [Entry(state.get("job"), pack_tail("running", state, 1000)) for state in states])


@contextmanager
def publishing(store: RedisServer, name: str, keep: int = 10_000) -> Iterator[Node]:
    """A node that publishes, until the end of the block."""
    with Node(store, name, keep) as node:
        yield node


@asynccontextmanager
async def serving(store: RedisServer, *, hub: HubSettings | None = None, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway in this event loop, on a free port, stopped without a drain at the end of the block."""
    settings = {"port": 0, "internal_port": free_port(), **settings}
    gateway = Gateway(GatewaySettings(store.url, hub=hub or HubSettings(), **settings))
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop(0)


def path(node: str, job: str | None = None, **query: object) -> str:
    """The plain endpoint of a node or of a job."""
    topic = f"/nodes/{quote(node, safe='')}" + ("" if job is None else f"/jobs/{quote(job, safe='')}")
    return topic + (f"?{urlencode(query)}" if query else "")


def connect(gateway: Gateway, target: str, **options: Any) -> websocket:
    """A WebSocket client, to be awaited or entered, that takes messages of any size."""
    return websocket(f"ws://127.0.0.1:{gateway.port}{target}", compression=None, max_size=None, **options)


async def receive(connection: ClientConnection, count: int) -> list[Message]:
    """The next messages, so many."""
    async with asyncio.timeout(DEADLINE_S):
        return [json.loads(await connection.recv()) for _ in range(count)]


async def indexes(connection: ClientConnection, count: int) -> list[int]:
    """The indexes of the next messages, so many."""
    return [message["index"] for message in await receive(connection, count)]


class End(NamedTuple):
    """How a connection was closed, and what came before that."""

    code: int
    reason: str
    messages: list[Message]

    @property
    def after(self) -> str:
        """The cursor in the reason."""
        return self.reason.partition("after=")[2]


async def end(connection: ClientConnection) -> End:
    """Take what still comes until the server closes the connection."""
    messages = []
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                messages.append(json.loads(await connection.recv()))
    except ConnectionClosed as error:
        if error.rcvd is None:
            pytest.fail(f"the connection ended without a close frame, after {len(messages)} messages")
        return End(error.rcvd.code, error.rcvd.reason, messages)


async def refusal(gateway: Gateway, target: str) -> tuple[int, str]:
    """The status with which a WebSocket is refused, and the sentence."""
    with pytest.raises(InvalidStatus) as refused:
        async with asyncio.timeout(DEADLINE_S):
            await connect(gateway, target)
    return refused.value.response.status_code, json.loads(refused.value.response.body)["error"]


async def eventually(what: str, condition: Callable[[], object]) -> None:
    """Return once the condition holds; fail, naming what was waited for, where it does not in time."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"{what}: not within {DEADLINE_S:g} s")


class Answer(NamedTuple):
    """An answer to a plain HTTP request; the names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's content."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence that says what was wrong."""
        assert set(self.json) == {"error"}
        return str(self.json["error"])


async def exchange(port: int, data: bytes) -> bytes:
    """Send bytes to a port, and return all that comes back until the other end closes."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()


async def ask(port: int, target: str, method: str = "GET", body: bytes = b"", *headers: str) -> Answer:
    """Ask a port by HTTP."""
    length = [f"Content-Length: {len(body)}"] if body else []
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: gateway", *length, *headers, "", ""])
    return parse(await exchange(port, head.encode() + body))


def parse(data: bytes) -> Answer:
    """Read an answer that was ended by the end of the connection."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert status.startswith("HTTP/1.1 "), f"no answer: {data[:80]!r}"
    assert len(body) == int(headers["content-length"])
    return Answer(int(status.split(" ")[1]), headers, body)


def early(target: str, *frames: Frame) -> bytes:
    """A request for a WebSocket and, without waiting for the answer, frames."""
    request = (
        f"GET {target} HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return request.encode() + b"".join(frame.serialize(mask=True) for frame in frames)


async def read_until(reader: asyncio.StreamReader, *wanted: bytes) -> None:
    """Read until all that is wanted has come, in whatever order."""
    got = b""
    async with asyncio.timeout(DEADLINE_S):
        while not all(piece in got for piece in wanted):
            data = await reader.read(1 << 16)
            assert data, f"the connection ended after {got!r:.500}"
            got += data
