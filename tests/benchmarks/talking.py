"""A process that is spoken with, a line at a time."""

from __future__ import annotations

from workers.local_parts import PartFailed, Parts


class Talking:
    """One of the parts, whose standard input and output are ours. `Parts` ends it; `close` hangs up."""

    def __init__(self, parts: Parts, name: str, command: list[str]) -> None:
        self._parts, self._name = parts, name
        process = parts.start(name, command, talking=True)
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._input, self._output = process, process.stdin, process.stdout

    def say(self, line: bytes) -> None:
        """Say a line to it. Raises PartFailed where it has ended."""
        try:
            self._input.write(line)
            self._input.flush()
        except BrokenPipeError:
            self._fail()

    def say_no_more(self) -> None:
        """End its input."""
        self._input.close()

    def line(self) -> bytes:
        """The next line that it says; wait for it. Raises PartFailed where it ends instead."""
        line = self._output.readline()
        if not line:
            self._fail()
        return line

    def close(self) -> None:
        """Hear and say no more."""
        self._input.close()
        self._output.close()

    def _fail(self) -> None:
        self._process.wait()
        self._parts.check()
        raise PartFailed(f"{self._name} has ended too early")
