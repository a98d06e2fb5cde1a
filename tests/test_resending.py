"""What Redis had acknowledged and then lost is appended again: after a failover, a restart, a FLUSHALL."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer import NotAcknowledged, StateStreamer, Update
from streamer.log.keys import Keys
from tests.commands import updates
from tests.proxies import Proxy
from tests.servers import RedisServer, wait_until
from tests.streamers import Make

FLUSH_S = 20.0


@pytest.fixture
def replica(own_valkey: RedisServer) -> Iterator[RedisServer]:
    """A replica of `own_valkey`, in step with it."""
    with RedisServer("valkey") as replica:
        follow(replica, own_valkey)
        yield replica


@pytest.fixture
def proxy(own_valkey: RedisServer) -> Iterator[Proxy]:
    """What leads to `own_valkey` as the master, until a failover."""
    with Proxy(own_valkey.port) as proxy:
        yield proxy


def follow(replica: RedisServer, master: RedisServer) -> None:
    with replica.client() as client:
        client.replicaof("127.0.0.1", master.port)
        wait_until("the replica follows", lambda: client.info("replication")["master_link_status"] == "up")


def hold_back(replica: RedisServer) -> None:
    """Let it follow no longer: what the master acknowledges from now on is missing on it when it is promoted."""
    with replica.client() as client:
        client.replicaof("NO", "ONE")


def publish(streamer: StateStreamer, numbers: range) -> None:
    for n in numbers:
        streamer.update("running", {"n": n, "job": f"job-{n % 3}"})


def numbers(log: list[Update]) -> list[int]:
    assert [update.index for update in log] == list(range(len(log)))
    return [update.state["n"] for update in log]


def test_what_a_new_master_lacks_is_appended_again_in_order_under_a_new_epoch(
    streaming: Make, own_valkey: RedisServer, replica: RedisServer, proxy: Proxy, node: str
) -> None:
    streamer = streaming(proxy.url)
    publish(streamer, range(1000))
    streamer.flush(FLUSH_S)
    wait_until("the replica has it", lambda: len(updates(replica.url, node)) == 1000)
    hold_back(replica)
    publish(streamer, range(1000, 3000))
    streamer.flush(FLUSH_S)
    proxy.redirect(replica.port)
    publish(streamer, range(3000, 4000))
    streamer.flush(FLUSH_S)
    log = updates(replica.url, node)
    assert numbers(log) == list(range(4000))
    assert [update.epoch for update in log[:1000]] == [log[0].epoch] * 1000
    assert {update.epoch > log[0].epoch for update in log[1000:]} == {True}
    statistics = streamer.statistics()
    assert (statistics.resent, statistics.lost, statistics.pending) == (2000, 0, 0)
    assert statistics.accepted == statistics.acknowledged == 4000


def test_several_writers_append_again_what_each_of_them_lacks(
    own_valkey: RedisServer, replica: RedisServer, proxy: Proxy, node: str, streaming: Make
) -> None:
    settings = streaming(proxy.url).settings
    writers = [StateStreamer(node, settings) for _ in range(3)]
    for part in range(2):
        for number, writer in enumerate(writers):
            for n in range(part * 100, part * 100 + 100):
                writer.update(f"writer-{number}", {"n": n})
        for writer in writers:
            writer.flush(FLUSH_S)
        if part == 0:
            wait_until("the replica has it", lambda: len(updates(replica.url, node)) == 300)
            hold_back(replica)
    proxy.redirect(replica.port)
    for number, writer in enumerate(writers):
        writer.update(f"writer-{number}", {"n": 200})
    for writer in writers:
        writer.close(FLUSH_S)
    log = updates(replica.url, node)
    assert [update.index for update in log] == list(range(603))
    for number in range(3):
        own = [update.state["n"] for update in log if update.status == f"writer-{number}"]
        assert own == list(range(201))


def test_a_publisher_that_idles_notices_a_failover_too(
    streaming: Make,
    own_valkey: RedisServer,
    replica: RedisServer,
    proxy: Proxy,
    node: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("streamer.sender.CHECK_S", 0.1)
    streamer = streaming(proxy.url)
    publish(streamer, range(10))
    streamer.flush(FLUSH_S)
    wait_until("the replica has it", lambda: len(updates(replica.url, node)) == 10)
    hold_back(replica)
    publish(streamer, range(10, 15))
    streamer.flush(FLUSH_S)
    proxy.redirect(replica.port)
    wait_until("the new master has all", lambda: len(updates(replica.url, node)) == 15)
    assert numbers(updates(replica.url, node)) == list(range(15))
    wait_until("it says so", lambda: "Redis has lost updates that it had acknowledged" in caplog.text)
    assert "5 updates sent again" in caplog.text


def test_an_emptied_redis_gets_what_is_still_held_and_the_rest_is_counted_as_lost(
    streaming: Make, own_valkey: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    streamer = streaming(own_valkey.url, resend_records=30)
    publish(streamer, range(100))
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        client.flushall()
    publish(streamer, range(100, 105))
    streamer.flush(FLUSH_S)
    assert numbers(updates(own_valkey.url, node)) == list(range(70, 105))
    assert (streamer.statistics().resent, streamer.statistics().lost) == (30, 70)
    [line] = [record for record in caplog.records if "acknowledged" in record.message]
    assert line.levelno == logging.WARNING
    assert "30 updates sent again; 70 updates before those are no longer here, and lost" in line.message


def test_an_emptied_redis_gets_what_is_still_held_of_a_publisher_that_idles(
    streaming: Make, own_valkey: RedisServer, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sender.CHECK_S", 0.1)
    streamer = streaming(own_valkey.url)
    publish(streamer, range(20))
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        client.flushall()
    wait_until("all is there again", lambda: len(updates(own_valkey.url, node)) == 20)
    assert numbers(updates(own_valkey.url, node)) == list(range(20))
    with own_valkey.client() as client:
        wait_until("the fleet knows the node again", lambda: client.hexists(Keys().fleet, node))


def test_a_redis_that_restarts_with_older_data_gets_what_it_lacks(
    streaming: Make, own_valkey: RedisServer, node: str, tmp_path: Path
) -> None:
    streamer = streaming(own_valkey.url)
    publish(streamer, range(500))
    streamer.flush(FLUSH_S)
    data = Path(own_valkey._directory.name)
    own_valkey.kill()
    shutil.copytree(data, tmp_path / "older")
    own_valkey.start()
    publish(streamer, range(500, 900))
    streamer.flush(FLUSH_S)
    own_valkey.kill()
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "older", data)
    own_valkey.start()
    publish(streamer, range(900, 1000))
    streamer.flush(FLUSH_S)
    assert numbers(updates(own_valkey.url, node)) == list(range(1000))


def test_a_writer_that_redis_forgot_after_a_long_silence_doubles_nothing_and_reports_no_loss(
    streaming: Make, own_valkey: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    streamer = streaming(own_valkey.url)
    publish(streamer, range(10))
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        [writer] = client.keys(Keys().writer(node, "*").replace("{", "[{]"))
        client.delete(writer)  # as when its time is over
        client.hset(Keys().log(node), "epoch", 2)  # and another master has appended since
    lane = streamer._publisher._lanes.own
    assert lane is not None
    lane.heard_at -= 8 * 24 * 3600
    publish(streamer, range(10, 12))
    streamer.flush(FLUSH_S)
    assert numbers(updates(own_valkey.url, node)) == list(range(12))
    assert "lost" not in caplog.text


def test_a_writer_whose_key_alone_is_gone_doubles_nothing(
    streaming: Make, own_valkey: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As a policy that evicts what expires would do it, under which the log itself is whole."""
    streamer = streaming(own_valkey.url)
    publish(streamer, range(10))
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        [writer] = client.keys(Keys().writer(node, "*").replace("{", "[{]"))
        client.delete(writer)
    publish(streamer, range(10, 12))
    streamer.flush(FLUSH_S)
    assert numbers(updates(own_valkey.url, node)) == list(range(12))
    assert "lost" not in caplog.text
    assert streamer.statistics().resent == 0


def test_nothing_is_sent_again_where_nothing_is_to_be_kept(streaming: Make, own_valkey: RedisServer, node: str) -> None:
    streamer = streaming(own_valkey.url, resend_records=0)
    publish(streamer, range(10))
    streamer.flush(FLUSH_S)
    with own_valkey.client() as client:
        client.flushall()
    publish(streamer, range(10, 12))
    streamer.flush(FLUSH_S)
    assert numbers(updates(own_valkey.url, node)) == [10, 11]
    assert streamer.statistics().lost == 10


def test_with_replicas_to_wait_for_an_update_is_acknowledged_once_they_have_it(
    streaming: Make, own_valkey: RedisServer, replica: RedisServer, node: str
) -> None:
    streamer = streaming(own_valkey.url, wait_replicas=1)
    for part in range(20):
        publish(streamer, range(part * 50, part * 50 + 50))
        streamer.flush(FLUSH_S)
        assert len(updates(replica.url, node)) == part * 50 + 50


def test_where_too_few_replicas_have_it_updates_wait_and_arrive_once(
    streaming: Make, own_valkey: RedisServer, node: str, caplog: pytest.LogCaptureFixture
) -> None:
    streamer = streaming(own_valkey.url, wait_replicas=1, wait_replicas_s=0.05)
    publish(streamer, range(10))
    wait_until("it tries again", lambda: streamer.statistics().retries > 2)
    with pytest.raises(NotAcknowledged, match="only 0 of 1 replicas have what was appended"):
        streamer.flush(0.1)
    assert streamer.pending == 10
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len([line for line in warnings if "only 0 of 1 replicas" in line]) == 1
    with RedisServer("valkey") as replica:
        follow(replica, own_valkey)
        streamer.flush(FLUSH_S)
        assert numbers(updates(replica.url, node)) == list(range(10))
    assert numbers(updates(own_valkey.url, node)) == list(range(10))
