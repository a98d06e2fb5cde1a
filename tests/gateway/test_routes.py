"""What a request's path and query ask for, or the sentence that says what is wrong with them."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.core.cursor import MAX_INDEX, Cursor
from streamer.core.errors import InvalidInput, InvalidName
from streamer.core.names import ALL, Topic, check_node
from streamer.gateway.routes import (
    PUBLIC_FILES,
    Converse,
    GiveFile,
    ListNodes,
    ListUpdates,
    Route,
    ShowNode,
    UnknownPath,
    Watch,
    WatchFleet,
    WatchJob,
    parse_target,
)

TOKEN = "3f9a1c2b7d4e.2.41"
CURSOR = Cursor("3f9a1c2b7d4e", 2, 41)
JOB = Topic("n", "j")


def _is_name(text: str) -> bool:
    try:
        return check_node(text) == text and text != ALL
    except InvalidName:
        return False


names = st.text(min_size=1, max_size=80).filter(_is_name)


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/nodes/n", Watch(Topic("n"), None, None)),
        ("/nodes/n/jobs/j", Watch(JOB, None, None)),
        ("/nodes/n?", Watch(Topic("n"), None, None)),
        (f"/nodes/n?after={TOKEN}", Watch(Topic("n"), CURSOR, None)),
        (f"/nodes/n/jobs/j?after={TOKEN}", Watch(JOB, CURSOR, None)),
        ("/nodes/n?after=0", Watch(Topic("n"), Cursor("", 0, 0), None)),
        ("/nodes/n?after=-1", Watch(Topic("n"), Cursor("", 0, -1), None)),
        (f"/nodes/n?after={MAX_INDEX}", Watch(Topic("n"), Cursor("", 0, MAX_INDEX), None)),
        ("/nodes/n?history=all", Watch(Topic("n"), None, None)),
        ("/nodes/n?history=none", Watch(Topic("n"), None, 0)),
        ("/nodes/n?history=0", Watch(Topic("n"), None, 0)),
        ("/nodes/n/jobs/j?history=25", Watch(JOB, None, 25)),
        (f"/nodes/n?history={MAX_INDEX}", Watch(Topic("n"), None, MAX_INDEX)),
        ("/jobs/j", WatchJob("j", {}, None)),
        ("/jobs/j?history=3", WatchJob("j", {}, 3)),
        (f"/jobs/j?after=n:{TOKEN}", WatchJob("j", {"n": CURSOR}, None)),
        (f"/jobs/j?after=a:b:{TOKEN}&after=n%2F:7", WatchJob("j", {"a:b": CURSOR, "n/": Cursor("", 0, 7)}, None)),
        ("/fleet", WatchFleet()),
        ("/fleet?", WatchFleet()),
        ("/ws", Converse()),
        ("/api/nodes", ListNodes()),
        ("/api/nodes/n", ShowNode("n")),
        ("/api/nodes/n/updates", ListUpdates(Topic("n"), None)),
        (f"/api/nodes/n/updates?after={TOKEN}", ListUpdates(Topic("n"), CURSOR)),
        ("/api/nodes/n/jobs/j/updates?after=7", ListUpdates(JOB, Cursor("", 0, 7))),
        ("/", GiveFile("gateway/page/index.html")),
        *((path, GiveFile(file)) for path, file in PUBLIC_FILES.items()),
    ],
)
def test_a_good_target_is_a_route(target: str, route: Route) -> None:
    assert parse_target(target) == route
    assert type(parse_target(target)) is type(route)


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("a/b", "a%2Fb"),
        ("a/b", "a%2fb"),
        ("../x", "..%2Fx"),
        (".", "."),
        ("a b", "a%20b"),
        ("a+b", "a+b"),
        ("50%", "50%25"),
        ("a?b=c&d#e", "a%3Fb%3Dc%26d%23e"),
        ("nöde 🚀", "n%C3%B6de%20%F0%9F%9A%80"),
        ("{n}:all", "%7Bn%7D%3Aall"),
        ("a" * 256, "a" * 256),
        ("ä" * 128, "%C3%A4" * 128),
    ],
)
def test_a_name_is_what_was_percent_encoded(name: str, encoded: str) -> None:
    assert parse_target(f"/nodes/{encoded}/jobs/{encoded}") == Watch(Topic(name, name), None, None)


def test_all_may_be_a_nodes_name() -> None:
    assert parse_target("/nodes/all") == Watch(Topic("all"), None, None)


@pytest.mark.parametrize("prefix", ["/nodes/", "/nodes/n/jobs/", "/api/nodes/"])
@pytest.mark.parametrize(
    ("encoded", "sentence"),
    [
        ("", "name cannot be empty"),
        ("%00", r"cannot hold control characters, this one holds '\\x00'"),
        ("a%0Ab", r"cannot hold control characters, this one holds '\\n'"),
        ("%C2%85", r"cannot hold control characters, this one holds '\\x85'"),
        ("%FF", "the path must be UTF-8, percent-encoded"),
        ("%C3", "the path must be UTF-8, percent-encoded"),
        ("%ED%A0%80", "the path must be UTF-8, percent-encoded"),
        ("a" * 257, "256 bytes at the most, this one has 257"),
        ("%C3%A4" * 129, "256 bytes at the most, this one has 258"),
    ],
)
def test_a_bad_name_gets_a_sentence(prefix: str, encoded: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse_target(prefix + encoded)


@pytest.mark.parametrize("target", ["/nodes/n/jobs/all", "/nodes/n/jobs/%61ll", "/api/nodes/n/jobs/all/updates"])
def test_all_is_no_job(target: str) -> None:
    with pytest.raises(InvalidName, match="a job's name cannot be 'all'"):
        parse_target(target)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("/nodes/n?since=4", "unknown query parameter 'since'; known here: after, history"),
        ("/nodes/n?After=4", "unknown query parameter 'After'"),
        ("/nodes/n/jobs/j?history=1&x=", "unknown query parameter 'x'"),
        ("/api/nodes/n/updates?history=1", "unknown query parameter 'history'; known here: after"),
        ("/api/nodes?after=1", "unknown query parameter 'after'; none is known here"),
        ("/api/nodes/n?x=1", "unknown query parameter 'x'; none is known here"),
        ("/nodes/n?after=1&after=1", "a query parameter may be given once"),
        ("/nodes/n?history=1&history=2", "a query parameter may be given once"),
        ("/nodes/n?after=1&history=all", "give either `after` or `history`"),
        ("/nodes/n?after", "not of the form name=value"),
        ("/nodes/n?=", "unknown query parameter ''"),
        ("/nodes/n?&", "not of the form name=value"),
        ("/nodes/n?after=%FF", "not of the form name=value"),
        ("/nodes/n?after=", "'' is no cursor"),
        ("/nodes/n?after=-2", "'-2' is no cursor"),
        ("/nodes/n?after=+1", "' 1' is no cursor"),
        ("/nodes/n?after=1.5", "'1.5' is no cursor"),
        ("/nodes/n?after=%D9%A3", r"'\\u0663' is no cursor"),
        ("/nodes/n?after=1%0A", r"'1\\n' is no cursor"),
        ("/nodes/n?after=xyz.1.1", "'xyz.1.1' is no cursor"),
        ("/nodes/n?after=ab.1", "'ab.1' is no cursor"),
        ("/nodes/n?after=ab.1.1.1", "'ab.1.1.1' is no cursor"),
        (f"/nodes/n?after={MAX_INDEX + 1}", "beyond the greatest possible"),
        (f"/nodes/n?after=ab.1.{MAX_INDEX + 1}", "beyond the greatest possible"),
        ("/nodes/n?after=" + "9" * 5000, "is no cursor"),
        ("/api/nodes/n/updates?after=x", "'x' is no cursor"),
        (f"/jobs/j?after={TOKEN}", "give `after=NODE:CURSOR`"),
        ("/jobs/j?after=n:x", "'x' is no cursor"),
        (f"/jobs/j?after=:{TOKEN}", "a node's name cannot be empty"),
        (f"/jobs/j?after=n:{TOKEN}&history=1", "give either"),
        ("/jobs/j?history=1&history=1", "may be given once"),
        ("/jobs/all", "cannot be 'all'"),
        ("/fleet?history=1", "unknown query parameter"),
        ("/nodes/n?history=", "`history` is all, none, or how many"),
        ("/nodes/n?history=-1", "'-1' is none of these"),
        ("/nodes/n?history=1.5", "'1.5' is none of these"),
        ("/nodes/n?history=some", "'some' is none of these"),
        ("/nodes/n?history=%C2%B2", "is none of these"),
        (f"/nodes/n?history={MAX_INDEX + 1}", "is none of these"),
        ("/nodes/n?history=" + "0" * 17 + "9" * 30, "is none of these"),
        ("/nodes/n?history=" + "0" * 5000, "is none of these"),
    ],
)
def test_a_bad_query_gets_a_sentence(target: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse_target(target)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "nodes/n",
        "/nodes",
        "//nodes/n",
        "/nodes/n/",
        "/nodes/n/jobs",
        "/nodes/n/jobs/j/",
        "/nodes/n/jobs/j/updates",
        "/nodes/a/b",
        "/Nodes/n",
        "/api",
        "/api/",
        "/api/nodes/n/jobs",
        "/api/nodes/n/jobs/j",
        "/api/nodes/n/updates/",
        "/page/",
        "/page/../server.py",
        "/page/%2e%2e/server.py",
        "/index.html",
        "/healthz",
        "/readyz",
        "/metrics",
        "/ws/",
        "/fleet/",
        "/jobs",
        "/jobs/j/",
        "/jobs/j/nodes/n",
        "http://host/nodes/n",
    ],
)
def test_elsewhere_is_nothing(target: str) -> None:
    with pytest.raises(UnknownPath):
        parse_target(target)


@given(node=names, job=names)
@example(node="/", job="%2F")
@example(node="..", job="\u2028")
@example(node="a" * 256, job="🚀" * 64)
def test_every_name_comes_back_from_its_percent_encoded_path(node: str, job: str) -> None:
    node_path, job_path = quote(node, safe=""), quote(job, safe="")
    assert parse_target(f"/nodes/{node_path}") == Watch(Topic(node), None, None)
    assert parse_target(f"/jobs/{job_path}?after={node_path}:7") == WatchJob(job, {node: Cursor("", 0, 7)}, None)
    assert parse_target(f"/nodes/{node_path}/jobs/{job_path}") == Watch(Topic(node, job), None, None)
    assert parse_target(f"/api/nodes/{node_path}") == ShowNode(node)
    assert parse_target(f"/api/nodes/{node_path}/jobs/{job_path}/updates") == ListUpdates(Topic(node, job), None)


PIECES = ["/nodes/", "/jobs/", "/api", "/updates", "?", "after=", "history=", "&", "=", "%", "%00", "1", "0" * 99, "."]


@given(target=st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=9))).map("".join)))
@example(target="/nodes/\ud800")
@example(target="/nodes/n?\ud800=1")
@example(target="/nodes/n?history=" + "1" * 5000)
@example(target="/nodes/n?history=" + "0" * 5000)
def test_whatever_is_asked_is_a_route_or_an_error_of_the_caller(target: str) -> None:
    with suppress(InvalidInput, UnknownPath):
        assert isinstance(parse_target(target), Route)
