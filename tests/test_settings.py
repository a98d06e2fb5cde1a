"""How a node's process is told its settings."""

from __future__ import annotations

import re
from dataclasses import fields
from threading import TIMEOUT_MAX
from typing import Any

import pytest

from streamer import InvalidSetting, NodeSettings, StateStreamer
from streamer.core.kept import KeepBounds
from streamer.log.keys import Keys
from streamer.log.scripts import Retention
from tests.servers import RedisServer

ENVIRONMENT = {
    "STREAMER_REDIS_URL": ("rediss://user:secret@redis.example:6380/3", "rediss://user:secret@redis.example:6380/3"),
    "STREAMER_PREFIX": ("test:", "test:"),
    "STREAMER_RETENTION_RECORDS": ("12", 12),
    "STREAMER_JOB_TTL_S": ("0", 0),
    "STREAMER_OUTBOX_RECORDS": ("34", 34),
    "STREAMER_OUTBOX_BYTES": ("56", 56),
    "STREAMER_OUTBOX_FULL": ("block", "block"),
    "STREAMER_OUTBOX_BLOCK_S": ("1.5", 1.5),
    "STREAMER_OUTBOX_DIR": ("/var/lib/streamer", "/var/lib/streamer"),
    "STREAMER_OUTBOX_SYNC": ("normal", "normal"),
    "STREAMER_RESEND_RECORDS": ("78", 78),
    "STREAMER_RESEND_BYTES": ("0", 0),
    "STREAMER_RESEND_S": ("9.5", 9.5),
    "STREAMER_WAIT_REPLICAS": ("2", 2),
    "STREAMER_WAIT_REPLICAS_S": ("0.5", 0.5),
    "STREAMER_LEASE_S": ("3.5", 3.5),
    "STREAMER_EXIT_FLUSH_S": ("0.25", 0.25),
}

NUMBERS = [name for name, (_, value) in ENVIRONMENT.items() if not isinstance(value, str)]


def test_an_empty_environment_gives_the_defaults() -> None:
    assert NodeSettings.from_environ({}) == NodeSettings()


def test_every_field_comes_from_its_variable() -> None:
    settings = NodeSettings.from_environ({name: text for name, (text, _) in ENVIRONMENT.items()})
    given = {f"STREAMER_{field.name.upper()}": getattr(settings, field.name) for field in fields(NodeSettings)}
    assert given == {name: value for name, (_, value) in ENVIRONMENT.items()}
    assert settings.keys == Keys("test:")
    assert settings.retention == Retention(12, 0)
    assert settings.keep == KeepBounds(78, 0, 9.5)


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_variable_alone_changes_its_field_alone(name: str) -> None:
    text, value = ENVIRONMENT[name]
    settings = NodeSettings.from_environ({name: text, "STREAMER_PORT": "none of ours", "PREFIX": "{}"})
    changed = {
        field.name: getattr(settings, field.name)
        for field in fields(NodeSettings)
        if getattr(settings, field.name) != field.default
    }
    assert changed == {name.removeprefix("STREAMER_").lower(): value}


@pytest.mark.parametrize("text", ["", "many", "0x10", "1,000"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_value_that_is_no_number_gets_a_sentence_that_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name}: .* must be a .*number from .*not {re.escape(repr(text))}$"):
        NodeSettings.from_environ({name: text})


@pytest.mark.parametrize("name", [name for name in NUMBERS if isinstance(ENVIRONMENT[name][1], int)])
def test_a_fraction_where_a_whole_number_belongs_is_called_that(name: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name}: .* must be a whole number from .*not '1.5'$"):
        NodeSettings.from_environ({name: "1.5"})
    with pytest.raises(InvalidSetting, match=r"must be a whole number from .*not 1\.5$"):
        NodeSettings(**{name.removeprefix("STREAMER_").lower(): 1.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "5", True, [], b"5"])
@pytest.mark.parametrize("name", [field.name for field in fields(NodeSettings)])
def test_a_value_of_another_kind_is_refused_with_a_sentence(name: str, value: Any) -> None:
    if isinstance(value, str) and name in ("redis_url", "prefix", "outbox_dir"):
        return
    with pytest.raises(InvalidSetting, match=f"^{name} must be .*, not "):
        NodeSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [
        ("retention_records", 1, 0),
        ("job_ttl_s", 0, -1),
        ("outbox_records", 1, 0),
        ("outbox_bytes", 1, 0),
        ("outbox_block_s", 0, -0.1),
        ("resend_records", 0, -1),
        ("resend_bytes", 0, -1),
        ("resend_s", 0, -0.1),
        ("wait_replicas", 0, -1),
        ("wait_replicas_s", 0.001, 0),
        ("wait_replicas_s", 5, 5.1),
        ("lease_s", 1, 0.9),
        ("exit_flush_s", 0, -0.1),
        ("exit_flush_s", 0, float("nan")),
        ("exit_flush_s", 0, float("inf")),
    ],
)
def test_a_value_out_of_range_gets_a_sentence_that_names_the_setting(name: str, least: int, below: float) -> None:
    assert getattr(NodeSettings(**{name: least}), name) == least  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=f"{name} must be .* not {below}"):
        NodeSettings(**{name: below})  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting) as error:
        NodeSettings.from_environ({f"STREAMER_{name.upper()}": str(below)})
    assert str(error.value).startswith(f"STREAMER_{name.upper()}: {name} must be ")


@pytest.mark.parametrize(("name", "value"), [("outbox_full", "wait"), ("outbox_sync", "off"), ("outbox_full", "")])
def test_a_word_that_is_no_choice_gets_a_sentence_that_names_those_there_are(name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^STREAMER_{name.upper()}: {name} must be one of .*, not '{value}'$"):
        NodeSettings.from_environ({f"STREAMER_{name.upper()}": value})


def test_spilling_needs_a_directory() -> None:
    with pytest.raises(InvalidSetting, match="only with a directory as outbox_dir"):
        NodeSettings(outbox_full="spill")
    with pytest.raises(InvalidSetting, match="only with a directory as outbox_dir"):
        NodeSettings.from_environ({"STREAMER_OUTBOX_FULL": "spill"})
    environment = {"STREAMER_OUTBOX_FULL": "spill", "STREAMER_OUTBOX_DIR": "outbox"}
    assert NodeSettings.from_environ(environment).outbox_full == "spill"


@pytest.mark.parametrize(
    ("name", "value"),
    [("retention_records", 2**63), ("job_ttl_s", 2**63), ("job_ttl_s", 10**17), ("exit_flush_s", 1e300)],
)
def test_a_number_greater_than_redis_or_a_thread_can_take_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidSetting, match=name):
        NodeSettings(**{name: value})


def test_the_greatest_numbers_work(valkey: RedisServer, node: str) -> None:
    """Else each try to append fails, and the updates wait for ever."""
    streamer = StateStreamer(
        node,
        NodeSettings(redis_url=valkey.url, retention_records=2**32 - 1, job_ttl_s=2**32 - 1, exit_flush_s=TIMEOUT_MAX),
    )
    streamer.update("one", {"job": "job"})
    streamer.close(timeout=TIMEOUT_MAX)
    assert len(streamer.states("job")) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "http://host:6379",
        "redis://",
        "unix://",
        "redis://host:port/0",
        "redis://host:0/0",
        "redis://host:99999/0",
        "redis://[::1/0",
        "redis://user:secret@host:port/0",
        "redis://host/0?nonsense=1",
        "redis://host/0?socket_timeout=soon",
    ],
)
def test_a_url_of_no_redis_is_refused_with_a_sentence_that_keeps_the_password(url: str) -> None:
    for make in (lambda: NodeSettings(redis_url=url), lambda: NodeSettings.from_environ({"STREAMER_REDIS_URL": url})):
        with pytest.raises(InvalidSetting, match="is no URL of a Redis") as error:
            make()
        assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["redis://host", "redis://:secret@[::1]:6380/15", "rediss://host/?ssl_cert_reqs=none", "unix:///run/redis.sock"],
)
def test_urls_of_every_kind_of_redis_are_taken(url: str) -> None:
    assert NodeSettings.from_environ({"STREAMER_REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("prefix", ["a{b", "a}b", "{}"])
def test_a_prefix_that_breaks_the_hash_tag_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidSetting, match="cannot hold braces"):
        NodeSettings(prefix=prefix)
