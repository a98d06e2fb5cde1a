"""Records what a client of a storm gets, across its connections. Pure: bytes in, verdicts out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from streamer.core.cursor import Cursor
from streamer.core.errors import InvalidCursor
from streamer.core.messages import PlainMessage
from streamer.core.names import Topic
from workers.bench.frames import CLOSE, CONTINUATION, TEXT, Frame, Malformed, next_frame
from workers.bench.storm.content import Altered, Content, Name
from workers.bench.storm.course import Course, Seen

_decode = msgspec.json.Decoder(PlainMessage).decode


class Life:
    """One client's watch of a topic. Before each of its connections call `resume`.

    ``cursor`` is that of the last update it got. ``on_update`` is called with the time at which each was published,
    in ms since 1970.
    """

    faulty = False

    def __init__(self, topic: Topic, content: Content, on_update: Callable[[int], None]) -> None:
        self.count = 0
        self.cursor: str | None = None
        self.course: Course[Name] = Course()
        self._topic, self._content, self._on_update = topic, content, on_update
        self._log_id = ""
        self._rest = b""
        self._parts: list[bytes] = []

    def resume(self) -> None:
        """Begin with a new connection."""
        self._rest = b""
        self._parts = []

    def take(self, data: bytes) -> Sequence[Frame]:
        """Take what came; return the control frames in it. Raises Malformed."""
        try:
            return self._take_apart(self._rest + data)
        except Malformed as error:
            self.course.faults.append(f"got what is no WebSocket: {error}")
            raise

    def _take_apart(self, data: bytes) -> list[Frame]:
        at, controls = 0, []
        while frame := next_frame(data, at):
            at = frame.end
            if frame.opcode >= CLOSE:
                controls.append(frame)
            else:
                self._take_part(frame)
        self._rest = data[at:]
        return controls

    def _take_part(self, frame: Frame) -> None:
        if frame.opcode != (CONTINUATION if self._parts else TEXT):
            self.course.faults.append(f"got a frame of opcode {frame.opcode}")
        self._parts.append(frame.payload)
        if frame.final:
            payload, self._parts = b"".join(self._parts), []
            self._take_message(payload)

    def _take_message(self, payload: bytes) -> None:
        self.count += 1
        try:
            message = _decode(payload)
            cursor = Cursor.parse(message.cursor)
        except (ValueError, RecursionError, InvalidCursor) as error:
            self.course.faults.append(f"got {payload[:60]!r}, which is no update: {error}")
            return
        try:
            name = self._content.name(self._topic.node, message.status, message.state, message.timestamp)
        except Altered as altered:
            self.course.faults.append(f"got update {message.index} altered: {altered}")
            name = Name(-1, message.index)
        self._check_place(message, cursor)
        before = message.index - 1 if self._topic.job is None else message.previous
        self.course.take(Seen(cursor.epoch, message.index, before, name))
        self.cursor = message.cursor
        self._on_update(message.timestamp)

    def _check_place(self, message: PlainMessage, cursor: Cursor) -> None:
        if cursor.index != message.index:
            self.course.faults.append(f"got update {message.index} with the cursor of {cursor.index}")
        if self._log_id not in ("", cursor.log_id):
            self.course.faults.append(f"got update {message.index} of another log")
        self._log_id = cursor.log_id
        if self._topic.job not in (None, message.state.get("job")):
            self.course.faults.append(f"got update {message.index} of another job")
