"""The rights that the notes on deployment give to users of Redis are enough, and no more than that is promised."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
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
from tests.clusters import Cluster
from tests.log.test_subscribing import Recorder
from tests.log.writing import Writer, indexes
from tests.servers import RedisServer

NOTES = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()
RULES = dict(re.findall(r"^    user (\w+) on >PASSWORD (.*)$", NOTES, re.MULTILINE))


@pytest.fixture(params=["valkey", "redis", "cluster"])
def store(request: pytest.FixtureRequest) -> Any:
    """A store that has the users of the notes and lets nobody else in."""
    with Cluster(replicas=False) if request.param == "cluster" else RedisServer(request.param) as store:
        for server in store.members if isinstance(store, Cluster) else [store]:
            with server.client() as client:
                for user, rule in RULES.items():
                    client.execute_command("ACL", "SETUSER", user, "on", ">pass", *rule.split())
                client.execute_command("ACL", "SETUSER", "default", "off")
        yield store


async def test_the_rights_are_enough_for_gateways_and_nodes(
    store: RedisServer | Cluster, node: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(probing, "PROBE_S", 0.1)
    keys, recorder = Keys(), Recorder()
    reader_url = with_credentials(store.url, "gateway", "pass")
    reader, subscriber = Reader(reader_url, keys), Subscriber(reader_url)
    await subscriber.subscribe(keys.records(Topic(node)), recorder)
    with NodeLog(with_credentials(store.url, "node", "pass"), keys, node) as log:
        Writer(log).append("job", None)
        log.report(Summary(1, "running", None, 0))
        await recorder.until(lambda recorder: recorder.messages)
        assert indexes((await reader.read(Topic(node), START)).updates) == [0, 1]
        assert [job.job for job in await reader.jobs(node)] == ["job"]
        assert [head and head.last for head in await reader.heads([Topic(node), Topic(node, "job")])] == [1, 0]
        assert await reader.before_last(Topic(node), 1) == 0
        assert list(await reader.nodes()) == [node]
        await reader.ping()
        await asyncio.sleep(10 * probing.PROBE_S)
        assert subscriber.connected
        assert "right" not in caplog.text
        log.clear()
    with NodeLog(reader_url, keys, node) as log, pytest.raises(LogUnavailable, match=r"perm|right"):
        Writer(log).append(None)
    await subscriber.aclose()
    await reader.aclose()
