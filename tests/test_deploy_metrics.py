"""The table of metrics, the alerts, and what processes export agree with one another."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.commands import DEADLINE_S, run, running, updates
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, free_port, wait_until
from workers.metrics_port import serving_metrics

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
_SUFFIXES = re.compile(r"_(total|bucket|sum|count)$")


def _table() -> dict[str, str]:
    """Each metric that the table has, and its kind."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (DEPLOY / "METRICS.md").read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def _ask(port: int, path: str = "/metrics") -> tuple[int, str]:
    """What a port answers, and with which status; 0 and nothing where it does not."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except (URLError, ConnectionError):
        return 0, ""


def _exported(port: int) -> dict[str, str]:
    """Each metric that a port serves, and its kind; nothing where it does not answer."""
    families = text_string_to_metric_families(_ask(port)[1])
    return {family.name + "_total" * (family.type == "counter"): family.type for family in families}


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
        names = set(re.findall(r"streamer_\w+", rule["expr"]))
        assert names
        for name in names:
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


@pytest.mark.parametrize("options", [[], ["--exclusive"]])
def test_a_port_in_use_is_named_and_the_command_is_not_run(valkey: RedisServer, node: str, options: list[str]) -> None:
    port = valkey.port
    done = run(
        *("node", node, "--job", "j", *options, "--metrics-port", str(port), "--", "echo", "ran"), redis_url=valkey.url
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} of 127.0.0.1" in done.stderr
    assert "--metrics-port" in done.stderr
    with valkey.client() as client:
        assert client.keys(f"*{node}*") == [], "nothing is published, nor is the node claimed"


def test_a_process_that_publishes_lines_serves_metrics_until_they_end(valkey: RedisServer, node: str) -> None:
    port = free_port()
    arguments = ("publish", node, "-", "--metrics-port", str(port))
    with running(*arguments, redis_url=valkey.url, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write('{"status": "s"}\n' * 3)
        process.stdin.flush()
        wait_until("Redis has acknowledged all", lambda: f'acknowledged_total{{node="{node}"}} 3.0' in _ask(port)[1])
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0


def test_who_publishes_one_update_needs_no_port(valkey: RedisServer, node: str) -> None:
    done = run("publish", node, "s", "--metrics-port", str(valkey.port), redis_url=valkey.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(updates(valkey.url, node)) == 1


def test_a_port_for_metrics_has_them_under_their_path_and_says_that_the_process_runs() -> None:
    port = free_port()
    with serving_metrics(port, "127.0.0.1"):
        status, text = _ask(port)
        assert status == 200
        assert "streamer_node_pending" in text
        assert _ask(port, "/metrics?debug=1") == (200, text)
        assert _ask(port, "/healthz") == (200, "ok\n")
        assert [_ask(port, path) for path in ("/", "/metrics/", "/x")] == [
            (404, "here are /healthz and /metrics\n")
        ] * 3
    assert _ask(port) == (0, "")
