"""The page in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streamer import NodeSettings
from streamer.state_streamer import StateStreamer
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, missing

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = shutil.which("chromium") or missing("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def gateway(valkey: RedisServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(valkey.url) as gateway:
        yield gateway


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may not complain: what it writes to the console fails the test."""
    complaints: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert [text for text in complaints if "WebSocket" not in text and "ERR_CONNECTION" not in text] == []


@pytest.fixture
def streamer(valkey: RedisServer, node: str) -> Iterator[StateStreamer]:
    streamer = StateStreamer(node, NodeSettings(redis_url=valkey.url))
    yield streamer
    streamer.close()


def _indexes(page: Page) -> list[int]:
    return [int(row.get_attribute("data-index") or -1) for row in page.get_by_test_id("update").all()]


def _open(page: Page, gateway: GatewayProcess, node: str) -> None:
    page.goto(f"http://127.0.0.1:{gateway.port}/")
    page.locator(f"[data-testid=node][data-node='{node}']").click()


def test_it_joins_shows_history_and_then_live_updates(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    for n in range(5):
        streamer.update("running-operation", {"job": f"job-{n % 2}", "n": n})
    streamer.flush()
    _open(page, gateway, streamer.node)
    rows = page.get_by_test_id("update")
    expect(rows).to_have_count(5)
    expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live")
    streamer.update("job-finished", {"job": "job-0", "n": 5})
    expect(rows).to_have_count(6)
    expect(rows.last.get_by_test_id("status")).to_have_text("job-finished")
    assert _indexes(page) == [0, 1, 2, 3, 4, 5]


def test_a_job_shows_its_own_updates_only(page: Page, gateway: GatewayProcess, streamer: StateStreamer) -> None:
    for n in range(6):
        streamer.update("running-operation", {"job": f"job-{n % 2}", "n": n})
    streamer.flush()
    _open(page, gateway, streamer.node)
    page.locator("[data-testid=job][data-job='job-1']").first.click()
    expect(page.get_by_test_id("update")).to_have_count(3)
    assert _indexes(page) == [1, 3, 5]
    expect(page).to_have_url(re.compile("#/nodes/.*/jobs/job-1$"))


def test_what_nodes_publish_is_shown_as_text_and_never_run(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    hostile = "<img src=x onerror=\"document.title='taken'\">"
    streamer.update(hostile, {"job": hostile, hostile: hostile})
    streamer.flush()
    _open(page, gateway, streamer.node)
    expect(page.get_by_test_id("update")).to_have_count(1)
    expect(page.get_by_test_id("status").first).to_have_text(hostile)
    assert page.title() != "taken"
    assert page.locator("img[src=x]").count() == 0


def test_it_comes_back_after_a_lost_gateway_and_repeats_nothing(
    page: Page, valkey: RedisServer, streamer: StateStreamer
) -> None:
    streamer.update("one", {})
    streamer.flush()
    with GatewayProcess(valkey.url) as first:
        _open(page, first, streamer.node)
        expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live")
        first.kill()
        expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "reconnecting")
        streamer.update("two", {})
        streamer.flush()
        with GatewayProcess(valkey.url, "--port", str(first.port)):
            expect(page.get_by_test_id("update")).to_have_count(2, timeout=30_000)
            expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live")
    assert _indexes(page) == [0, 1]


def test_a_log_started_anew_is_shown_from_its_start(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    for _ in range(3):
        streamer.update("old", {})
    streamer.flush()
    _open(page, gateway, streamer.node)
    expect(page.get_by_test_id("update")).to_have_count(3)
    streamer.clear()
    streamer.update("new", {})
    expect(page.get_by_test_id("update")).to_have_count(1)
    expect(page.get_by_test_id("status").first).to_have_text("new")
