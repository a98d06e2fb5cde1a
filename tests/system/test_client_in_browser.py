"""The JavaScript client in a real browser, as a page of anybody's uses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from streamer import NodeSettings
from streamer.state_streamer import StateStreamer
from tests.faults.flow import Flow
from tests.gateways import GatewayProcess
from tests.servers import RedisServer, missing, wait_until
from tests.system.test_page import FLAGS

FOLLOW = """
async ([source, urls, follows]) => {
  const { connect } = await import(source);
  const client = connect(urls, { onstatus: ({ status }) => (window.opened += status === "open") });
  Object.assign(window, { client, opened: 0, seen: follows.map(() => []), failures: [] });
  follows.forEach(async (topic, place) => {
    try {
      for await (const { index, state } of client.follow(topic)) window.seen[place].push([index, state.n]);
    } catch (error) {
      window.failures.push(`${error.name}: ${error.message}`);
    }
  });
}
"""


def until(page: Page, condition: str) -> None:
    """Return once it holds in the page."""
    wait_until(condition, lambda: page.evaluate(condition))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = shutil.which("chromium") or missing("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield browser
        browser.close()


def test_gateways_die_and_each_follow_gets_everything_once_and_in_order(
    browser: Browser, valkey: RedisServer, node: str
) -> None:
    streamer = StateStreamer(node, NodeSettings(redis_url=valkey.url))
    with ExitStack() as stack:
        stack.callback(streamer.close)
        gateways = [stack.enter_context(GatewayProcess(valkey.url)) for _ in range(3)]
        page = browser.new_page()
        stack.callback(page.close)
        homes = [gateway.url.replace("ws:", "http:") for gateway in gateways]
        page.goto(homes[0])
        topics = [{"node": node}, {"node": node, "job": "job"}]
        page.evaluate(FOLLOW, ["/client.js", homes, topics])
        with Flow(streamer) as flow:
            for number, gateway in enumerate(gateways[:2]):
                seen = page.evaluate("seen[0].length")
                until(page, f"opened > {number} && seen[0].length > {seen + 20}")
                gateway.kill()
            until(page, "opened > 2")
        streamer.update("last", {"job": "job", "n": flow.sent})
        streamer.flush()
        until(page, f"seen.every((of) => of.at(-1)?.[1] === {flow.sent})")
        assert page.evaluate("failures") == []
        whole = [[n, n] for n in range(flow.sent + 1)]
        assert page.evaluate("seen") == [whole, whole]


def test_a_page_of_another_origin_loads_the_client_from_a_gateway(
    browser: Browser, valkey: RedisServer, node: str
) -> None:
    streamer = StateStreamer(node, NodeSettings(redis_url=valkey.url))
    with (
        GatewayProcess(valkey.url) as gateway,
        GatewayProcess(valkey.url) as other,
        browser.new_context(bypass_csp=True) as context,
    ):
        page = context.new_page()
        page.goto(other.url.replace("ws:", "http:"))
        home = gateway.url.replace("ws:", "http:")
        page.evaluate(FOLLOW, [f"{home}/client.js", [gateway.url], [{"node": node, "history": "none"}]])
        until(page, "opened > 0")
        for n in range(3):
            streamer.update("running", {"n": n})
        streamer.close()
        until(page, "seen[0].at(-1)?.[1] === 2")
        page.evaluate("client.close()")
