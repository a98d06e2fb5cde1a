"""The rights of the users that are shipped are enough for gateways and nodes, also on a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamer.core.cursor import START
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.log import probing
from streamer.log.fleet import Summary
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber
from streamer.log.url import with_credentials
from tests.acl_users import GATEWAY, NODE, NODE_USER, PASSWORD, shipped
from tests.clusters import Cluster
from tests.log.test_subscribing import Recorder
from tests.log.writing import Writer, indexes
from tests.servers import RedisServer


@pytest.fixture(params=["valkey", "redis", "cluster"])
def store(request: pytest.FixtureRequest) -> Any:
    """A store that has the users of the file and lets nobody else in."""
    with Cluster(replicas=False) if request.param == "cluster" else RedisServer(request.param) as store:
        for server in store.members if isinstance(store, Cluster) else [store]:
            with server.client() as client:
                for user, rules in shipped().items():
                    if user != "default":
                        client.execute_command("ACL", "SETUSER", user, *rules, f">{PASSWORD}")
                client.execute_command("ACL", "SETUSER", "default", "off")
        yield store


async def test_the_rights_are_enough_for_gateways_and_nodes(
    store: RedisServer | Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(probing, "PROBE_S", 0.1)
    keys, recorder, node = Keys(), Recorder(), NODE
    reader_url = with_credentials(store.url, GATEWAY, PASSWORD)
    reader, subscriber = Reader(reader_url, keys), Subscriber(reader_url)
    await subscriber.subscribe(keys.records(Topic(node)), recorder)
    with NodeLog(with_credentials(store.url, NODE_USER, PASSWORD), keys, node) as log:
        Writer(log).append("job", None)
        log.announce(["job"], 100)
        log.report(Summary(1, "running", None, 0))
        await recorder.until(lambda recorder: recorder.messages)
        assert indexes((await reader.read(Topic(node), START)).updates) == [0, 1]
        assert [job.job for job in await reader.jobs(node)] == ["job"]
        assert [head and head.last for head in await reader.heads([Topic(node), Topic(node, "job")])] == [1, 0]
        assert await reader.before_last(Topic(node), 1) == 0
        assert list(await reader.nodes()) == [node]
        assert await reader.nodes_of("job") == [node]
        await reader.ping()
        await asyncio.sleep(10 * probing.PROBE_S)
        assert subscriber.connected
        assert "right" not in caplog.text
        log.clear()
    for url, name in ((reader_url, node), (with_credentials(store.url, NODE_USER, PASSWORD), "another")):
        with NodeLog(url, keys, name) as log, pytest.raises(LogUnavailable, match=r"perm|right|can't"):
            Writer(log).append(None)
    await subscriber.aclose()
    await reader.aclose()
