"""A node of the demo's fleet: `python -m workers.demo_fleet NODE` runs jobs of several steps, some of which fail."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import time
from random import Random
from types import FrameType

from streamer.core.errors import NotAcknowledged
from streamer.node_state import NodeState, state
from streamer.state_streamer import state_streaming

NODES = ("gpu-1", "gpu-2", "render-1", "robot-1")

_STEPS = {
    "gpu": ("pulling-image", "loading-data", "training", "evaluating", "uploading"),
    "render": ("fetching-scene", "building-tree", "rendering", "denoising", "uploading"),
    "robot": ("planning", "moving", "gripping", "placing"),
}
_FAILURES = ("out of memory", "connection reset by peer", "checksum mismatch", "no grip")
FAILURE_RATE = 0.1


def main(name: str) -> None:
    """Run jobs without end, until SIGTERM."""
    signal.signal(signal.SIGTERM, _end)
    rng = Random(name)
    node = state(name)
    streamer = state_streaming(name)
    node.add_state("node-started", node.node_info)
    try:
        for number in itertools.count(1):
            _run_job(node, f"job-{number}", rng)
            node.add_state("node-idle", {})
            time.sleep(rng.uniform(0.5, 2))
    finally:
        node.add_state("node-stopped", {})
        # The Redis may have ended first, and then nobody is left to tell.
        with contextlib.suppress(NotAcknowledged):
            streamer.close(timeout=0.5)


def _run_job(node: NodeState, job: str, rng: Random) -> None:
    node.shared["job"] = job
    try:
        node.add_state("job-starting", {})
        for step in _STEPS[node.node.partition("-")[0]]:
            total = rng.randint(3, 12)
            for done in range(1, total + 1):
                time.sleep(rng.uniform(0.05, 0.5))
                node.add_state("running-operation", {"operation": step, "progress": round(done / total, 2)})
                if rng.random() < FAILURE_RATE / total:
                    node.add_state("job-failed", {"operation": step, "error": rng.choice(_FAILURES)})
                    return
        node.add_state("job-finished", {"exit_code": 0})
    finally:
        del node.shared["job"]


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
