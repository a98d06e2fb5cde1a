"""Asks the Redis that a URL means, for one event loop: a single server, Sentinels' master, or a cluster.

redis-py's own client of a cluster is not used: it sends ASKING on whichever connection is free, fails where its
connections are all taken, and closes those that others wait on whenever it looks at the cluster anew.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, ReadOnlyError, TryAgainError

from streamer.log.connecting import connect_async
from streamer.log.routing import Command, Masters, OneServer, Route, Slots, redirected
from streamer.log.scripts import Request, sha, source
from streamer.log.url import Address, Kind, parse

TRIES = 6
"""How often a command is sent, where it is sent elsewhere each time, or the servers are about to agree who has it."""

TRY_AGAIN_S = 0.1
"""The wait before a command is sent again that nobody could run; the next is longer by as much."""

FRESH_S = 2.0
"""For so long it is believed who has which key, since a master that was replaced may go on answering, and idle
connections to a single server are used again, since its name may lead to another by then."""

LOOK_S = 2.0
"""How long a server has to say which others there are."""

_LOST = (redis.ConnectionError, redis.TimeoutError, OSError)
_PASSING = (TryAgainError, ClusterDownError, ReadOnlyError, *_LOST)


class Client:
    """Sends commands to the servers that have their keys; for one event loop.

    Raises InvalidSetting where the URL is none that we know. Its methods raise redis-py's errors and OSError: use
    `answering`, which bounds the wait. All may be cancelled.
    """

    def __init__(self, url: str, most_connections: int = 16) -> None:
        self._place = parse(url)
        self._addresses = self._place.addresses
        self._most_connections = most_connections
        self._servers: dict[Address, redis.asyncio.Redis] = {}
        self._masters = Masters()
        self._sentinels = []
        if self._place.kind is Kind.SENTINEL:
            options = map(self._place.sentinel_options, self._addresses)
            self._sentinels = [connect_async(each, most_connections=1) for each in options]
        self.route: Route | None = None
        if self._place.kind is Kind.SERVER:
            self.route = OneServer(self._addresses[0])
        self._doubtful = False
        self._fresh_at = 0.0
        self._looks = 0
        self._looking = asyncio.Lock()
        self._looker: asyncio.Task[None] | None = None
        self._waiting: dict[asyncio.Timeout, Address] = {}

    @property
    def changes(self) -> bool:
        """Whether the servers that have the keys may become others."""
        return self._place.kind is not Kind.SERVER

    @property
    def sharded(self) -> bool:
        """Whether channels are sharded, as keys are."""
        return self._place.kind is Kind.CLUSTER

    async def ask(self, *commands: Command) -> list[Any]:
        """Send commands, those for one server together; return the replies in order, of which some may be errors.

        Raises an error of the connection where no server has answered.
        """
        replies = await self._ask_all(commands) if self.changes else await self._send(None, commands)
        if commands and all(isinstance(reply, _LOST) for reply in replies):
            raise replies[0]
        return replies

    async def ask_one(self, key: str | bytes, *words: Any) -> Any:
        """Send a command, and return the reply. Raises it where it is an error."""
        [reply] = await self.ask_all(Command(key, words))
        return reply

    async def ask_all(self, *commands: Command) -> list[Any]:
        """Send commands as `ask` does; raises the first reply that is an error."""
        replies = await self.ask(*commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def run(self, script: str, request: Request) -> Any:
        """Run a script of this room, and return its reply. Raises it where it is an error."""
        words = len(request.keys), *request.keys, *request.args
        try:
            return await self.ask_one(request.keys[0], "EVALSHA", sha(script), *words)
        except NoScriptError:
            return await self.ask_one(request.keys[0], "EVAL", source(script), *words)

    async def ping(self) -> None:
        """Return once a server has answered that knows where the keys are."""
        if self._place.kind is Kind.CLUSTER:
            await self.look()
        else:
            await self.ask_one("", "PING")

    async def look(self) -> None:
        """Find out which server has which key now. Those who ask for it together are answered by one look."""
        looks = self._looks
        async with self._looking:
            if self._looks == looks and self.changes:
                found = await (self._find_slots() if self.sharded else self._find_master())
                if found != self.route:
                    self.route = found
                self._doubtful, self._fresh_at = False, asyncio.get_running_loop().time()
            self._looks += 1
        assert self.route is not None
        self._wait_no_more_for_those_without_keys(self.route)
        # What idles on servers that have no keys any more is let go.
        for address in self._servers.keys() - set(self.route.addresses):
            await self._servers[address].connection_pool.disconnect(inuse_connections=False)

    def moved(self, error: MovedError, asked: Address) -> None:
        """Learn from a server's refusal that another has a slot."""
        if isinstance(self.route, Slots):
            self.route = self.route.moved(int(error.slot_id), redirected(error, asked))

    def connection(self, address: Address) -> Any:
        """A connection of redis-py to a server, for the caller alone, yet to be connected."""
        pool: Any = self._server(address).connection_pool
        return pool.make_connection()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.gather(self._looker, return_exceptions=True)
        for client in [*self._servers.values(), *self._sentinels]:
            await client.aclose()

    async def _ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """Ask again what was sent elsewhere, or failed in a way that passes."""
        replies: list[Any] = [None] * len(commands)
        todo = list(range(len(commands)))
        for attempt in range(TRIES):
            answers = await self._ask_each([commands[n] for n in todo])
            for n, answer in zip(todo, answers, strict=True):
                replies[n] = answer
            todo = [n for n in todo if isinstance(replies[n], (MovedError, *_PASSING))]
            if not todo:
                break
            if any(isinstance(replies[n], _PASSING) for n in todo):
                await asyncio.sleep(TRY_AGAIN_S * (attempt + 1))
        return replies

    async def _ask_each(self, commands: list[Command]) -> list[Any]:
        await self._look_if_old()
        assert self.route is not None
        by_server: dict[Address | None, list[int]] = {}
        for n, command in enumerate(commands):
            by_server.setdefault(self.route.server_of(command.key), []).append(n)
        groups = list(by_server.items())
        if len(groups) == 1:
            return await self._ask_server(groups[0][0], commands)
        answers = await asyncio.gather(*(self._ask_server(at, [commands[n] for n in group]) for at, group in groups))
        replies: list[Any] = [None] * len(commands)
        for (_, group), answer in zip(groups, answers, strict=True):
            for n, reply in zip(group, answer, strict=True):
                replies[n] = reply
        return replies

    async def _look_if_old(self) -> None:
        if self.route is None or self._doubtful:
            await self.look()
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._look_beside())

    async def _look_beside(self) -> None:
        """Look whenever the last look is old, as long as there is work.

        Beside the work: while the servers that are known answer, nobody has to wait for others.
        """
        loop = asyncio.get_running_loop()
        while True:
            fresh_s = self._fresh_at + FRESH_S - loop.time()
            if fresh_s > 0:
                await asyncio.sleep(fresh_s)
                if not self._waiting:
                    return
            else:
                self._fresh_at = loop.time()
                with suppress(redis.RedisError, OSError):
                    await self.look()

    def _wait_no_more_for_those_without_keys(self, route: Route) -> None:
        """Have commands fail that wait for servers which others have replaced: one that froze answers nobody."""
        for waiting, address in list(self._waiting.items()):
            if address not in route.addresses:
                del self._waiting[waiting]
                waiting.reschedule(asyncio.get_running_loop().time())

    async def _ask_server(self, address: Address | None, commands: Sequence[Command]) -> list[Any]:
        """Ask a server; what it sends elsewhere for once is asked there."""
        if address is None:
            self._doubtful = True
            return [ClusterDownError("no server has the slot of the key") for _ in commands]
        try:
            async with asyncio.timeout(None) as waiting:
                self._waiting[waiting] = address
                try:
                    replies = await self._send(address, commands)
                finally:
                    self._waiting.pop(waiting, None)
        except _LOST as error:
            self._doubtful = True
            return [error for _ in commands]
        except asyncio.CancelledError:
            # It may be that it was waited for too long.
            self._doubtful = True
            raise
        for n, reply in enumerate(replies):
            if isinstance(reply, MovedError):
                self.moved(reply, address)
            elif isinstance(reply, AskError):
                replies[n] = await self._ask_elsewhere(redirected(reply, address), commands[n])
            elif isinstance(reply, ReadOnlyError | ClusterDownError):
                self._doubtful = True
        return replies

    async def _ask_elsewhere(self, address: Address, command: Command) -> Any:
        asking = Command(command.key, ("ASKING",))
        try:
            return (await self._send(address, [asking, command]))[1]
        except _LOST as error:
            return error

    async def _send(self, address: Address | None, commands: Sequence[Command]) -> list[Any]:
        """Send commands to one server, the only one for None."""
        server = await self._only_server() if address is None else self._server(address)
        if len(commands) == 1:
            try:
                return [await server.execute_command(*commands[0].words)]
            except redis.ResponseError as error:
                return [error]
        pipeline = server.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command.words)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _only_server(self) -> Any:
        """The server whose name is all that is known of it."""
        server, now = self._server(self._addresses[0]), asyncio.get_running_loop().time()
        if now - self._fresh_at > FRESH_S:
            self._fresh_at = now
            await server.connection_pool.disconnect(inuse_connections=False)
        return server

    def _server(self, address: Address) -> Any:
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = connect_async(self._place.options(address), self._most_connections)
        return server

    async def _find_master(self) -> Route:
        """Ask all Sentinels; the answers of a majority are enough, since without one there is no failover."""
        asked = [asyncio.create_task(self._ask_sentinel(sentinel)) for sentinel in self._sentinels]
        replies: list[Any] = []
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    replies.append(await answer)
                except (redis.RedisError, OSError) as error:
                    replies.append(error)
                if sum(isinstance(reply, list) for reply in replies) > len(asked) // 2:
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if address := self._masters.newest(replies, asyncio.get_running_loop().time()):
            return OneServer(address)
        raise redis.ConnectionError(f"no Sentinel names a master of {self._place.service!r}: {replies[0]!s:.200}")

    async def _ask_sentinel(self, sentinel: Any) -> Any:
        async with asyncio.timeout(LOOK_S):
            return await sentinel.execute_command("SENTINEL", "MASTER", self._place.service)

    async def _find_slots(self) -> Route:
        """Ask one server after the other, in any order: the one that failed last would fail again."""
        known = self.route.addresses if self.route else []
        addresses = list({*known, *self._addresses})
        random.shuffle(addresses)
        failure: Exception = redis.ConnectionError("no server of the cluster is known")
        for address in addresses:
            try:
                async with asyncio.timeout(LOOK_S):
                    reply = await self._server(address).execute_command("CLUSTER", "SLOTS")
                return Slots.parse(reply, address)
            except (redis.RedisError, OSError, ValueError) as error:
                failure = error
        raise failure
