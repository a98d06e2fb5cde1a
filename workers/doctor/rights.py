"""The rights that the user needs: every command of nodes and gateways, on the keys and channels under the prefix."""

from __future__ import annotations

from typing import NamedTuple

from streamer.core.names import Topic
from streamer.log.keys import Keys
from workers.doctor.checks import Case, Check
from workers.doctor.facts import Facts, Lack
from workers.doctor.findings import Level, Promise

EXPIRE_S = 60
"""So long what is tried stays in Redis if it cannot be removed."""


class Need(NamedTuple):
    """A command that must be allowed, as it can be tried without harm on a node that nobody knows; who needs it."""

    who: str
    words: tuple[str | int, ...]

    @property
    def command(self) -> str:
        """The command as ACL rules name it."""
        first, second = (str(word).lower() for word in (*self.words, "")[:2])
        return f"{first}|{second}" if first in ("script", "cluster") else first


_BOTH, _NODES, _GATEWAYS = "nodes and gateways", "nodes", "gateways"

ROLES = {"both": {_BOTH, _NODES, _GATEWAYS}, "node": {_BOTH, _NODES}, "gateway": {_BOTH, _GATEWAYS}}
"""Whose needs a user must have who plays a role."""


def node_keys(keys: Keys, node: str) -> list[str]:
    """All keys of a node without jobs, whose only writer has the node's name."""
    return [keys.log(node), keys.records(Topic(node)), keys.jobs(node), keys.writer(node, node)]


def needs(keys: Keys, node: str, sharded: bool, role: str = "both") -> list[Need]:
    """All that a role needs, on a throw-away node. Tried in this order, nothing of it stays.

    The first creates the writer's key, which expires; the others that write find nothing to change, or are refused for
    their arguments or the key's type, which is looked at after the rights.
    """
    log, every, jobs, writer = node_keys(keys, node)
    index = keys.job(node)  # of a job that nobody knows either
    nodes: list[tuple[str | int, ...]] = [
        ("SET", writer, 0, "EX", EXPIRE_S),
        ("GET", writer),
        ("HSET", log, "id", "", "odd"),
        ("HSET", keys.fleet, node, "", "odd"),
        ("HDEL", keys.fleet, node),
        ("ZADD", jobs, "XX", 0, ""),
        ("LTRIM", every, 0, -1),
        ("EXPIRE", writer, EXPIRE_S),
        ("PERSIST", every),
        ("ZRANGE", jobs, 0, 1),
        ("ZREM", jobs, ""),
        ("EVAL", "return 1", 1, index),
        ("ZADD", index, "XX", 0, ""),
        ("ZREMRANGEBYRANK", index, 1, 0),
        ("TTL", index),
        ("RPUSH", writer, ""),
        ("EXISTS", every),
        ("INFO", "replication"),
        ("TIME",),
        ("SPUBLISH" if sharded else "PUBLISH", every, ""),
    ]
    both: list[tuple[str | int, ...]] = [
        ("EVAL", "return 1", 1, log),
        ("EVALSHA", "0" * 40, 1, log),
        ("HMGET", log, "id"),
        ("ZSCORE", jobs, ""),
        ("LLEN", every),
        ("LINDEX", every, 0),
        ("LRANGE", every, 0, 0),
        *([("CLUSTER", "SLOTS"), ("ASKING",)] if sharded else []),
    ]
    gateways: list[tuple[str | int, ...]] = [
        ("PING",),
        ("HSCAN", keys.fleet, 0),
        ("ZMSCORE", jobs, ""),
        ("ZREVRANGE", jobs, 0, 0),
        ("SSUBSCRIBE" if sharded else "SUBSCRIBE", every),
        ("SUNSUBSCRIBE" if sharded else "UNSUBSCRIBE", every),
        ("SPUBLISH" if sharded else "PUBLISH", keys.probe("doctor", node if sharded else ""), ""),
    ]
    last: list[tuple[str | int, ...]] = [("DEL", *node_keys(keys, node))]
    whose = ((_NODES, nodes), (_BOTH, both), (_GATEWAYS, gateways), (_NODES, last))
    return [Need(who, words) for who, commands in whose if who in ROLES[role] for words in commands]


def lack_of(need: Need, refusal: str) -> Lack | None:
    """What a refusal says is missing; None where it is no matter of rights."""
    text = refusal.lower()
    if "unknown command" in text or "not found" in text:
        return Lack("unknown", need.command, need.command, need.who)
    if "permission" not in text:
        return None
    for kind, words in (("channel", (" channel",)), ("key", (" key",))):
        if any(word in text for word in words) and "run the" not in text:
            return Lack(kind, str(_subject(need)), need.command, need.who)
    return Lack("command", need.command, need.command, need.who)


def _subject(need: Need) -> str | int:
    """The key or the channel of a command."""
    return need.words[3] if need.command in ("eval", "evalsha") else need.words[1]


class Rights(NamedTuple):
    """What of one kind is missing: the things, what to do, who lacks them, and to whom."""

    things: str
    remedy: str
    who: str
    user: str


def _remedy(kind: str, things: list[str], user: str, facts: Facts) -> str:
    if kind == "unknown":
        return "Undo rename-command; a managed Redis that disables them cannot be used."
    if kind != "command" and facts.role != "both":
        # Not all keys: a user of its own has them so that it has no others.
        return f"Give the user {user} the rules that deploy/redis/users.acl has for one like it."
    rules = {"command": " ".join(f"+{thing}" for thing in things), "key": f"~{facts.prefix}*"}
    return f"ACL SETUSER {user} {rules.get(kind, f'&{facts.prefix}*')}"


def _read(kind: str) -> Check[Rights]:
    def read(facts: Facts) -> Rights | None:
        if facts.lacks is None:
            return None
        lacks = [lack for lack in facts.lacks if lack.kind == kind]
        things = sorted({lack.what for lack in lacks})
        who = {lack.who for lack in lacks}
        words = who.pop() if len(who) == 1 else _BOTH
        user = facts.user or "USER"
        return Rights(", ".join(things), _remedy(kind, things, user, facts), words, user)

    return Check(
        _TITLES[kind],
        Promise.HISTORY,
        read,
        "all that are needed",
        (Case(lambda rights: bool(rights.things), Level.PROBLEM, _FOUND[kind], _PROMISES[kind], "{0.remedy}"),),
        unknown="Ask as a user who may run ACL DRYRUN, or compare ACL GETUSER with deploy/redis/users.acl.",
    )


_TITLES = {
    "command": "rights to commands",
    "key": "rights to keys",
    "channel": "rights to channels",
    "unknown": "commands that the server knows",
}
_FOUND = {
    "command": "the user {0.user} may not run {0.things} ({0.who})",
    "key": "the user {0.user} has no access to {0.things}, keys such as {0.who} use",
    "channel": "the user {0.user} has no access to {0.things}, a channel such as {0.who} use",
    "unknown": "it does not know {0.things} ({0.who})",
}
_PROMISES = {
    "command": Promise.HISTORY,
    "key": Promise.HISTORY,
    "channel": Promise.LIVE,
    "unknown": Promise.HISTORY,
}
CHECKS: tuple[Check[Rights], ...] = tuple(_read(kind) for kind in _TITLES)
