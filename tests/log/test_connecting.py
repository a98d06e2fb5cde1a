"""Connections: which URLs are taken, what is said of the others, and what becomes of redis-py's errors."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
import redis

from streamer.core.cursor import START
from streamer.core.errors import InvalidSetting, LogUnavailable
from streamer.core.names import Topic
from streamer.log.blocking_client import BlockingClient
from streamer.log.client import Client
from streamer.log.connecting import unavailable_as_error
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber
from streamer.log.url import check_url, without_password
from tests.log.writing import KEYS, Writer, indexes
from tests.servers import RedisServer, free_port, redis_command, wait_until

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "redis://localhost",
        "redis://[::1]:6379/1",
        "redis://user:password@redis.example.org:6380/2",
        "redis://:p%40ss%2Fword@h/0",
        "rediss://h:6379/0",
        "unix:///run/redis.sock",
        "unix://user:password@/run/redis.sock?db=1",
        "redis://h/0?health_check_interval=10",
        "redis://h?db=3&username=user&password=p%40ss&client_name=me",
        "rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
        "unix:///run/a@b.sock",
        "redis://bücher.example",
        "redis+sentinel://h1:26379,h2:26379,h3:26379/mymaster/0",
        "redis+sentinel://user:password@h1,[::1]:26380/my%20master?sentinel_password=x",
        "rediss+sentinel://h/mymaster?ssl_ca_certs=/ca.pem",
        "redis+cluster://h1:6379,h2:6379",
        "redis+cluster://user:password@h1:6379/0",
        "rediss+cluster://h1?ssl_certfile=/cert.pem&ssl_keyfile=/key.pem",
    ],
)
async def test_a_url_of_a_redis_is_taken_as_it_is(url: str) -> None:
    assert check_url(url) == url
    BlockingClient(url).close()
    await Client(url).aclose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "it should look like redis://HOST:PORT/0"),
        ("localhost", "it should look like redis://HOST:PORT/0"),
        ("localhost:6379", "it should look like redis://HOST:PORT/0"),
        ("http://h:6379", "it should look like redis://HOST:PORT/0"),
        ("redis://", "it should look like redis://HOST:PORT/0"),
        ("redis:", "it should look like redis://HOST:PORT/0"),
        ("unix://", "it should look like redis://HOST:PORT/0"),
        ("redis://h:0", "it should look like redis://HOST:PORT/0"),
        ("redis://h:port", "[Pp]ort"),
        ("redis://h:65536", "[Pp]ort"),
        ("redis://h:-1", "[Pp]ort"),
        ("redis://[::1", "IPv6"),
        ("redis:h:6379", "it should look like redis://HOST:PORT/0"),
        ("redis:/h:6379", "it should look like redis://HOST:PORT/0"),
        ("unix:/run/redis.sock", "it should look like redis://HOST:PORT/0"),
        ("redis://h/zero", "with a number as the database"),
        ("redis://h/0/1", "with a number as the database"),
        ("redis://h?db=-1", "with a number as the database"),
        ("redis://h?db=zero", "with numbers for db"),
        ("redis://h?no_such_option=1", "with no other options than client_name, db,"),
        ("redis://h?socket_timeout=5", "with no other options than"),
        ("redis://h?protocol=3", "with no other options than"),
        ("redis://h?decode_responses=1", "with no other options than"),
        ("redis://h?max_connections=1", "with no other options than"),
        ("redis://h?ssl_cert_reqs=none", "with no other options than"),
        ("rediss://h?ssl_cert_reqs=perhaps", "with none, optional or required for ssl_cert_reqs"),
        ("redis://h/0#1", "what is special in a password escaped"),
        ("redis://a..b:1/0", "with the name or the address of a host"),
        (f"redis://{'a' * 70}:1/0", "with the name or the address of a host"),
        ("redis://a b", "with the name or the address of a host"),
        ("redis://h\x00:1/0", "with the name or the address of a host"),
        ("unix:///run/%00", "or the path of a socket"),
        ("unix://run/redis.sock", "unix:///PATH"),
        ("REDIS://127.0.0.1:1/0", "it should look like redis://HOST:PORT/0"),
        ("unix+cluster:///run/redis.sock", "it should look like redis://HOST:PORT/0"),
        ("redis+nonsense://h", "it should look like redis://HOST:PORT/0"),
        ("redis+sentinel://h1:26379,h2:26379", "with what Sentinels call the master behind their addresses"),
        ("redis+sentinel://h1:26379/", "with what Sentinels call the master behind their addresses"),
        ("redis+sentinel://h1:26379/mymaster/one", "with a number as the database"),
        ("redis+sentinel://h1:26379,/mymaster", "it should look like redis://HOST:PORT/0"),
        ("redis+sentinel://h1:port,h2/mymaster", "[Pp]ort"),
        ("redis+sentinel://h1/mymaster?socket_timeout=1", "with no other options than .*sentinel_password"),
        ("redis+cluster://", "it should look like redis://HOST:PORT/0"),
        ("redis+cluster://h1,h2/1", "with database 0, the only one that a cluster has"),
        ("redis+cluster://h1?db=2", "with database 0, the only one that a cluster has"),
        ("redis+cluster://h1/nodes", "with a number as the database"),
        ("redis+cluster://h1?sentinel_username=x", "with no other options than"),
    ],
)
async def test_any_other_url_is_refused_at_once_with_a_sentence(url: str, says: str) -> None:
    for make in (BlockingClient, Client, check_url, Subscriber, lambda url: Reader(url, KEYS)):
        with pytest.raises(InvalidSetting, match=says) as raised:
            make(url)
        assert repr(url) in str(raised.value)
        assert "no URL of a Redis" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://user@h:1/0", "redis://user@h:1/0"),
        (f"redis://user:{SECRET}@h:1/0", "redis://user:***@h:1/0"),
        (f"redis://:{SECRET}@h", "redis://:***@h"),
        (f"rediss://user:{SECRET}@{SECRET}@h/0", "rediss://user:***@h/0"),
        (f"unix://user:{SECRET}@/run/redis.sock", "unix://user:***@/run/redis.sock"),
        (f"redis://h:1/0?db=1&password={SECRET}", "redis://h:1/0?db=1&password=***"),
        (f"redis://user:{SECRET}@h?password={SECRET}&more={SECRET}", "redis://user:***@h?password=***"),
        (f"rediss://h:1/0?ssl_password={SECRET}", "rediss://h:1/0?ssl_password=***"),
        (f"redis://h?PASSWORD={SECRET}", "redis://h?PASSWORD=***"),
        (f"redis://h?p%61ssword={SECRET}", "redis://h?p%61ssword=***"),
        (f"redis://h:1/0?password=a@{SECRET}", "redis://h:***"),
        (f"redis://user@h:1/0?password={SECRET}@{SECRET}", "redis://user@h:***"),
        ("redis+cluster://h1:1,h2:2", "redis+cluster://h1:1,h2:2"),
        (f"redis+sentinel://user:{SECRET}@h1:1,h2:2/m/0", "redis+sentinel://user:***@h1:1,h2:2/m/0"),
        (f"redis+sentinel://h1:1/m?sentinel_password={SECRET}", "redis+sentinel://h1:1/m?sentinel_password=***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@h",
        f"redis://user:{SECRET}@h:port",
        f"redis://user:{SECRET}@h:0",
        f"redis://user:{SECRET}@[h",
        f"redis://user:{SECRET}/more@h:1/0",
        f"redis://:{SECRET}#more@h:1/0",
        f"redis://:{SECRET}?more@h:1/0",
        f"redis://user:{SECRET}\u2100@h:1/0",
        f"user:{SECRET}@h:6379",
        f"redis:/user:{SECRET}@h:6379",
        f"redis//user:{SECRET}@h:6379",
        f"redis://h:port?password={SECRET}",
        f"redis://h:port?password=a&{SECRET}=b",
        f"redis://h?db=zero&password={SECRET}",
        f"redis://h?{SECRET}@password",
        f"redis://:a?password={SECRET}@h",
        f"redis://h?passwort={SECRET}",
        f"redis+cluster://user:{SECRET}@h1:port,h2",
        f"redis+sentinel://user:{SECRET}/more@h1,h2",
        f"redis+sentinel://user:{SECRET}@h1/m?sentinel_password={SECRET}&nonsense=1",
    ],
)
def test_a_password_is_not_shown_where_the_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        check_url(url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://user:{}@127.0.0.1:1/0", "redis://127.0.0.1:1/0?username=user&password={}"])
async def test_a_password_is_not_shown_where_redis_cannot_be_reached(url: str) -> None:
    url = url.format(SECRET)
    with NodeLog(url, Keys(), "n") as log, pytest.raises(LogUnavailable) as raised:
        log.read(None, START)
    assert SECRET not in str(raised.value)
    reader = Reader(url, Keys())
    with pytest.raises(LogUnavailable) as raised:
        await reader.ping()
    assert SECRET not in str(raised.value)
    await reader.aclose()


async def test_a_wrong_password_is_told_and_not_shown(real_store: RedisServer) -> None:
    url = real_store.url.replace("redis://", f"redis://user:{SECRET}@")
    says = r"redis://user:\*\*\*@127.0.0.1:\d+/0 does not answer as it should: it refuses the user or the password"
    reader = Reader(url, Keys())
    for attempt in (reader.ping(), reader.nodes()):
        with pytest.raises(LogUnavailable, match=says) as raised:
            await attempt
        assert SECRET not in str(raised.value)
    await reader.aclose()


async def test_a_password_that_is_wanted_is_asked_for(own_store: RedisServer, node: str) -> None:
    says = (
        "it wants a password: put it into STREAMER_REDIS_PASSWORD or into the URL, as in redis://:PASSWORD@HOST:PORT/0"
    )
    with own_store.client() as client:
        client.config_set("requirepass", SECRET)
        reader = Reader(own_store.url, Keys())
        with pytest.raises(LogUnavailable, match=says):
            await reader.ping()
        await reader.aclose()
        with NodeLog(own_store.url, Keys(), node) as log, pytest.raises(LogUnavailable, match=says):
            log.clear()
        with NodeLog(own_store.url.replace("//", f"//:{SECRET}@"), Keys(), node) as log:
            log.clear()
        with NodeLog(own_store.url + f"?password={SECRET}", Keys(), node) as log:
            log.clear()


async def test_a_server_that_is_no_redis_is_told(node: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        reader = Reader(url, Keys())
        with pytest.raises(LogUnavailable, match="what answers there is no Redis"):
            await reader.ping()
        await reader.aclose()
        with NodeLog(url, Keys(), node) as log, pytest.raises(LogUnavailable, match="what answers there is no Redis"):
            await asyncio.to_thread(log.clear)


async def test_a_server_that_is_not_there_is_unavailable_for_now(node: str) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with (
        NodeLog(url, Keys(), node) as log,
        pytest.raises(LogUnavailable, match="does not answer") as raised,
    ):
        log.read(None, START)
    assert raised.value.temporary
    reader = Reader(url, Keys())
    with pytest.raises(LogUnavailable, match="does not answer as it should"):
        await reader.ping()
    await reader.aclose()


async def test_a_host_that_has_no_address_is_unavailable_for_now() -> None:
    with NodeLog("redis://no-such-host.invalid/0", Keys(), "n") as log, pytest.raises(LogUnavailable, match="invalid"):
        log.clear()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "it takes too long"),
        (ConnectionResetError(), "ConnectionResetError"),
        (TimeoutError("text"), "text"),
        (redis.RedisError("text"), "text"),
    ],
)
def test_an_error_is_told_by_its_text_and_one_without_gets_one(error: Exception, says: str) -> None:
    with pytest.raises(LogUnavailable, match=f"should: {says}$"), unavailable_as_error("redis://h"):
        raise error


def test_errors_that_are_not_of_redis_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), unavailable_as_error("redis://h"):
        raise ZeroDivisionError


async def test_a_socket_in_the_file_system_works_as_well(tmp_path: Path, node: str) -> None:
    path = tmp_path / "redis.sock"
    url = f"unix://{path}"
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    command = redis_command("valkey") or redis_command("redis")
    assert command is not None
    with subprocess.Popen([command, *options], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until("the socket is there", path.exists)
            with NodeLog(url, Keys(), node) as log:
                Writer(log).append("job")
            reader = Reader(url, Keys())
            assert indexes((await reader.read(Topic(node), START)).updates) == [0]
            await reader.aclose()
            subscriber = Subscriber(url)
            await subscriber.subscribe(node, Silent())
            assert subscriber.connected
            await subscriber.aclose()
        finally:
            process.kill()


class Silent:
    """A listener that does nothing."""

    def take(self, messages: list[bytes]) -> None: ...

    def interrupted(self) -> None: ...


def test_a_prefix_with_braces_is_refused() -> None:
    for prefix in ("a{b", "a}b", "{}"):
        with pytest.raises(InvalidSetting, match="the prefix of keys cannot hold braces"):
            Keys(prefix)
