"""Asks the Redis that a URL means, for one thread: a single server, Sentinels' master, or a cluster."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, TryAgainError

from streamer.log.client import FRESH_S, LOOK_S, TRIES, TRY_AGAIN_S
from streamer.log.connecting import connect
from streamer.log.routing import Masters, OneServer, Route, Slots, redirected
from streamer.log.scripts import Request, sha, source
from streamer.log.url import Address, Kind, parse

LOOKER = "streamer-sentinels"
"""What threads are called that ask Sentinels."""

Words = tuple[Any, ...]
"""A command."""


class BlockingClient:
    """Sends commands to the servers that have their keys; for one thread at a time. A context manager that closes it.

    It goes where servers send it, but retries no connection: its owner does, with another client. Raises InvalidSetting
    where the URL is none that we know. Its methods raise redis-py's errors and OSError. While it is used, it asks
    Sentinels again every `FRESH_S`, in a thread of its own that ends with their answer.
    """

    def __init__(self, url: str) -> None:
        self._place = parse(url)
        self._addresses = self._place.addresses
        self._servers: dict[Address, redis.Redis] = {}
        self._route: Route | None = None
        self._masters = Masters()
        self._looked_at = 0.0
        self._looker: threading.Thread | None = None
        if self._place.kind is Kind.SERVER:
            self._route = OneServer(self._addresses[0])

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def sharded(self) -> bool:
        """Whether channels are sharded, as keys are."""
        return self._place.kind is Kind.CLUSTER

    def ask_one(self, key: str, *words: Any, then: Words = ()) -> Any:
        """Send a command, and return the reply. With another one ``then``, both go to one connection: see `_send`."""
        failure: Exception | None = None
        for attempt in range(1, TRIES + 1):
            try:
                address = self._server_of(key)
                return self._send(address, words, then)
            except MovedError as error:
                failure = error
                if isinstance(self._route, Slots):
                    self._route = self._route.moved(int(error.slot_id), redirected(error, address))
            except (TryAgainError, ClusterDownError) as error:
                failure = error
                self._forget()
                time.sleep(TRY_AGAIN_S * attempt)
            except (redis.RedisError, OSError):
                # As where a master is none any more.
                self._forget()
                raise
        assert failure is not None
        raise failure

    def run(self, script: str, request: Request, then: Words = ()) -> Any:
        """Run a script of this room, and return its reply. With a command ``then``, see `ask_one`."""
        words = len(request.keys), *request.keys, *request.args
        try:
            return self.ask_one(request.keys[0], "EVALSHA", sha(script), *words, then=then)
        except NoScriptError:
            return self.ask_one(request.keys[0], "EVAL", source(script), *words, then=then)

    def run_all(self, script: str, requests: Sequence[Request]) -> None:
        """Run a script of this room once for each request, those for one server together; of several, in any order.

        Raises an error of the first that fails; others may have been run then.
        """
        groups: dict[Address, list[Request]] = {}
        try:
            for request in requests:
                groups.setdefault(self._server_of(request.keys[0]), []).append(request)
            for address, (first, *others) in groups.items():
                self.run(script, first)  # from then on, the server knows the script
                for request in self._run_together(self._server(address), script, others) if others else []:
                    self.run(script, request)
        except (redis.RedisError, OSError):
            self._forget()
            raise

    def _run_together(self, server: Any, script: str, requests: Sequence[Request]) -> list[Request]:
        """Run a script in one write; return those requests that were answered with an error."""
        with server.pipeline(transaction=False) as pipeline:
            for keys, args in requests:
                pipeline.execute_command("EVALSHA", sha(script), len(keys), *keys, *args)
            replies = pipeline.execute(raise_on_error=False)
        return [request for request, reply in zip(requests, replies, strict=True) if isinstance(reply, Exception)]

    def run_and_wait(self, script: str, request: Request, replicas: int, timeout_ms: int) -> tuple[Any, int]:
        """Run a script, then wait until so many replicas have what it wrote; return its reply and how many have it."""
        reply, confirmed = self.run(script, request, then=("WAIT", replicas, timeout_ms))
        return reply, confirmed

    def server_of(self, key: str) -> redis.Redis:
        """A client of the server that has a key; whoever asks for it closes it."""
        server: redis.Redis = self._server(self._server_of(key))
        return server

    def close(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            server.close()

    def _server_of(self, key: str) -> Address:
        if self._place.kind is Kind.SENTINEL:
            self._look_if_old()
        route = self._route
        if route is None:
            route = self._route = self._find()
        address = route.server_of(key)
        if address is None:
            raise ClusterDownError(f"no server has the slot of {key}")
        return address

    def _look_if_old(self) -> None:
        """Look again after a while, since a master that was replaced may go on answering.

        Beside the work, in a thread: a Sentinel that does not answer is not waited for.
        """
        now = time.monotonic()
        if now - self._looked_at < FRESH_S or (self._looker is not None and self._looker.is_alive()):
            return
        self._looked_at = now
        if self._route is not None:
            self._looker = threading.Thread(target=self._look_beside, name=LOOKER, daemon=True)
            with suppress(RuntimeError):  # while the interpreter ends, none is started any more
                self._looker.start()

    def _look_beside(self) -> None:
        with suppress(redis.RedisError, OSError):
            self._route = self._find()

    def _forget(self) -> None:
        """Find the servers anew before the next command."""
        if self._place.kind is not Kind.SERVER:
            self._route = None

    def _send(self, address: Address, words: Words, then: Words) -> Any:
        """Send a command to a server, or to the one that it names for once.

        Two commands go in one write, hence on one connection: WAIT tells of what its own connection has written, and a
        new one, which redis-py opens unasked where the last was lost, has written nothing and is answered at once.
        """
        commands = [words, then] if then else [words]
        try:
            replies = self._send_all(address, commands)
        except MovedError:
            raise
        except AskError as error:
            _, *replies = self._send_all(redirected(error, address), [("ASKING",), *commands])
        return replies if then else replies[0]

    def _send_all(self, address: Address, commands: list[Words]) -> list[Any]:
        """Send commands to a server at once; return the replies, or raise the first that is an error."""
        pool = self._server(address).connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            replies = [self._receive(address, connection) for _ in commands]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _receive(self, address: Address, connection: Any) -> Any:
        """The next reply, which may be an error; while it is overdue, look whether the server was replaced."""
        gives_up_at = time.monotonic() + connection.socket_timeout
        while True:
            left_s = max(0.0, gives_up_at - time.monotonic())
            wait_s = left_s if self._place.kind is Kind.SERVER else min(LOOK_S, left_s)
            try:
                return connection.read_response(timeout=wait_s, disconnect_on_error=False)
            except redis.ResponseError as error:
                return error
            except redis.TimeoutError:
                if wait_s == left_s:
                    raise
            self._check_not_replaced(address)

    def _check_not_replaced(self, address: Address) -> None:
        """Raise where another has a server's keys now: one that froze is replaced sooner than we give up."""
        with suppress(redis.RedisError, OSError):
            self._route = self._find()
        if self._route is not None and address not in self._route.addresses:
            host, port = address
            raise redis.TimeoutError(f"{host}:{port} does not answer, and another has its keys now")

    def _server(self, address: Address) -> Any:
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = connect(self._place.options(address))
        return server

    def _find(self) -> Route:
        return self._find_slots() if self.sharded else self._find_master()

    def _find_master(self) -> Route:
        """Ask one Sentinel after the other until a majority has answered, without which there is no failover."""
        replies: list[Any] = []
        for address in random.sample(self._addresses, len(self._addresses)):
            with connect(self._place.sentinel_options(address), LOOK_S) as sentinel:
                try:
                    ask: Any = sentinel.execute_command
                    replies.append(ask("SENTINEL", "MASTER", self._place.service))
                except (redis.RedisError, OSError) as error:
                    replies.append(error)
            if sum(isinstance(reply, list) for reply in replies) > len(self._addresses) // 2:
                break
        address_of_master = self._masters.newest(replies, time.monotonic())
        if address_of_master is None:
            raise redis.ConnectionError(f"no Sentinel names a master of {self._place.service!r}: {replies[0]!s:.200}")
        return OneServer(address_of_master)

    def _find_slots(self) -> Route:
        """Ask one server after the other, in any order: the one that failed last would fail again."""
        addresses = list({*self._servers, *self._addresses})
        random.shuffle(addresses)
        failure: Exception = redis.ConnectionError("no server of the cluster is known")
        for address in addresses:
            try:
                with connect(self._place.options(address), LOOK_S) as server:
                    ask: Any = server.execute_command
                    return Slots.parse(ask("CLUSTER", "SLOTS"), address)
            except (redis.RedisError, OSError, ValueError) as error:
                failure = error
        raise failure
