"""A node that publishes without end."""

from __future__ import annotations

import threading

from streamer.state_streamer import StateStreamer


class Flow:
    """Publishes again and again in a thread, to the end of the block; ``sent`` is how many updates, by their ``n``."""

    def __init__(self, streamer: StateStreamer, first: int = 0) -> None:
        self._streamer = streamer
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = first

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.005):
            self._streamer.update("running", {"job": "job", "n": self.sent})
            self.sent += 1
