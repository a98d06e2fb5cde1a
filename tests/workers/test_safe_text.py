"""What nodes, gateways and servers say reaches a terminal as text that one can see, whatever it holds."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import NodeSettings
from streamer.state_streamer import StateStreamer
from tests.commands import DEADLINE_S, command, environment, run
from tests.gateways import GatewayProcess
from tests.servers import RedisServer
from workers.safe_text import json_line, shortened, visible, visible_lines

HOSTILE = "\x1b]0;taken\x07\x1b[2J\x9b31m\x00\r\b\x7f\n\u202e\u2066\u200f\u200b\u2028\ufeff\U000e0041 end"
ESCAPED = r"\x1b]0;taken\x07\x1b[2J\x9b31m\x00\x0d\x08\x7f\x0a\u202e\u2066\u200f\u200b\u2028\ufeff\U000e0041 end"


def _harmless(text: str) -> bool:
    """Whether a terminal would only show it, but for line ends and what rich colours with."""
    return not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text)


@given(text=st.text(st.characters()))
def test_whatever_the_text_what_is_shown_of_it_can_be_seen(text: str) -> None:
    assert _harmless(visible(text).replace("\N{ZERO WIDTH JOINER}", ""))
    assert _harmless(visible_lines(text).replace("\N{ZERO WIDTH JOINER}", "").replace("\n", ""))
    if text.isprintable():
        assert visible(text) == text


def test_what_cannot_be_seen_is_told_by_its_number() -> None:
    assert visible(HOSTILE) == ESCAPED
    assert visible("half \ud800") == r"half \ud800"


def test_emoji_of_several_parts_stay_whole() -> None:
    family = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
    assert visible(family) == family


def test_a_long_text_is_shortened_with_its_size() -> None:
    assert shortened("\x1b" * 2000, 2) == r"\x1b\x1b… (2,000 characters)"
    assert shortened("abc", 3) == "abc"


@given(value=st.dictionaries(st.text(), st.text() | st.integers(-(2**63), 2**64 - 1), max_size=3))
def test_a_line_of_json_says_the_same_and_can_be_seen(value: dict[str, object]) -> None:
    line = json_line(value)
    assert json.loads(line) == value
    assert line.endswith(b"\n")
    assert _harmless(line[:-1].decode())


@pytest.fixture(scope="module")
def gateway(valkey: RedisServer) -> Iterator[GatewayProcess]:
    with GatewayProcess(valkey.url) as gateway:
        yield gateway


@pytest.fixture
def hostile(valkey: RedisServer, node: str) -> str:
    """A node that has put what it could everywhere; its last status is `last`."""
    name = f"{node}\u202e\u2066"
    streamer = StateStreamer(name, NodeSettings(redis_url=valkey.url))
    streamer.update(HOSTILE, {"job": "job\u202e", HOSTILE: HOSTILE, "in": {HOSTILE: [HOSTILE]}})
    streamer.update("last", {})
    streamer.close()
    return name


def _at_terminal(*arguments: str, until: str) -> str:
    """Run a program with its output on a terminal until that shows a text; what it showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        arguments, env=environment(TERM="xterm-256color"), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while until.encode() not in shown:
            assert select.select([ours], [], [], DEADLINE_S)[0], f"it stopped after {shown!r}"
            shown += os.read(ours, 65536)
    except OSError as error:
        raise AssertionError(f"it ended after {shown!r}") from error
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown.decode()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_terminal_on_which_a_hostile_node_is_watched_shows_it_and_obeys_nothing(
    gateway: GatewayProcess, hostile: str, options: list[str]
) -> None:
    shown = _at_terminal(*command("watch", hostile, "--gateway-url", gateway.url, *options), until="last")
    for line in shown.split("\r\n"):
        text = _without_colours(line)
        assert _harmless(text), text
    if options:
        first = json.loads(shown.split("\r\n")[0])
        assert first["status"] == HOSTILE
        assert first["state"][HOSTILE] == HOSTILE
    else:
        assert ESCAPED in _without_colours(shown)


def _without_colours(text: str) -> str:
    for number in (*range(10), *range(30, 38), *range(90, 98)):
        for start in ("", "1;", "2;"):
            text = text.replace(f"\x1b[{start}{number}m", "")
    return text


LOGGING = """
import logging
from workers.logs import {configure}
{configure}()
log = logging.getLogger("streamer.gateway")
hostile = {hostile!r}
try:
    raise ValueError(hostile)
except ValueError:
    log.exception("reading %s failed: %s", hostile, hostile)
log.warning(hostile)
log.warning("last")
"""


@pytest.mark.parametrize("configure", ["configure_logs", "log_sentences"])
def test_a_terminal_that_gets_a_log_shows_it_and_obeys_nothing(configure: str) -> None:
    program = LOGGING.format(configure=configure, hostile=HOSTILE)
    shown = _at_terminal(*command()[:1], "-c", program, until="last")
    for line in shown.split("\r\n"):
        text = _without_colours(line)
        assert _harmless(text), text
    assert r"\x1b]0;taken" in shown
    assert "Traceback" in shown


def test_a_log_for_machines_is_json_that_cannot_be_mistaken() -> None:
    program = LOGGING.format(configure="configure_logs", hostile=HOSTILE)
    done = subprocess.run(
        [*command()[:1], "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    lines = done.stderr.rstrip("\n").split("\n")
    assert [json.loads(line)["event"] for line in lines][1:] == [HOSTILE, "last"]
    assert all(map(_harmless, lines))


def test_what_is_refused_is_told_without_what_would_move_the_cursor() -> None:
    for arguments in (["publish", "node", "x" * 2000], ["publish", "no" + HOSTILE.replace("\0", "") + "de", "status"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert all(map(_harmless, done.stderr.rstrip("\n").split("\n")))
