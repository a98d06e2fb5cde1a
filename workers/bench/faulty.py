"""What a bench raises whose run has faults."""

from __future__ import annotations

from streamer.core.errors import StreamerError


class Faulty(StreamerError):
    """Not every update arrived as it must; the text says who got what."""
