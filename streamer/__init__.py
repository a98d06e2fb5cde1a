"""A distributed state streamer: nodes report their state, watchers see its whole history and then every update live.

from streamer import state, state_streaming

streamer = state_streaming("node1")                       # observes state("node1") from now on
state("node1").add_state("running-operation", {"job": "job1", "operation": "train"})
streamer.flush(timeout=5)
"""

from streamer.core.errors import (
    InvalidCursor,
    InvalidInput,
    InvalidName,
    InvalidSetting,
    InvalidUpdate,
    LogUnavailable,
    NodeFencedError,
    NotAcknowledged,
    OutboxFull,
    OutboxNotWritable,
    StreamerClosed,
    StreamerError,
)
from streamer.core.records import Update
from streamer.core.statistics import Statistics
from streamer.node_state import NodeState, StateObserver, state
from streamer.settings import NodeSettings
from streamer.state_streamer import StateStreamer, state_streaming

__all__ = [
    "InvalidCursor",
    "InvalidInput",
    "InvalidName",
    "InvalidSetting",
    "InvalidUpdate",
    "LogUnavailable",
    "NodeFencedError",
    "NodeSettings",
    "NodeState",
    "NotAcknowledged",
    "OutboxFull",
    "OutboxNotWritable",
    "StateObserver",
    "StateStreamer",
    "Statistics",
    "StreamerClosed",
    "StreamerError",
    "Update",
    "state",
    "state_streaming",
]
