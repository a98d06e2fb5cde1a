"""The clients of the benchmarks: nothing that is wrong may pass them, and what is right must."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from streamer.core.messages import text_frame
from tests.benchmarks.building import COMPILER, Programs, build
from tests.benchmarks.clients import Clients, NotWhole, Report
from tests.benchmarks.lab import content_of
from tests.benchmarks.publishers import message
from tests.servers import missing
from workers.bench.content import Content
from workers.local_parts import Parts

QUIET_S = 1.0
UPDATES = 6
CONTENT = content_of(UPDATES)
WHOLE = range(UPDATES)
PING = b"\x89\x02hi"
CLOSE = b"\x88\x02\x0f\xa3"  # 4003


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    if shutil.which(COMPILER) is None:
        missing(COMPILER)
    return build(tmp_path_factory.mktemp("programs"))


def frames(numbers: Sequence[int], content: Content = CONTENT) -> bytes:
    return b"".join(text_frame(message(content, number)) for number in numbers)


@asynccontextmanager
async def serving(stream: Callable[[int], bytes], piece: int = 1 << 16) -> AsyncIterator[int]:
    """A server that sends to each connection, by its number, a stream of bytes in pieces; gives its port."""
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b"HTTP/1.1 101 Switching Protocols\r\nX: y\r\n\r\n" + stream(len(connections))
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(data), piece):
            writer.write(data[at : at + piece])
            await asyncio.sleep(0)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        for writer in connections:
            writer.close()


async def report(programs: Programs, directory: Path, port: int, *options: object) -> Report:
    """What the clients find, that the server of that port serves."""
    arguments = ["--port", port, "--updates", UPDATES, "--timeout", QUIET_S, *options]

    def run() -> Report:
        with (
            Parts(directory, {}) as parts,
            closing(Clients(parts, [str(programs.load), *map(str, arguments)])) as clients,
        ):
            return clients.report()

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
async def test_a_whole_stream_is_whole_however_it_is_cut(programs: Programs, tmp_path: Path, piece: int) -> None:
    async with serving(lambda _: PING + frames([0, 1]) + PING + frames([2, 3, 4, 5]), piece) as port:
        found = await report(programs, tmp_path, port, "--clients", 3)
    assert (found.whole, found.fault) == (3, "")
    assert found.delivered == 3 * UPDATES
    assert found.pings == 6


@pytest.mark.parametrize(
    ("numbers", "skipped", "repeated", "fault"),
    [
        ([0, 1, 3, 4, 5], 1, 0, "client 1 got index 3 where 2 was due"),
        ([1, 2, 3, 4, 5], 1, 0, "client 1 got index 1 where 0 was due"),
        ([0, 1, 2, 3, 4], 0, 0, "client 1 got 5 updates, and not the last that it is owed"),
        ([], 0, 0, "client 1 got 0 updates, and not the last that it is owed"),
        ([0, 1, 1, 2, 3, 4, 5], 0, 1, "client 1 got index 1 where 2 was due"),
        ([0, 1, 2, 3, 4, 5, 5], 0, 1, "client 1 got index 5 where 6 was due"),
        ([0, 2, 1, 3, 4, 5], 1, 1, "client 1 got index 2 where 1 was due"),
        ([0, 1, 2, 3, 5, 4], 1, 1, "client 1 got index 5 where 4 was due"),
    ],
)
async def test_lost_doubled_and_swapped_updates_are_noticed_at_the_one_client_that_has_them(
    programs: Programs, tmp_path: Path, numbers: list[int], skipped: int, repeated: int, fault: str
) -> None:
    async with serving(lambda client: frames(numbers if client == 1 else WHOLE)) as port:
        found = await report(programs, tmp_path, port, "--clients", 3, "--at-once", 1)
    assert (found.whole, found.skipped, found.repeated, found.fault) == (2, skipped, repeated, fault)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (frames([0, 1]) + frames([2], content_of(UPDATES, 2)), "client 0 got index 2 with previous 0"),
        (frames([0]) + text_frame(b'{"x": 1}'), "client 0 got what was never published: { x : 1}"),
        (frames([*WHOLE, UPDATES]), "client 0 got what was never published: { status"),
        (frames([0]) + CLOSE, "client 0 was closed with code 4003 after 1 updates"),
        (frames([0]) + b"\x82\x01x", "client 0 got a frame of a kind that no gateway sends: 82"),
    ],
)
async def test_what_no_gateway_may_send_is_noticed(programs: Programs, tmp_path: Path, data: bytes, fault: str) -> None:
    async with serving(lambda _: data) as port:
        found = await report(programs, tmp_path, port)
    assert found.whole == 0
    assert found.fault.startswith(fault)


async def test_a_jobs_watcher_is_owed_that_jobs_updates_alone(programs: Programs, tmp_path: Path) -> None:
    content = content_of(UPDATES, 2)
    options = ("--clients", 2, "--jobs", 2, "--per-job", "--at-once", 1)
    async with serving(lambda job: frames(range(job, UPDATES, 2), content)) as port:
        found = await report(programs, tmp_path, port, *options)
    assert (found.whole, found.delivered) == (2, UPDATES)
    async with serving(lambda job: frames([0, 4] if job == 0 else [1, 2, 3, 5], content)) as port:
        found = await report(programs, tmp_path, port, *options)
    assert (found.whole, found.skipped, found.malformed) == (0, 1, 1)


async def test_a_refused_client_is_noticed(programs: Programs, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = await report(programs, tmp_path, port)
    assert found.fault.startswith("client 0 could not connect")


def test_what_was_wrong_is_said_in_a_sentence(tmp_path: Path, programs: Programs) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,  # takes the connection, and never answers
        Parts(tmp_path, {}) as parts,
        closing(
            Clients(parts, [str(programs.load), "--port", str(server.getsockname()[1]), "--timeout", str(QUIET_S)])
        ) as clients,
        pytest.raises(NotWhole) as error,
    ):
        clients.wait_open()
    assert str(error.value) == (
        "0 of 1 clients got everything once and in order; first of all, client 0 got no answer to its handshake"
    )
