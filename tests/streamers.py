"""Streamers of a test's own node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from streamer import NodeSettings, NotAcknowledged, StateStreamer, state_streaming

Make = Callable[..., StateStreamer]


def making_streamers(node: str) -> Iterator[Make]:
    """Makes the node's streamer, with settings; closed at the end, whatever it still holds."""
    made: list[StateStreamer] = []

    def make(redis_url: str, **settings: object) -> StateStreamer:
        made.append(state_streaming(node, NodeSettings(redis_url=redis_url, **settings)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for streamer in made:
        with suppress(NotAcknowledged):
            streamer.close(timeout=0)
