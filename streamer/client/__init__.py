"""The client for Python programs: follow nodes and jobs through any gateway, across lost connections, each update once.

    from streamer.client import connect

    async with connect("ws://127.0.0.1:8080") as client:
        async for update in client.follow("node1", job="job1"):
            print(update.index, update.status, update.state)

`connect_sync` is the same for scripts and notebooks, without `async`.
"""

from streamer.client.client import Client
from streamer.client.connecting import connect
from streamer.client.errors import (
    AlreadyFollowed,
    ClientClosed,
    GatewayRefused,
    GatewayUnreachable,
    Interrupted,
    LogReset,
    Missed,
    Rewound,
    Unauthorized,
)
from streamer.client.follow import Follow
from streamer.client.messages import Event, Update
from streamer.client.sync import SyncClient, SyncFollow, connect_sync
from streamer.core.protocol import Gap, Live, Reset, Rewind

__all__ = [
    "AlreadyFollowed",
    "Client",
    "ClientClosed",
    "Event",
    "Follow",
    "Gap",
    "GatewayRefused",
    "GatewayUnreachable",
    "Interrupted",
    "Live",
    "LogReset",
    "Missed",
    "Reset",
    "Rewind",
    "Rewound",
    "SyncClient",
    "SyncFollow",
    "Unauthorized",
    "Update",
    "connect",
    "connect_sync",
]
