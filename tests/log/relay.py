"""A relay before a store, which can fall silent as a broken network does: nothing comes, nothing ends."""

from __future__ import annotations

import asyncio
from types import TracebackType
from urllib.parse import urlsplit


class Relay:
    """Passes bytes on between clients and a store; an async context manager.

    ``silent_connections`` is how many of the next connections are accepted and then get no answer.
    """

    def __init__(self, store_url: str, silent_connections: int = 0) -> None:
        self.silent_connections = silent_connections
        self.accepted = 0
        self._store = urlsplit(store_url)
        self._silent: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Condition()
        self._passed = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def fall_silent(self) -> None:
        """Pass nothing on any more of the connections there are; those that come are served."""
        self._silent |= self._clients

    async def passed_on(self, times: int) -> None:
        """Return once so many more pieces, questions and answers, were passed on."""
        goal = self._passed + times
        async with asyncio.timeout(20), self._passing:
            await self._passing.wait_for(lambda: self._passed >= goal)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._clients.add(writer)
        if self.silent_connections > 0:
            self.silent_connections -= 1
            self._silent.add(writer)
        store_reader, store_writer = await asyncio.open_connection(self._store.hostname, self._store.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, store_writer, writer))
                group.create_task(self._pass_on(store_reader, writer, writer))
        finally:
            self._clients.discard(writer)
            writer.close()
            store_writer.close()

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(65536):
            if client not in self._silent:
                target.write(data)
                async with self._passing:
                    self._passed += 1
                    self._passing.notify_all()
        raise ConnectionResetError

    def _start(self, serving: object) -> None:
        task = asyncio.get_running_loop().create_task(serving)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # that a connection ended is no error
