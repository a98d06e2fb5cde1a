"""The table of metrics, the alerts, and what processes export agree with one another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.commands import run, running, updates
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, free_port, wait_until

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
_SUFFIXES = re.compile(r"_(total|bucket|sum|count)$")


def _table() -> dict[str, str]:
    """Each metric that the table has, and its kind."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (DEPLOY / "METRICS.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def _exported(port: int) -> dict[str, str]:
    """Each metric that a port serves, and its kind; nothing where it does not answer."""
    with suppress(URLError, ConnectionError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {family.name + "_total" * (family.type == "counter"): family.type for family in families}
    return {}


@pytest.fixture(scope="module")
def exported(valkey: RedisServer) -> Iterator[dict[str, str]]:
    port = free_port()
    with (
        GatewayProcess(valkey.url, "--processes", "2") as gateway,
        running(
            "node", "gpu-1", "--job", "j", "--metrics-port", str(port), "--", "sleep", "60", redis_url=valkey.url
        ) as node,
    ):
        wait_until("the node serves metrics", lambda: _exported(port))
        yield _exported(gateway.internal_port) | _exported(port)
        node.terminate()
        node.wait()


def test_the_table_has_what_is_exported_and_nothing_else(exported: dict[str, str]) -> None:
    assert _table() == exported


def test_the_alerts_name_metrics_that_there_are(exported: dict[str, str]) -> None:
    kinds = {_SUFFIXES.sub("", name): kind for name, kind in exported.items()}
    for rule in _rules():
        [name] = set(re.findall(r"streamer_\w+", rule["expr"]))
        kind = kinds[_SUFFIXES.sub("", name)]
        assert (kind == "gauge") == (_SUFFIXES.search(name) is None), name


def test_the_alerts_have_the_shape_that_prometheus_wants() -> None:
    assert set(ALERTS) == {"groups"}
    for rule in _rules():
        assert (
            {"alert", "expr", "labels", "annotations"} <= set(rule) <= {"for", "alert", "expr", "labels", "annotations"}
        )
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def _rules() -> list[dict[str, Any]]:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    return rules


def test_a_port_in_use_is_named_and_the_command_is_not_run(valkey: RedisServer, node: str) -> None:
    port = valkey.port
    done = run("node", node, "--job", "j", "--metrics-port", str(port), "--", "echo", "ran", redis_url=valkey.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} of 127.0.0.1" in done.stderr
    assert "--metrics-port" in done.stderr
    assert updates(valkey.url, node) == []
