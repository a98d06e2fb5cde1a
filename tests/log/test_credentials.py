"""The user and the password of Redis, from the environment or from a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from streamer import NodeSettings, StateStreamer
from streamer.core.errors import InvalidSetting
from streamer.log.credentials import add_credentials
from streamer.log.url import parse, without_password
from tests.commands import DEADLINE_S, command, environment
from tests.servers import RedisServer

SECRET = "s3cr3t"
PASSWORD = {"STREAMER_REDIS_PASSWORD": SECRET}


def credentials(url: str) -> tuple[str | None, str | None]:
    """The user and the password that a URL has."""
    place = parse(url)
    options = place.options(place.addresses[0])
    return options.get("username"), options.get("password")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/0",
        "redis://h",
        "redis://h?db=3",
        "rediss://h/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock",
        "redis+sentinel://a:1,b:2/service/0",
        "redis+cluster://a:1,b:2",
        "rediss+cluster://a:1?client_name=me",
    ],
)
@pytest.mark.parametrize("password", [SECRET, "ü&=@:/?#%20 +"])
def test_a_url_of_every_kind_gets_them(url: str, password: str) -> None:
    environ = {"STREAMER_REDIS_USERNAME": "user", "STREAMER_REDIS_PASSWORD": password}
    complete = add_credentials(url, environ)
    assert credentials(complete) == ("user", password)
    assert credentials(add_credentials(url, {"STREAMER_REDIS_PASSWORD": password})) == (None, password)
    assert password not in without_password(complete)
    assert parse(complete).addresses == parse(url).addresses
    assert add_credentials(url, {}) == url


def test_what_the_url_has_stays() -> None:
    environ = {"STREAMER_REDIS_USERNAME": "user", **PASSWORD}
    for url in ("redis://own:word@h", "redis://h?username=own&password=word", "redis+cluster://own:word@a:1,b:2"):
        assert credentials(add_credentials(url, environ)) == ("own", "word")
    assert credentials(add_credentials("redis://own@h", environ)) == ("own", SECRET)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_password_may_be_in_a_file(tmp_path: Path, ending: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(f" {SECRET} ".encode() + ending.encode())
    complete = add_credentials("redis://h", {"STREAMER_REDIS_PASSWORD_FILE": str(file)})
    assert credentials(complete) == (None, f" {SECRET} ")


def test_what_cannot_be_read_is_told_with_a_sentence_that_shows_no_secret(tmp_path: Path) -> None:
    for content, says in ((None, "cannot be read: No such file"), (b"", "is empty"), (b"\xff", "it is no text")):
        file = tmp_path / "password"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InvalidSetting, match=f"^STREAMER_REDIS_PASSWORD_FILE: .*{says}"):
            add_credentials("redis://h", {"STREAMER_REDIS_PASSWORD_FILE": str(file)})
    with pytest.raises(InvalidSetting, match="both set") as raised:
        add_credentials("redis://h", {**PASSWORD, "STREAMER_REDIS_PASSWORD_FILE": str(tmp_path)})
    assert SECRET not in str(raised.value)


def test_the_settings_have_them_and_do_not_show_them() -> None:
    settings = NodeSettings.from_environ(PASSWORD)
    assert credentials(settings.redis_url) == (None, SECRET)
    assert SECRET not in repr(settings)


def test_the_commands_take_them(own_valkey: RedisServer, node: str, tmp_path: Path) -> None:
    with own_valkey.client() as client:
        client.config_set("requirepass", SECRET)
    (tmp_path / "password").write_text(SECRET)
    environ = {"STREAMER_REDIS_PASSWORD_FILE": str(tmp_path / "password"), "STREAMER_REDIS_URL": own_valkey.url}
    publish = command("publish", node, "hello")
    result = subprocess.run(publish, env=environment(**environ), capture_output=True, text=True, timeout=DEADLINE_S)
    assert (result.returncode, SECRET in result.stdout + result.stderr) == (0, False)
    streamer = StateStreamer(node, NodeSettings.from_environ(environ))
    assert [update.status for update in streamer.states()] == ["hello"]
