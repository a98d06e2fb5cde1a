"""The client without `async`, for scripts and notebooks: the same one, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, overload

from streamer.client.connecting import Options, connect
from streamer.client.errors import ClientClosed
from streamer.client.follow import Follow
from streamer.client.messages import Event, Update
from streamer.core.names import Topic

T = TypeVar("T", bound=Event, covariant=True)


def connect_sync(url: str | Sequence[str], **options: Unpack[Options]) -> SyncClient:
    """Make a client for programs without `async`, with the options of `connect`. It connects as a context manager:

        with connect_sync("ws://127.0.0.1:8080") as client:
            for update in client.follow("node1", job="job1"):
                print(update.index, update.status, update.state)

    Its work is done in a thread of its own, which is where ``notify`` is called. Raises InvalidSetting.
    """
    return SyncClient(url, **options)


class SyncClient:
    """`Client` for programs without `async`: made by `connect_sync`, for any thread."""

    def __init__(self, url: str | Sequence[str], **options: Unpack[Options]) -> None:
        self._client = connect(url, **options)
        self._thread = threading.Thread(target=self._run, name="streamer-client", daemon=True)
        self._started = threading.Event()
        self._entered: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._living: asyncio.Task[None] | None = None
        self._starting = threading.Lock()
        self._fetches: dict[Future[bool], Coroutine[Any, Any, bool]] = {}

    def __enter__(self) -> Self:
        """Connect. Raises as the entering of `Client` does."""
        if self._thread.ident is not None:
            raise ClientClosed("a client can be entered once; `connect_sync` gives a new one")
        self._thread.start()
        try:
            self._entered.result()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all follows, whose loops end, and the connection, at once. From any thread; twice changes nothing."""
        if self._thread.ident is None:
            return
        self._started.wait()
        assert self._loop is not None
        assert self._living is not None
        try:
            self._loop.call_soon_threadsafe(self._living.cancel)
        except RuntimeError:
            return  # its loop has ended
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @overload
    def follow(
        self,
        node: str,
        job: str | None = None,
        *,
        after: str | int | None = None,
        history: str | int = "all",
        events: Literal[False] = False,
    ) -> SyncFollow[Update]: ...

    @overload
    def follow(
        self,
        node: str,
        job: str | None = None,
        *,
        after: str | int | None = None,
        history: str | int = "all",
        events: Literal[True],
    ) -> SyncFollow[Event]: ...

    def follow(
        self,
        node: str,
        job: str | None = None,
        *,
        after: str | int | None = None,
        history: str | int = "all",
        events: bool = False,
    ) -> SyncFollow[Any]:
        """Follow a node, or a job of it: `Client.follow`, as an iterator."""
        follow: Follow[Any] = self._client.follow(node, job, after=after, history=history, events=events)  # type: ignore[call-overload]
        return SyncFollow(follow, self)

    def start(self, follow: Follow[Any]) -> Future[bool]:
        """Begin to fetch more of a follow: there is none where the client is closed meanwhile. Raises ClientClosed."""
        fetch = follow.fetch()
        with self._starting:
            try:
                if self._loop is None:
                    raise RuntimeError
                fetching = asyncio.run_coroutine_threadsafe(fetch, self._loop)
            except RuntimeError:
                fetch.close()
                raise ClientClosed(
                    "the client is closed, or not entered yet: use it in `with connect_sync(…)`"
                ) from None
            self._fetches[fetching] = fetch
        fetching.add_done_callback(lambda _: self._fetches.pop(fetching, None))
        return fetching

    def _run(self) -> None:
        asyncio.run(self._live())
        with self._starting:
            # What came between the loop's last turn and its end would never be answered.
            for fetching, fetch in list(self._fetches.items()):
                fetch.close()
                if not fetching.done():
                    fetching.set_result(False)

    async def _live(self) -> None:
        self._loop, self._living = asyncio.get_running_loop(), asyncio.current_task()
        self._started.set()
        try:
            async with self._client:
                self._entered.set_result(None)
                await self._loop.create_future()  # until it is cancelled
        except asyncio.CancelledError:
            if not self._entered.done():
                self._entered.set_exception(ClientClosed("the client was closed before it had connected"))
        except Exception as error:
            self._entered.set_exception(error)


class SyncFollow(Generic[T]):
    """`Follow` as an iterator, for one thread at a time. A step that Ctrl-C interrupts takes nothing away."""

    def __init__(self, follow: Follow[T], client: SyncClient) -> None:
        self._follow, self._client = follow, client
        self._fetching: Future[bool] | None = None

    @property
    def topic(self) -> Topic:
        """What is followed."""
        return self._follow.topic

    @property
    def cursor(self) -> str | None:
        """The position behind the last update that was handed out: see `Follow.cursor`."""
        return self._follow.cursor

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next update; with ``events``, the next event. Raises as a step of `Follow` does."""
        while self._fetching is not None or (event := self._follow.at_hand()) is None:
            if not self._fetch():
                raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End: what has come and was not taken is dropped. From any thread; twice changes nothing."""
        self._follow.end()

    def _fetch(self) -> bool:
        try:
            if self._fetching is None:
                self._fetching = self._client.start(self._follow)
            more = self._fetching.result()
        except ClientClosed:
            if not self._follow.begun:
                raise
            more = False
        except CancelledError:
            more = False
        except Exception:
            self._fetching = None
            raise
        self._fetching = None
        return more
