"""A node's process, as users write one: it publishes numbered updates, and tells what became of each.

It writes a line each time: `+N` once update N is accepted, `!` and a sentence where it is refused, which is then tried
again until it is not, and `=N` once all up to N is acknowledged. SIGTERM ends it in order; `.` is its last line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import threading
import time

from streamer import NodeFencedError, StateStreamer, StreamerError, state_streaming

CHILDREN, EACH = 4, 100
"""How many children it has where it forks, and how many updates each of them publishes."""


def tell(line: str) -> None:
    """Write a line that outlives the process, however it ends."""
    os.write(1, f"{line}\n".encode())


class Publishing:
    """Publishes one update after another, of the numbers from ``first`` on."""

    def __init__(self, streamer: StateStreamer, job: str, first: int) -> None:
        self._streamer, self._job, self._next = streamer, job, first
        self._refused = False

    def publish_next(self) -> None:
        """Publish the next update, however often it must be tried."""
        while not self._publish():
            time.sleep(0.01)

    def publish(self, count: int) -> None:
        """Publish so many, and return once they are acknowledged."""
        for _ in range(count):
            self.publish_next()
        self.flush()

    def flush(self, timeout_s: float = 30) -> None:
        """Tell what is acknowledged, once it is all; raises where that is not in time."""
        last = self._next - 1
        self._streamer.flush(timeout_s)
        tell(f"={last}")

    def _publish(self) -> bool:
        try:
            self._streamer.update("running", {"job": self._job, "n": self._next})
        except StreamerError as error:
            if not self._refused:
                tell(f"!{error}")
            self._refused = True
            if isinstance(error, NodeFencedError) and error.final:
                raise SystemExit(3) from None
            return False
        tell(f"+{self._next}")
        self._next += 1
        self._refused = False
        return True


def fork(way: str, node: str, job: str, first: int) -> None:
    """Have children that publish, too, each from a number of its own on; return once they have ended well."""
    for number in range(first + 1_000_000, first + (CHILDREN + 1) * 1_000_000, 1_000_000):
        if way == "os":
            child = os.fork()
            if not child:
                be_child(node, job, number)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        else:
            process = multiprocessing.get_context(way).Process(target=be_child, args=(node, job, number))
            process.start()
            process.join()
            assert process.exitcode == 0


def be_child(node: str, job: str, first: int) -> None:
    """Publish, as the child that one is."""
    Publishing(state_streaming(node), job, first).publish(EACH)


def main() -> None:
    """Publish until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("node")
    parser.add_argument("first", type=int)
    parser.add_argument("--job", default="job")
    parser.add_argument("--pause-s", type=float, default=0.002)
    parser.add_argument("--flush-every", type=int, default=10**9)
    parser.add_argument("--flush-s", type=float, default=30)
    parser.add_argument("--exclusive", action="store_true")
    parser.add_argument("--fork", choices=("os", "fork", "spawn", "forkserver"))
    given = parser.parse_args()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        streamer = state_streaming(given.node, exclusive=given.exclusive)
    except NodeFencedError as error:
        tell(f"!{error}")
        raise SystemExit(3) from None
    publishing = Publishing(streamer, given.job, given.first)

    def run() -> None:
        count = 0
        while not ended.wait(given.pause_s):
            publishing.publish_next()
            count += 1
            if count % given.flush_every == 0:
                try:
                    publishing.flush(given.flush_s)
                except StreamerError as error:
                    tell(f"!{error}")

    if given.fork:
        thread = threading.Thread(target=run)
        thread.start()
        fork(given.fork, given.node, given.job, given.first)
        tell("forked")
        thread.join()
    else:
        run()
    publishing.flush()
    tell(".")


if __name__ == "__main__":
    main()
