"""Verifies what clients receive, byte by byte, at the cost of one comparison of memory. Pure: bytes in, verdicts out.

Theory of operation: all clients of a topic receive the same bytes. A `Stream` holds those that are known to be right:
the first client that gets somewhere extends it, and each message is decoded and checked before it is taken in. Every
client has a `Follower`, whose place in the stream moves on by what it receives while that is the same bytes. Only what
is not, a ping or a fault, is taken apart frame by frame; a message is then right if its content is, whatever its bytes.
With the first fault, a `Tally` takes over, which tells at the end what the client got.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from streamer.core.cursor import Cursor
from streamer.core.errors import InvalidCursor
from streamer.core.messages import PlainMessage, text_frame
from workers.bench.content import View
from workers.bench.frames import CLOSE, CONTINUATION, TEXT, Frame, next_frame
from workers.bench.tally import Tally

_decode = msgspec.json.Decoder(PlainMessage).decode


class Altered(Exception):
    """A message that is no update as it was published; ``position`` is that of the one it seems to be, or None."""

    def __init__(self, position: int | None, fault: str) -> None:
        super().__init__(position, fault)
        self.position, self.fault = position, fault


class Stream:
    """The frames of a topic that are verified, from its first update on.

    ``ends[k]`` is where the update at position k begins, and the one before it ends; ``sent_ns[k]`` is when it was
    sent, and ``cursors[k]`` its cursor.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.data = bytearray()
        self.ends = [0]
        self.sent_ns: list[int] = []
        self.cursors: list[str] = []
        self._last = Cursor("", 0, -1)

    def identify(self, payload: bytes) -> tuple[int, PlainMessage]:
        """Find the position of an update that is as it was published. Raises Altered."""
        try:
            message = _decode(payload)
        except (ValueError, RecursionError) as error:  # msgspec's own errors, and those of Unicode
            raise Altered(None, f"{payload[:60]!r}: it is no update: {error}") from None
        position = self.view.position(message.index)
        if position is None:
            raise Altered(None, f"update {message.index}: none of that index belongs to the topic")
        fault = self.view.content.fault(
            message.index, message.status, message.state, message.timestamp, message.previous
        ) or self._cursor_fault(position, message)
        if fault:
            raise Altered(position, f"update {message.index}: {fault}")
        return position, message

    def append(self, payload: bytes, message: PlainMessage) -> None:
        """Take in the next update, which was identified as that."""
        self.data += text_frame(payload)
        self.ends.append(len(self.data))
        self.sent_ns.append(message.state["sent_ns"])
        self.cursors.append(message.cursor)
        self._last = Cursor.parse(message.cursor)

    def holds(self, position: int, payload: bytes) -> bool:
        """Whether that is the very message at a position."""
        if position >= len(self.sent_ns):
            return False
        return self.data[self.ends[position] : self.ends[position + 1]] == text_frame(payload)

    def _cursor_fault(self, position: int, message: PlainMessage) -> str | None:
        try:
            cursor = Cursor.parse(message.cursor)
        except InvalidCursor as error:
            return str(error)
        if cursor.index != message.index:
            return f"its cursor is that of update {cursor.index}"
        if self._last.log_id not in ("", cursor.log_id):
            return "its cursor is of another log"
        if position < len(self.cursors):
            known = self.cursors[position]
            return None if message.cursor == known else f"its cursor is {message.cursor}, and to others {known}"
        return "its cursor is of an epoch that is over" if cursor.epoch < self._last.epoch else None


class Follower:
    """A client's place in a stream, across its connections. Before a new one, call `resume`.

    ``count`` is how many updates it got, in order and right; from the first fault on, ``tally`` has the rest.
    """

    __slots__ = ("_offset", "_parts", "_rest", "count", "stream", "tally")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.tally: Tally | None = None
        self.resume(0)

    def resume(self, count: int) -> None:
        """Go on with a new connection, which was asked to begin behind so many updates."""
        self.count = count
        self._offset = self.stream.ends[count]
        self._rest = b""
        self._parts: list[bytes] = []

    @property
    def faulty(self) -> bool:
        """Whether anything that came is wrong."""
        return self.tally is not None

    @property
    def done(self) -> bool:
        """Whether nothing more is due."""
        return self.tally.done if self.tally else self.count == self.stream.view.owed

    def take(self, data: bytes) -> Sequence[Frame]:
        """Take what the connection brought; return the control frames in it, which are the caller's to answer.

        ``data`` is not empty. Raises `Malformed`.
        """
        stream = self.stream
        if self._rest or self.tally or not stream.data.startswith(data, self._offset):
            return self._take_apart(data)
        self._offset += len(data)
        if self._offset >= stream.ends[self.count + 1]:
            self.count = bisect_right(stream.ends, self._offset, self.count + 1) - 1
        return ()

    def faults(self) -> list[str]:
        """What is wrong with what came, or has not come, in words that follow on "client 7"."""
        if self.tally is None and not self.done:
            self.tally = Tally(self.stream.view, self.count)
        return list(self.tally.sentences()) if self.tally else []

    def _take_apart(self, data: bytes) -> list[Frame]:
        data, at, controls = self._unverified(data), 0, []
        while frame := next_frame(data, at):
            at = frame.end
            if frame.opcode >= CLOSE:
                controls.append(frame)
            else:
                self._take_part(frame)
        self._rest = data[at:]
        if self.tally is None and self.stream.data.startswith(self._rest, self._offset):
            self._offset += len(self._rest)
            self._rest = b""
        return controls

    def _unverified(self, data: bytes) -> bytes:
        """What is to be taken apart, from the beginning of a frame on."""
        if self._rest or self.tally:
            return self._rest + data
        stream = self.stream
        rest_of_stream = stream.data[self._offset :]
        if data.startswith(rest_of_stream):
            # It has come further than all before it: only what is new to the stream is left.
            self.count, self._offset = len(stream.sent_ns), len(stream.data)
            return data[len(rest_of_stream) :]
        begun = bytes(stream.data[stream.ends[self.count] : self._offset])
        self._offset = stream.ends[self.count]
        return begun + data

    def _take_part(self, frame: Frame) -> None:
        due = CONTINUATION if self._parts else TEXT
        if frame.opcode != due:
            self._take_altered(Altered(None, f"a message: its opcode is {frame.opcode}, not {due}"))
            return
        self._parts.append(frame.payload)
        if frame.final:
            payload, self._parts = b"".join(self._parts), []
            self._take_message(payload)

    def _take_message(self, payload: bytes) -> None:
        stream, position = self.stream, self.count
        if self.tally is None and stream.holds(position, payload):
            self._step()
            return
        try:
            position, message = stream.identify(payload)
        except Altered as altered:
            self._take_altered(altered)
            return
        if self.tally is None and position == self.count:
            if position == len(stream.sent_ns):
                stream.append(payload, message)
            self._step()
        else:
            self._tallied().add(position)

    def _take_altered(self, altered: Altered) -> None:
        self._tallied().add_altered(altered.position, altered.fault)

    def _tallied(self) -> Tally:
        self.tally = self.tally or Tally(self.stream.view, self.count)
        return self.tally

    def _step(self) -> None:
        self.count += 1
        self._offset = self.stream.ends[self.count]
