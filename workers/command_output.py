"""What a command prints: passed on unchanged, and handed over line by line."""

from __future__ import annotations

import fcntl
import os
import selectors
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import IO

from streamer.core.records import MAX_UPDATE_BYTES
from workers.sentences import say

MAX_LINE_BYTES = MAX_UPDATE_BYTES
"""Of a longer line, this much and one byte more is handed over, which tells it from a line that is whole."""

LINGER_S = 1.0
"""How long, after the command's end, others that hold its pipe open may go on printing."""

QUIET_S = 0.1
"""They have this long for each next piece: a `tee` that the command fed is a moment behind it."""

_CHUNK_BYTES = 1 << 16


class CommandOutput:
    """Reads a command's output in a thread of its own, from the making of this on.

    Whatever becomes of a line, or of standard output, the pipe is read on, so that the command never waits for us.
    ``take`` is called with each line, in that thread, and must not raise.
    """

    def __init__(self, pipe: IO[bytes], take: Callable[[bytes], None]) -> None:
        self._pipe, self._take = pipe, take
        self._stdout = _StandardOutput()
        self._ended, self._tell_end = os.pipe()
        # Unlike an Event, it may be put to by a signal handler that has interrupted the wait for it.
        self._done: SimpleQueue[None] = SimpleQueue()
        self._given_up = False
        threading.Thread(target=self._read, name="command-output", daemon=True).start()

    def finish(self) -> None:
        """Return once all that the command printed is handled. Call it once, when the command has ended.

        What the command has left running may hold its pipe open: that is waited for within LINGER_S, while it prints.
        """
        os.close(self._tell_end)
        self._done.get()
        self._given_up = True

    def give_up(self) -> None:
        """Have `finish` return at once. May be called from a signal handler."""
        self._done.put(None)

    def _read(self) -> None:
        try:
            rest = b""
            for chunk in self._chunks():
                # A chunk, not a line, is one write: all that was there.
                self._stdout.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[: MAX_LINE_BYTES + 1]
                for line in lines:
                    self._hand_over(line)
            self._hand_over(rest)
        finally:
            self._pipe.close()
            self._done.put(None)

    def _hand_over(self, line: bytes) -> None:
        if line and not self._given_up:
            self._take(line[: MAX_LINE_BYTES + 1])

    def _chunks(self) -> Iterator[bytes]:
        with selectors.DefaultSelector() as selector:
            pipe = selector.register(self._pipe, selectors.EVENT_READ).fd
            ended = selector.register(self._ended, selectors.EVENT_READ).fd
            while ended not in {key.fd for key, _ in selector.select()}:
                # It is the pipe, then, which has something or is closed.
                if not (chunk := os.read(pipe, _CHUNK_BYTES)):
                    return
                yield chunk
            selector.unregister(ended)
            deadline = time.monotonic() + LINGER_S
            # What the command itself has left in the pipe is read, however long that takes.
            owed = _waiting_bytes(pipe)
            while (owed > 0 or time.monotonic() < deadline) and selector.select(QUIET_S):
                if not (chunk := os.read(pipe, _CHUNK_BYTES)):
                    return
                owed -= len(chunk)
                yield chunk


class _StandardOutput:
    """This process's standard output, which may be closed, full, or nobody's any more."""

    def __init__(self) -> None:
        # The descriptor itself: a thread that is stuck in a buffer's write makes Python's end crash.
        self._fd = None if sys.stdout is None else sys.stdout.fileno()

    def write(self, data: bytes) -> None:
        """Write all of the data; say once where that fails, and from then on do nothing."""
        rest = memoryview(data)
        try:
            while rest and self._fd is not None:
                rest = rest[self._write_some(self._fd, rest) :]
        except BrokenPipeError:
            self._fd = None  # who read it has gone and wants no more
        except OSError as error:
            self._fd = None
            say(f"the command's output is passed on no more: {error.strerror}; its updates still are")

    @staticmethod
    def _write_some(fd: int, data: memoryview) -> int:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            # Another process has made what we share non-blocking.
            with selectors.DefaultSelector() as selector:
                selector.register(fd, selectors.EVENT_WRITE)
                selector.select()
            return 0


def _waiting_bytes(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
