"""Finds out what the user may do: by asking the server, or by trying without harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis

from streamer.log.keys import Keys
from workers.doctor.facts import Lack
from workers.doctor.rights import Need, lack_of, needs

_LISTENING = ("SUBSCRIBE", "UNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE")


class Asked(NamedTuple):
    """Whose rights are asked for: of a role, on a node's keys, of a user. None is a throw-away node, and oneself."""

    role: str = "both"
    node: str | None = None
    user: str | None = None

    @property
    def tried(self) -> bool:
        """Whether it may be tried, since it is oneself who needs all of it, and on keys that nobody has."""
        return self == Asked()


def find_lacks(
    client: redis.Redis,
    another: Callable[[], redis.Redis],
    keys: Keys,
    node: str,
    sharded: bool,
    asked: Asked = Asked(),  # noqa: B008 - it cannot be changed
) -> tuple[str | None, list[Lack] | None]:
    """The user's name, if it can be had, and the rights that it lacks; None where they can neither be had nor tried.

    ``another`` makes a client like the first, for what changes what a connection is for.
    """
    wanted = needs(keys, asked.node or node, sharded, asked.role)
    user = asked.user or _user(client)
    refusals = None if user is None else _ask(client, user, wanted)
    if refusals is None:
        if not asked.tried:
            return user, None
        refusals = _try(client, another, wanted)
    lacks = [lack_of(need, refusal) for need, refusal in zip(wanted, refusals, strict=True)]
    return user, [lack for lack in lacks if lack is not None]


def _user(client: redis.Redis) -> str | None:
    try:
        name: Any = client.acl_whoami()
    except redis.ResponseError:
        return None
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _ask(client: redis.Redis, user: str, wanted: Sequence[Need]) -> list[str] | None:
    """What ACL DRYRUN says to each; None where there is none, or the user may not run it."""
    ask: Any = client.execute_command
    try:
        ask("ACL", "DRYRUN", user, "PING")
    except redis.ResponseError:
        return None
    return _answers(client, [("ACL", "DRYRUN", user, *need.words) for need in wanted])


def _try(client: redis.Redis, another: Callable[[], redis.Redis], wanted: Sequence[Need]) -> list[str]:
    """What the server says to each when it is run.

    RPUSH is left out where SET has made no key of another type: it would make one that stays.
    """
    setting = wanted[0]
    [answer] = _answers(client, [setting.words])
    left_out = _LISTENING if answer == "OK" else (*_LISTENING, "RPUSH")
    tried = [need for need in wanted[1:] if need.words[0] not in left_out]
    refusals = {setting: answer, **dict(zip(tried, _answers(client, [need.words for need in tried]), strict=True))}
    # Listening changes what a connection is for.
    with another() as listener:
        listening = [need for need in wanted if need.words[0] in _LISTENING]
        refusals |= dict(zip(listening, _answers(listener, [need.words for need in listening]), strict=True))
    return [refusals.get(need, "") for need in wanted]


def _answers(client: redis.Redis, commands: Sequence[Sequence[Any]]) -> list[str]:
    """What the server answers to each, in one round trip: refusals, or whatever else, as text."""
    # Not by a pipeline of redis-py's, which reads some answers as something else.
    connection: Any = client.connection_pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_answer(connection) for _ in commands]
    except BaseException:
        connection.disconnect()
        raise
    finally:
        client.connection_pool.release(connection)


def _answer(connection: Any) -> str:
    try:
        reply = connection.read_response(disconnect_on_error=False)
    except redis.ResponseError as error:
        return str(error) or "refused"
    return reply.decode(errors="replace") if isinstance(reply, bytes) else ""
