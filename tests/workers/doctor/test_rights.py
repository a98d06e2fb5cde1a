"""The rights that the doctor asks for are those that nodes and gateways need, no more and no less."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamer.core.cursor import START
from streamer.core.names import Topic
from streamer.core.outbox import Batch, Entry
from streamer.core.records import pack_tail
from streamer.log.fleet import Summary
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.scripts import Retention
from streamer.log.subscribing import Subscriber
from tests.servers import RedisServer
from workers.doctor.allowing import find_lacks
from workers.doctor.facts import Lack
from workers.doctor.gathering import open_server
from workers.doctor.rights import Need, lack_of, needs

KEYS = Keys()
NEEDS = needs(KEYS, "node", sharded=False)
COMMANDS = sorted({need.command for need in NEEDS})
ASKING = ("+acl|whoami", "+acl|dryrun")


@contextmanager
def user(server: RedisServer, *rules: str) -> Iterator[str]:
    """The URL of a user with just these rights."""
    with server.client() as client:
        every = [f"+{command}" for command in COMMANDS]
        new = ["reset", "on", ">secret", "~streamer:*", "&streamer:*", *every]
        client.execute_command("ACL", "SETUSER", "checked", *new, *rules)  # type: ignore[no-untyped-call]
        try:
            yield f"redis://checked:secret@127.0.0.1:{server.port}/0"
        finally:
            client.acl_deluser("checked")


def lacks(url: str, node: str) -> list[Lack]:
    with open_server(url) as client:
        return find_lacks(client, lambda: open_server(url), KEYS, node, sharded=False)[1] or []


class Silent:
    """A listener to whom nothing matters."""

    def take(self, messages: list[bytes]) -> None:
        """Take it."""

    def interrupted(self) -> None:
        """Go on."""


def use_as_a_node(url: str, node: str) -> None:
    """Everything that a node does, so that every line of the scripts runs."""
    tail = pack_tail("s", {"job": "j"}, 0)
    with NodeLog(url, KEYS, node) as log:
        log.append("w", Batch(1, [Entry("old", tail), Entry("j", tail), Entry(None, tail)]), Retention(1, 0))
        log.append("w", Batch(4, [Entry("j", tail)]), Retention(1, 100))
        log.announce(["j"], 100)
        log.announce(["j"], 0)
        log.report(Summary(0, "s", "j", 0))
        assert log.read("j", START).updates
        log.clear()
        log.append("w", Batch(5, [Entry("j", tail)]), Retention(1, 100))


async def use_as_a_gateway(url: str, node: str) -> None:
    """Everything that a gateway asks Redis for."""
    reader, subscriber = Reader(url, KEYS), Subscriber(url)
    try:
        topics = [Topic(node), Topic(node, "j")]
        for topic in topics:
            assert (await reader.read(topic, START)).updates
            await reader.before_last(topic, 1)
        assert None not in await reader.heads(topics)
        await reader.nodes()
        assert await reader.nodes_of("j") == [node]
        assert [job.job for job in await reader.jobs(node)] == ["j"]
        await reader.ping()
        async with asyncio.timeout(10):
            await subscriber.subscribe(KEYS.records(topics[0]), Silent())
        subscriber.unsubscribe(KEYS.records(topics[0]))
    finally:
        await subscriber.aclose()
        await reader.aclose()


async def test_a_user_with_just_these_rights_can_be_a_node_and_a_gateway(good_store: RedisServer, node: str) -> None:
    try:
        with user(good_store) as url:
            await asyncio.to_thread(use_as_a_node, url, node)
            await use_as_a_gateway(url, node)
            assert lacks(url, node) == []
    finally:
        with NodeLog(good_store.url, KEYS, node) as log, good_store.client() as client:
            log.clear()
            client.delete(KEYS.job("j"), *client.keys(f"*{node}*"))


@pytest.mark.parametrize("asking", [(), ASKING], ids=["by trying", "by asking"])
def test_each_right_that_is_missing_is_named(good_store: RedisServer, node: str, asking: tuple[str, ...]) -> None:
    named = {}
    for command in COMMANDS:
        with user(good_store, *asking, f"-{command}") as url:
            named[command] = {(lack.kind, lack.what) for lack in lacks(url, node)}
    assert named == {command: {("command", command)} for command in COMMANDS}
    with good_store.client() as client:
        for key in client.keys(f"*{node}*"):
            assert 0 < client.ttl(key) <= 60
            client.delete(key)


@pytest.mark.parametrize("asking", [(), ASKING], ids=["by trying", "by asking"])
def test_keys_and_channels_that_are_not_allowed_are_named(
    good_store: RedisServer, node: str, asking: tuple[str, ...]
) -> None:
    with user(good_store, *asking, "resetkeys", "~streamer:{*") as url:
        assert {(lack.kind, lack.what) for lack in lacks(url, node)} == {
            ("key", "streamer:fleet"),
            ("key", KEYS.job(node)),
        }
    with user(good_store, *asking, "resetkeys", "~other:*") as url:
        assert {lack.kind for lack in lacks(url, node)} == {"key"}
    with user(good_store, *asking, "resetchannels", "&other:*") as url:
        found = lacks(url, node)
        assert {(lack.kind, lack.what) for lack in found} == {
            ("channel", KEYS.records(Topic(node))),
            ("channel", KEYS.probe("doctor", "")),
        }
        assert {lack.command for lack in found} == {"publish", "subscribe"}
    with good_store.client() as client:
        assert client.keys(f"*{node}*") == []


def test_trying_changes_nothing(good_store: RedisServer, node: str) -> None:
    with good_store.client() as client, user(good_store) as url:
        client.hset(KEYS.fleet, "other", b"summary")
        try:
            lacks(url, node)
            assert client.keys("*") == [KEYS.fleet.encode()]
            assert client.hgetall(KEYS.fleet) == {b"other": b"summary"}
        finally:
            client.delete(KEYS.fleet)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ("OK", None),
        ("", None),
        ("NOSCRIPT No matching script.", None),
        ("READONLY You can't write against a read only replica.", None),
        ("this user has no permissions to run the 'lrange' command or its subcommand", "command"),
        ("User channel has no permissions to run the 'lrange' command", "command"),
        ("this user has no permissions to access one of the keys used as arguments", "key"),
        ("No permissions to access a channel", "channel"),
        ("unknown command 'LRANGE', with args beginning with: 'x' ", "unknown"),
        ("Command 'LRANGE' not found", "unknown"),
    ],
)
def test_refusals_of_every_version_are_understood(refusal: str, kind: str | None) -> None:
    lack = lack_of(Need("nodes", ("LRANGE", "k", 0, 0)), refusal)
    assert (lack.kind if lack else None) == kind


def test_deployments_are_told_these_rights_and_no_others() -> None:
    text = (Path(__file__).resolve().parents[3] / "deploy" / "README.md").read_text(encoding="utf-8")
    rule = text.partition("ACL SETUSER streamer on >PASSWORD ")[2].partition("\n\n")[0].split()
    assert rule[:5] == ["resetkeys", "~streamer:*", "resetchannels", "&streamer:*", "-@all"]
    assert rule[5:] == [f"+{command}" for command in COMMANDS]


def test_on_a_cluster_channels_are_sharded_and_slots_are_asked_for() -> None:
    sharded = {need.command for need in needs(KEYS, "node", sharded=True)}
    assert sharded - set(COMMANDS) == {"spublish", "ssubscribe", "sunsubscribe", "cluster|slots", "asking"}
    assert set(COMMANDS) - sharded == {"publish", "subscribe", "unsubscribe"}
