"""The page in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streamer import NodeSettings
from streamer.core.entries import Batch, Entry
from streamer.log.fleet import Summary
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.scripts import Retention
from streamer.state_streamer import StateStreamer
from tests.gateway.signing import Issuer
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
    expected = ("WebSocket", "ERR_CONNECTION", "status of 503", "status of 401", "status of 403", "status of 426")
    assert [text for text in complaints if not any(words in text for words in expected)] == []


@pytest.fixture
def phone(page: Page) -> Page:
    page.set_viewport_size({"width": 390, "height": 700})
    return page


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


MARKUP = [
    '<img src=x onerror="window.taken=1">',
    "</bdi></summary></details><script>window.taken=1</script>",
    '"><svg onload=window.taken=1>',
    "' onmouseover='window.taken=1' style='position:fixed;inset:0'",
    "javascript:window.taken=1//",
    "${window.taken=1}{{window.taken=1}}<!--",
    "<iframe srcdoc='<script>parent.taken=1</script>'>",
    "<style>*{display:none!important}</style>",
]
UNSEEN = "a\u0000\u0007\u001b[2J\u009b2J\u200b\u200e\u202e\u2066\u2028\ufeff\U000e0041\r\n\tb" + "\u0301" * 200
NAMES = [
    "__proto__",
    "constructor",
    "prototype",
    "toString",
    "hasOwnProperty",
    "then",
    "toJSON",
    "",
    "length",
    "valueOf",
]
HUGE = [
    {"text": "x" * 1_000_000},
    {"text": "\u202e" * 300_000},
    {"text": "\n" * 1_000_000},
    {f"key-{n}": n for n in range(9_990)},
    {"list": [None] * 1_000_000},
    {"lists": [[[[[[[[[[[[[[[[1] * 300_000]]]]]]]]]]]]]]]},
    {"k" * 500_000: "v" * 500_000},
]
ODD = [
    {text: text for text in MARKUP},
    {"unseen": UNSEEN, UNSEEN: 1, "in": {UNSEEN: [UNSEEN]}},
    {name: {inner: inner for inner in NAMES} for name in NAMES},
    {"great": 2**64 - 1, "small": -(2**63), "float": 1e308, "tiny": 5e-324, "in": [{"great": 2**53 + 1}]},
    json.loads('{"deep":' * 63 + "{}" + "}" * 63),
]


def _is_whole(page: Page, rows: int) -> None:
    """Nothing of what came was run, no element came of it, and each row is where it belongs."""
    assert page.evaluate("window.taken") is None
    assert page.locator("img[src=x], iframe, svg, body script, body style").count() == 0
    expect(page.get_by_test_id("update")).to_have_count(rows)
    found = page.evaluate(
        """() => {
          const visible = [...document.querySelectorAll(".update")].slice(-8);
          const { scrollWidth, scrollHeight } = document.documentElement;
          return [scrollWidth <= innerWidth, scrollHeight <= innerHeight,
                  visible.map((row) => row.querySelector("summary").offsetHeight)];
        }"""
    )
    assert found[:2] == [True, True], "the page has grown beyond its window"
    assert len(set(found[2])) == 1, "a row has another height"


def test_what_nodes_publish_is_shown_as_text_and_never_run(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog has opened: {dialog.message}"))
    for text in MARKUP:
        streamer.update(text, {"job": text, text: text})
    streamer.flush()
    _open(page, gateway, streamer.node)
    expect(page.get_by_test_id("status")).to_have_count(len(MARKUP))
    for text, status in zip(MARKUP, page.get_by_test_id("status").all(), strict=True):
        expect(status).to_have_text(text)
    for row in page.get_by_test_id("update").all():
        row.locator("summary").hover()
        row.locator("summary").click()
        expect(row.locator("pre")).to_contain_text('"index"')
        row.locator("summary").click()
    _is_whole(page, len(MARKUP))
    expect(page.get_by_test_id("job")).to_have_count(len(MARKUP))
    page.get_by_test_id("job").filter(has_text=MARKUP[-1]).click()
    expect(page.get_by_test_id("update")).to_have_count(1)
    assert page.evaluate("window.taken") is None
    assert MARKUP[-1] in page.title(), "the job's name, as text"


def test_odd_values_and_names_are_shown_and_break_nothing(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    for state in ODD:
        streamer.update(UNSEEN, state)
    for name in NAMES:
        streamer.update(name or "none", {"job": name} if name else {})
    streamer.flush()
    _open(page, gateway, streamer.node)
    _is_whole(page, len(ODD) + len(NAMES))
    expect(page.get_by_test_id("job")).to_have_count(len(NAMES) - 1)
    rows = page.get_by_test_id("update")
    for row, said in (
        (1, r'"unseen": "a\u0000\u0007\u001b[2J\u009b2J\u200b\u200e\u202e\u2066\u2028\ufeff\u{e0041}\r\n\tb'),
        (2, '"constructor": "constructor"'),
        (2, '"__proto__": {'),
        (3, '"great": 18446744073709551615'),
        (3, '"small": -9223372036854775808'),
        (3, '"great": 9007199254740993'),
        (4, '"deep": {}'),
    ):
        rows.nth(row).locator("summary").click()
        expect(rows.nth(row).locator("pre")).to_contain_text(said)
        rows.nth(row).locator("summary").click()
    expect(rows.nth(1).get_by_test_id("status")).to_contain_text(r"a\u0000\u0007\u001b[2J\u009b2J\u200b")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066]", page.inner_text("body"))


def test_a_huge_update_is_shown_shortened_with_its_size_and_stalls_nothing(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    for state in HUGE:
        streamer.update("huge", state)
    streamer.update("last", {})
    streamer.flush(30)
    _open(page, gateway, streamer.node)
    rows = page.get_by_test_id("update")
    expect(rows.last.get_by_test_id("status")).to_have_text("last", timeout=30_000)
    expect(page.get_by_test_id("size")).to_have_count(len(HUGE))
    expect(rows.first.get_by_test_id("size")).to_have_text(re.compile(r"^1,000,0\d\d characters$"))
    for row in rows.all()[:-1]:
        row.locator("summary").click()
        expect(row.locator("pre")).to_contain_text(re.compile(r"[\d,]{7,9} characters altogether$"))
        assert len(row.locator("pre").inner_text()) < 400_000
        row.locator("summary").click()
    page.get_by_label("Filter updates").fill("key-9989=9989")
    expect(rows.filter(visible=True)).to_have_count(1)
    page.get_by_label("Filter updates").fill("")
    _is_whole(page, len(HUGE) + 1)
    streamer.update("live", {})
    expect(rows.last.get_by_test_id("status")).to_have_text("live")


def test_what_another_program_has_written_and_nobody_can_read_is_shown_as_that(
    page: Page, gateway: GatewayProcess, valkey: RedisServer, streamer: StateStreamer
) -> None:
    """Not a number and infinity, too: msgpack has them, JSON has not."""
    tails = [
        msgpack.packb([1, "not-a-number", {"x": [float("nan"), float("-inf")]}])[1:],
        msgpack.packb([1, "x" * 900_000, {"job": "j" * 300}])[1:],
        b"\x01\xa4deep" + b"\x81\xa1s" * 1000 + b"\x80",
        b"\xc1",
    ]
    with NodeLog(valkey.url, Keys(), streamer.node) as log:
        log.append("foreign", Batch(1, [Entry(None, tail) for tail in tails]), Retention())
        log.report(Summary(2**62, "x" * 900_000, None, -(2**60)))
    streamer.update("last", {})
    streamer.flush()
    _open(page, gateway, streamer.node)
    _is_whole(page, len(tails) + 1)
    statuses = [status.inner_text()[:12] for status in page.get_by_test_id("status").all()]
    assert statuses == ["not-a-number", "x" * 12, "unreadable", "unreadable", "last"]
    expect(page.get_by_test_id("update").first.locator("summary")).to_contain_text("x=[null,null]")


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


def test_while_redis_is_away_a_phone_says_so_and_goes_on_by_itself_once_it_is_back(
    phone: Page, own_valkey: RedisServer, node: str
) -> None:
    streamer = StateStreamer(node, NodeSettings(redis_url=own_valkey.url))
    with GatewayProcess(own_valkey.url) as gateway:
        streamer.update("before", {})
        streamer.flush()
        _open(phone, gateway, node)
        expect(phone.get_by_test_id("update")).to_have_count(1)
        own_valkey.kill()
        connection, reason = phone.get_by_test_id("connection"), phone.get_by_test_id("reason")
        expect(connection).to_have_text(re.compile("waiting|reconnecting"), timeout=30_000)
        expect(connection).to_be_visible()
        expect(reason).to_have_text("The log cannot be read now. Updates go on by themselves.")
        assert "127.0.0.1" not in phone.inner_text("body")
        own_valkey.start()
        streamer.update("after", {})
        expect(phone.get_by_test_id("update")).to_have_count(2, timeout=30_000)
        expect(connection).to_have_attribute("data-state", "live", timeout=30_000)
        expect(reason).to_be_empty()
        assert _indexes(phone) == [0, 1]
    streamer.close()


def test_a_filter_hides_what_does_not_match_and_says_where_nothing_does(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    for n in range(3):
        streamer.update("running-operation", {"n": n})
    streamer.flush()
    _open(page, gateway, streamer.node)
    rows = page.get_by_test_id("update")
    expect(rows).to_have_count(3)
    page.get_by_label("Filter updates").fill("n=1 running")
    expect(rows.filter(visible=True)).to_have_count(1)
    expect(page.get_by_test_id("count")).to_have_text("1 of 3 updates")
    page.get_by_label("Filter updates").fill("no such thing")
    expect(page.get_by_test_id("nothing")).to_have_text("No update matches.")
    page.get_by_label("Filter updates").fill("")
    expect(rows.filter(visible=True)).to_have_count(3)
    expect(page.get_by_test_id("nothing")).to_be_hidden()


def test_a_node_that_has_not_reported_is_said_to_have_not_until_it_does(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    page.goto(f"http://127.0.0.1:{gateway.port}/#/nodes/{streamer.node}")
    expect(page.get_by_test_id("nothing")).to_contain_text("has not reported yet")
    streamer.update("first", {})
    expect(page.get_by_test_id("update")).to_have_count(1)
    expect(page.get_by_test_id("nothing")).to_be_hidden()


def test_marks_that_turn_the_writing_direction_are_shown_escaped(
    page: Page, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    streamer.update("run\u202egnp.exe", {"job": "job\u2066x", "na\u200fme": "va\u202elue"})
    streamer.flush()
    _open(page, gateway, streamer.node)
    row = page.get_by_test_id("update")
    expect(row).to_have_count(1)
    expect(page.get_by_test_id("job")).to_contain_text("job\\u2066x")
    row.locator("summary").click()
    expect(row.locator("pre")).to_contain_text("run\\u202egnp.exe")
    for shown in ("run\\u202egnp.exe", "job\\u2066x", "na\\u200fme=va\\u202elue"):
        expect(row.locator("summary")).to_contain_text(shown)
    assert not re.search("[\u200f\u202e\u2066]", page.inner_text("body"))


def test_a_wide_window_opens_the_first_node_and_a_phone_lets_one_choose(
    browser: Browser, gateway: GatewayProcess, streamer: StateStreamer
) -> None:
    streamer.update("hello", {})
    streamer.flush()
    for width, opens in ((1280, True), (390, False)):
        page = browser.new_page(viewport={"width": width, "height": 700})
        page.goto(f"http://127.0.0.1:{gateway.port}/")
        expect(page.get_by_test_id("node").first).to_be_visible()
        expect(page).to_have_url(re.compile("#/nodes/" if opens else "/$"))
        page.close()


def test_a_token_in_the_address_is_used_and_taken_out_of_it(
    page: Page, valkey: RedisServer, streamer: StateStreamer, tmp_path: Path
) -> None:
    issuer, node = Issuer(tmp_path), streamer.node
    streamer.update("one", {"job": "job-1"})
    streamer.flush()
    with GatewayProcess(valkey.url, "--token-secret-file", issuer.path) as gateway:
        page.goto(f"http://127.0.0.1:{gateway.port}/#token={issuer.token()}/nodes/{node}")
        expect(page.get_by_test_id("update")).to_have_count(1)
        expect(page.get_by_test_id("connection")).to_have_attribute("data-state", "live")
        expect(page.get_by_test_id("sign-in")).to_be_hidden()
        expect(page).to_have_url(f"http://127.0.0.1:{gateway.port}/#/nodes/{node}")
        page.reload()
        expect(page.get_by_test_id("update")).to_have_count(1)


def test_without_a_token_one_is_asked_for_and_when_it_expires_the_next_goes_on_from_there(
    page: Page, valkey: RedisServer, streamer: StateStreamer, tmp_path: Path
) -> None:
    issuer, node = Issuer(tmp_path), streamer.node
    streamer.update("one", {})
    streamer.flush()
    with GatewayProcess(valkey.url, "--token-secret-file", issuer.path, "--token-leeway-s", "0") as gateway:
        page.goto(f"http://127.0.0.1:{gateway.port}/#/nodes/{node}")
        form, connection = page.get_by_test_id("sign-in"), page.get_by_test_id("connection")
        expect(form).to_be_visible()
        expect(connection).to_have_attribute("data-state", "closed")
        expect(page.get_by_test_id("reason")).to_contain_text("a token is needed here")
        for n, expires_s in enumerate((4, 600)):
            page.get_by_test_id("token").fill(f" {issuer.token(expires_s=expires_s)}\n")
            page.get_by_role("button", name="Use it").click()
            expect(connection).to_have_attribute("data-state", "live")
            expect(form).to_be_hidden()
            streamer.update("next", {})
            streamer.flush()
            expect(page.get_by_test_id("update")).to_have_count(2 + n)
            if n == 0:
                expect(form).to_be_visible(timeout=30_000)
                expect(connection).to_have_attribute("data-state", "closed")
                expect(page.get_by_test_id("reason")).to_contain_text("has expired")
        assert _indexes(page) == [0, 1, 2]


def test_what_the_token_does_not_allow_is_said(
    page: Page, valkey: RedisServer, streamer: StateStreamer, tmp_path: Path
) -> None:
    issuer, node = Issuer(tmp_path), streamer.node
    streamer.update("one", {"job": "mine"})
    streamer.update("two", {"job": "other"})
    streamer.flush()
    token = issuer.token(nodes=[node], jobs=["mine"])
    with GatewayProcess(valkey.url, "--token-secret-file", issuer.path) as gateway:
        page.goto(f"http://127.0.0.1:{gateway.port}/#token={token}/nodes/{node}")
        expect(page.get_by_test_id("reason")).to_contain_text("watch a job")
        expect(page.get_by_test_id("job")).to_have_count(1)
        page.get_by_test_id("job").click()
        expect(page.get_by_test_id("update")).to_have_count(1)
        assert _indexes(page) == [0]
        expect(page.get_by_test_id("sign-in")).to_be_hidden()
