"""A client of v1 that holds each message, of either side, against the AsyncAPI document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from streamer.gateway.server import Gateway
from tests.gateway.clients import DEADLINE_S, End, Message

JSON, MSGPACK = Subprotocol("streamer.v1.json"), Subprotocol("streamer.v1.msgpack")


@cache
def document() -> dict[str, Any]:
    """The AsyncAPI document."""
    content: dict[str, Any] = yaml.safe_load((files("streamer.gateway") / "asyncapi.yaml").read_text(encoding="utf-8"))
    return content


@cache
def _validator(schema: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": document()["components"]}
    )


def check(message: Message) -> Message:
    """The message, if it is one of the document's."""
    assert message["op"] in document()["components"]["messages"], message
    _validator(message["op"]).validate(message)
    return message


class Talker:
    """One end of a v1 connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.json = connection.subprotocol == JSON

    async def say(self, op: str, **fields: Any) -> None:
        """Send a request."""
        message = check({"op": op, **fields})
        await self.connection.send(json.dumps(message) if self.json else msgspec.msgpack.encode(message))

    async def hear(self) -> Message:
        """The next message."""
        async with asyncio.timeout(DEADLINE_S):
            data = await self.connection.recv()
        assert isinstance(data, str) is self.json
        return check(json.loads(data) if isinstance(data, str) else msgspec.msgpack.decode(data))

    async def ask(self, op: str, **fields: Any) -> Message:
        """Send a request, and return the next message."""
        await self.say(op, **fields)
        return await self.hear()

    async def hear_until(self, op: str) -> list[Message]:
        """The next messages, up to one with that op."""
        messages = [await self.hear()]
        while messages[-1]["op"] != op:
            messages.append(await self.hear())
        return messages

    async def updates(self, count: int) -> list[Message]:
        """The next updates, so many, of whatever topic; no other messages may come."""
        updates: list[Message] = []
        while len(updates) < count:
            message = await self.hear()
            assert message["op"] == "updates", message
            assert message["cursor"] == message["updates"][-1]["cursor"]
            updates += message["updates"]
        assert len(updates) == count
        return updates

    async def indexes(self, count: int) -> list[int]:
        """The indexes of the next updates, so many."""
        return [update["index"] for update in await self.updates(count)]

    async def end(self) -> End:
        """Take what still comes until the gateway closes the connection."""
        messages = []
        try:
            while True:
                messages.append(await self.hear())
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                pytest.fail(f"it ended without a close frame, after {len(messages)} messages")
            return End(closed.rcvd.code, closed.rcvd.reason, messages)


@asynccontextmanager
async def talking(gateway: Gateway, format: Subprotocol = JSON, **options: Any) -> AsyncIterator[Talker]:
    """A connection that speaks v1."""
    options = {"compression": None, "max_size": None, **options}
    async with websocket(f"ws://127.0.0.1:{gateway.port}/ws", subprotocols=[format], **options) as connection:
        yield Talker(connection)
