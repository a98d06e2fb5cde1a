"""What a publisher's thread says of its failures, to the log."""

from __future__ import annotations

import logging
from contextlib import suppress

from streamer.core.errors import StreamerError


def describe(error: Exception) -> str:
    """What is wrong, in a sentence."""
    return str(error) if isinstance(error, StreamerError) else f"{type(error).__name__}: {error}"


def warn(log: logging.Logger, message: str, node: str, what: Exception | str) -> None:
    """Log a warning about a node; with a traceback where nobody foresaw the error."""
    unexpected = isinstance(what, Exception) and not isinstance(what, StreamerError)
    text = describe(what) if isinstance(what, Exception) else what
    with suppress(Exception):  # which a filter of the program's own may raise
        log.warning(message, node, text, exc_info=what if unexpected else None)  # type: ignore[arg-type]
