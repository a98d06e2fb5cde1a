"""Values that are read from files, and read again when the files change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from streamer.core.errors import InvalidSetting

LOOK_S = 1.0
"""How often, in seconds, it is looked whether a file has changed, at the most."""

MOST_BYTES = 1 << 20

_log = logging.getLogger(__name__)
_Value = TypeVar("_Value")


class Reloaded(Generic[_Value]):
    """A value that is made of what some small files hold.

    Their contents are compared, since a time stamp may stay the same when a file is written twice in a moment, and
    since the files may be links that are turned to others, as Kubernetes does. Where what they hold now makes no value,
    the last one stays, and the log says why, once.

    Args:
        make: makes the value of the files' contents. Raises InvalidSetting.

    Raises InvalidSetting where the value cannot be had at first.
    """

    def __init__(
        self,
        paths: tuple[str, ...],
        make: Callable[[tuple[bytes, ...]], _Value],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths, self._make, self._clock = paths, make, clock
        self._contents: tuple[bytes, ...] | None = None
        self._complaint = ""
        self._value = self._read()
        self._looked_at = clock()

    def current(self) -> _Value:
        """The value, as of the last second."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._value

    def _look(self) -> None:
        try:
            self._value = self._read()
        except InvalidSetting as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("%s; what it held before goes on to count", error)
        else:
            self._complaint = ""

    def _read(self) -> _Value:
        contents = tuple(map(read_file, self._paths))
        if contents == self._contents:
            return self._value
        value = self._make(contents)
        if self._contents is not None:
            _log.info("%s changed, and counts from now on", " and ".join(self._paths))
        self._contents = contents
        return value


def read_file(path: str) -> bytes:
    """What a small file holds. Raises InvalidSetting, with a sentence that names it."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidSetting(f"{path} cannot be read: {reason}") from None
    if len(content) > MOST_BYTES:
        raise InvalidSetting(f"{path} is larger than {MOST_BYTES:,} bytes")
    return content
