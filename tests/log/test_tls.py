"""A Redis behind TLS, which shows a certificate and wants one of its clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamer.core.cursor import START
from streamer.core.errors import LogUnavailable
from streamer.core.names import Topic
from streamer.log.keys import Keys
from streamer.log.node_log import NodeLog
from streamer.log.reading import Reader
from streamer.log.subscribing import Subscriber
from tests.certificates import Certificates, query
from tests.log.test_subscribing import Recorder
from tests.log.writing import Writer, indexes
from tests.servers import TLS_KIND, RedisServer


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[RedisServer]:
    with RedisServer(TLS_KIND, certificates=certificates) as server:
        yield server


async def test_the_log_works_over_tls_with_certificates_on_both_sides(server: RedisServer, node: str) -> None:
    place = server.url
    subscriber, reader, recorder = Subscriber(place), Reader(place, Keys()), Recorder()
    await subscriber.subscribe(Keys().records(Topic(node)), recorder)
    with NodeLog(place, Keys(), node) as log:
        Writer(log).append("job", None)
    await recorder.until(lambda recorder: recorder.messages)
    assert indexes((await reader.read(Topic(node), START)).updates) == [0, 1]
    await subscriber.aclose()
    await reader.aclose()


@pytest.mark.parametrize(
    ("host", "files", "says"),
    [
        ("127.0.0.1", {"ca_certs": "ca.crt"}, "required|closed|reset|does not answer"),
        ("127.0.0.1", {"ca_certs": "stranger.crt", "certfile": "client.crt", "keyfile": "client.key"}, "certificate"),
        ("localhost", {"ca_certs": "ca.crt", "certfile": "client.crt", "keyfile": "client.key"}, "[Hh]ostname|match"),
        ("127.0.0.1", {"ca_certs": "none.crt"}, "No such file"),
    ],
    ids=["no certificate of the client", "another authority", "another name", "no such file"],
)
async def test_what_does_not_fit_is_refused_with_a_sentence(
    server: RedisServer, certificates: Certificates, host: str, files: dict[str, str], says: str
) -> None:
    place = f"rediss://{host}:{server.port}/0" + query(**{k: certificates.path(file) for k, file in files.items()})
    with NodeLog(place, Keys(), "n") as log, pytest.raises(LogUnavailable, match=says):
        log.read(None, START)
    reader = Reader(place, Keys())
    with pytest.raises(LogUnavailable, match=says):
        await reader.ping()
    await reader.aclose()
