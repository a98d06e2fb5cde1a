"""What it means to listen to a channel: who listens, what Redis has answered, and by which commands it is asked."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

from streamer.core.errors import LogUnavailable


class Listener(Protocol):
    """Whoever listens to a channel. Both methods are called in the event loop and must not block.

    One that raises costs the others nothing: it is logged and, where `take` failed, `interrupted` is called.
    """

    def take(self, messages: list[bytes]) -> None:
        """Take what has arrived, in order."""

    def interrupted(self) -> None:
        """Deliveries may have been lost, and work again from now on."""


class Subscription:
    """A listener of a channel, and what Redis answered: nothing yet, None for a yes, or why it refused.

    A channel that is unsubscribed and subscribed again gets another, which the answer to the first does not concern.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.answer: asyncio.Future[LogUnavailable | None] = asyncio.get_running_loop().create_future()

    def settle(self, error: LogUnavailable | None) -> None:
        """Let those know who wait for the answer, if it is the first."""
        if not self.answer.done():
            self.answer.set_result(error)


class Verbs(NamedTuple):
    """The commands of pub/sub, and what Redis calls the messages that it sends."""

    subscribe: str
    unsubscribe: str
    publish: str
    message: bytes
    unsubscribed: bytes


PLAIN = Verbs("SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", b"message", b"unsubscribe")
SHARDED = Verbs("SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH", b"smessage", b"sunsubscribe")


class Order(NamedTuple):
    """What is sent to Redis on a connection of pub/sub, and answered in order, with one reply each."""

    word: str
    channel: bytes | None = None
    subscription: Subscription | None = None

    def packed(self) -> tuple[str | bytes, ...]:
        """The words of the command."""
        return (self.word,) if self.channel is None else (self.word, self.channel)
