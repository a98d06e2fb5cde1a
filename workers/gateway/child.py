"""One gateway process, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from itertools import count
from typing import Self

from streamer.gateway.internal import READY_TIMEOUT_S
from workers.gateway.channel import Answer, Ask, Channel, Failed, Order, Serving
from workers.own_programs import own_program
from workers.sentences import signal_name

ANSWER_TIMEOUT_S = READY_TIMEOUT_S + 1
"""How long a process may take to answer: a little longer than it waits itself for Redis."""


ENDED_WELL = "exit status 0"


class Ended(Exception):
    """The process has ended and answers no more."""


class Child:
    """A process that serves, or is about to, or did. `start` makes one; `ended` must be awaited.

    ``failure`` is why it cannot serve, if it said so.
    """

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self._process, self._channel = process, channel
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._serving_since: float | None = None
        self._listening = asyncio.create_task(self._listen())
        self.failure: str | None = None

    @classmethod
    async def start(cls, order: Order) -> Self:
        """Start a process. Raises OSError where the system refuses."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.callback(ours.close)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *own_program("workers.gateway.process"),
                    stdin=theirs.fileno(),
                    # Ctrl-C reaches the supervisor alone, which ends all in order.
                    start_new_session=True,
                )
            channel = await Channel.open(ours)
            stack.pop_all()
        channel.send(order)
        return cls(process, channel)

    @property
    def serving(self) -> bool:
        """Whether it has begun to serve."""
        return self._serving_since is not None

    @property
    def served_s(self) -> float | None:
        """For how many seconds it has served; None for not at all."""
        return None if self._serving_since is None else time.monotonic() - self._serving_since

    async def ask(self, path: str) -> Answer:
        """Ask for a path of the internal port. Raises TimeoutError where no answer comes, Ended where it has ended."""
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._channel.send(Ask(number, path))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        finally:
            del self._asked[number]

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal; what has no clients yet is killed."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number if self.serving else signal.SIGKILL)

    async def ended(self) -> str:
        """Wait for its end; return how it ended, in words: an exit status, or a signal's name."""
        status = await self._process.wait()
        # It says nothing more now, but may have said why just before.
        await self._listening
        await self._channel.close()
        return f"exit status {status}" if status >= 0 else str(signal_name(-status))

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            match message:
                case Serving():
                    self._serving_since = time.monotonic()
                case Failed(why):
                    self.failure = why
                case Answer(number) if (asked := self._asked.get(number)) is not None and not asked.done():
                    asked.set_result(message)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(Ended())
