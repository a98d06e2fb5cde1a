"""How the processes log, always to standard error: in sentences where people run a command, as JSON for a service."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

from workers.safe_text import visible_lines, visible_traceback


def configure_logs(level: str = "info", process: str | None = None) -> None:
    """Send what a service logs to standard error, for people on a terminal, as JSON lines elsewhere.

    ``level`` is debug, info, warning or error. ``process`` tells this process from others that log to the same place.
    """

    def add_process(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return event if process is None else {**event, "process": process}

    shared: list[structlog.typing.Processor] = [
        add_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    if sys.stderr is not None and sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback)
        last: list[structlog.typing.Processor] = [_make_visible, renderer]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    _log_to_stderr(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        ),
        level,
    )
    # It would tell of every connection.
    logging.getLogger("websockets").setLevel(logging.WARNING)


def log_sentences(level: str = "warning") -> None:
    """Say what the package logs as the commands say things themselves."""
    _log_to_stderr(_Sentences("streamer: %(message)s"), level)


class _Sentences(logging.Formatter):
    """What others wrote must not reach a terminal as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible_lines(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return visible_traceback(*ei)


def _make_visible(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: visible_lines(value) if isinstance(value, str) else value for key, value in event.items()}


def _write_traceback(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    out.write("\n" + visible_traceback(*error))


def _log_to_stderr(formatter: logging.Formatter, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A standard error that cannot be written is no reason for tracebacks.
    logging.raiseExceptions = False
