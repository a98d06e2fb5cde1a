"""The scripts that run inside Redis: their sources, what they are called with, and what they answer.

Both kinds of client, blocking and asyncio, call them by these requests and read the answers by these parsers.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from importlib.resources import files
from typing import Any, NamedTuple

from streamer.core.cursor import Cursor
from streamer.core.entries import Batch
from streamer.core.errors import LogUnavailable
from streamer.core.listed import Place, listed_updates
from streamer.core.names import Topic
from streamer.core.records import Update
from streamer.log.keys import Keys, escape

PAGE_RECORDS = 500
INDEX_NODES = 1000
"""How many nodes a job's index keeps: those that were noted last."""
PAGE_BYTES = 1 << 20

_log = logging.getLogger(__name__)

# Read on import: see the end of connecting.
_SOURCES = {
    name: (files(__package__) / f"{name}.lua").read_text(encoding="utf-8")
    for name in ("announce", "append", "claim", "clear", "read")
}


def source(name: str) -> str:
    """The text of a script of this room."""
    return _SOURCES[name]


_SHAS = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in _SOURCES.items()}


def sha(name: str) -> str:
    """The name under which Redis knows a script of this room once it has run it."""
    return _SHAS[name]


def new_id() -> str:
    """A random id, for a log or a writer."""
    return secrets.token_hex(6)


class Request(NamedTuple):
    """The keys and arguments of a script's call."""

    keys: list[str]
    args: list[str | bytes | int]


class Retention(NamedTuple):
    """How much each list keeps: so many records; a job's list also expires so long after its last update (0: never).

    ``writer_ttl_s`` is how long Redis remembers a writer that is silent: longer than any retry after a lost answer.
    """

    records: int = 10_000
    job_ttl_s: int = 7 * 24 * 3600
    writer_ttl_s: int = 7 * 24 * 3600


class Token(NamedTuple):
    """A claim on a node, as its holder shows it with each append: who it is, and the claim's number."""

    holder: str
    number: int


UNCLAIMED = Token("", 0)


class Appended(NamedTuple):
    """An append's answer. ``next_index`` is the log's next; ``seen`` what the writer had appended before.

    ``refused`` is empty, or why nothing was appended: another has ``claimed`` the node, or has ``taken`` it from the
    one who appends, or that one's claim is ``expired``.
    """

    log_id: str
    epoch: int
    next_index: int
    seen: int
    appended: int
    refused: str = ""


class Claimed(NamedTuple):
    """A claim's answer. ``token`` is None where another has the node, for ``left_ms`` more."""

    token: Token | None
    left_ms: int


class Page(NamedTuple):
    """A read's answer: the records behind a cursor, as many as one page takes.

    ``reset`` says that the cursor is of another log, or of an epoch so old that its end is forgotten; then there are no
    records. ``start`` is the index from which the page follows: the cursor's, or less where the log lost its tail with
    its master. ``missing`` is the first and the last index between ``start`` and the page that are no longer kept, if
    any; an empty page may have it, too, where the whole list has expired. ``more`` says how many records follow the
    page. ``head`` is the node's last index. ``forgotten`` says that the log knows nothing of the job, and may
    have known of records behind ``start``.
    """

    log_id: str
    epoch: int
    head: int
    reset: bool
    start: int
    updates: list[Update]
    more: int
    missing: tuple[int, int] | None
    forgotten: bool = False


def append_request(
    keys: Keys,
    node: str,
    writer: str,
    batch: Batch,
    retention: Retention,
    token: Token = UNCLAIMED,
    publish: str = "PUBLISH",
) -> Request:
    """The call of append.lua for a batch of one writer; ``publish`` is the command that publishes."""
    slots: dict[str, int] = {}
    entries: list[str | bytes | int] = []
    for job, tail in batch.entries:
        entries.append(0 if job is None else slots.setdefault(job, len(slots) + 1))
        entries.append(tail)
    return Request(
        [
            keys.log(node),
            keys.records(Topic(node)),
            keys.writer(node, writer),
            keys.jobs(node),
            keys.claim(node),
            *(keys.records(Topic(node, job)) for job in slots),
        ],
        [
            new_id(),
            batch.first,
            publish,
            retention.records,
            retention.job_ttl_s,
            retention.writer_ttl_s,
            batch.after,
            *token,
            len(slots),
            *(escape(job) for job in slots),
            *entries,
        ],
    )


def parse_appended(reply: Any) -> Appended:
    """Read append.lua's answer. Raises LogUnavailable where it is none."""
    try:
        log_id, epoch, next_index, seen, appended, refused = reply
        return Appended(log_id.decode(), epoch, next_index, seen, appended, refused.decode())
    except (TypeError, ValueError, AttributeError) as error:
        raise LogUnavailable(f"Redis answered an append with {reply!r:.80}") from error


def announce_request(keys: Keys, node: str, job: str, ttl_s: int, publish: str = "PUBLISH") -> Request:
    """The call of announce.lua for a node that runs a job; ``ttl_s`` as in its script."""
    return Request([keys.job(job)], [node, ttl_s, INDEX_NODES, publish])


def claim_request(keys: Keys, node: str, token: Token, lease_ms: int) -> Request:
    """The call of claim.lua: with the token that the holder has, number 0 for none; a lease of 0 gives the claim up."""
    return Request([keys.claim(node)], [*token, lease_ms])


def parse_claimed(holder: str, reply: Any) -> Claimed:
    """Read claim.lua's answer. Raises LogUnavailable where it is none."""
    try:
        granted, number, left_ms = reply
    except (TypeError, ValueError) as error:
        raise LogUnavailable(f"Redis answered a claim with {reply!r:.80}") from error
    return Claimed(Token(holder, number) if granted else None, left_ms)


def read_request(keys: Keys, topic: Topic, cursor: Cursor, limit: int) -> Request:
    """The call of read.lua for a page of a topic."""
    return Request(
        [keys.log(topic.node), keys.records(topic), keys.jobs(topic.node)],
        [cursor.log_id, cursor.epoch, cursor.index, limit, PAGE_BYTES, escape(topic.job or "")],
    )


def parse_page(topic: Topic, reply: Any) -> Page:
    """Read read.lua's answer."""
    log_id, epoch, head, reset, start, records, more, last, forgotten = reply
    ends_at = head - more if topic.job is None else None if more else last
    updates = listed_updates(records, Place(start, epoch, head, topic.job is not None, ends_at))
    if len(updates) < len(records):
        _log.error("the log of %s has %d entries that are no records", topic, len(records) - len(updates))
        if not updates:
            more = 0  # another page could not be asked for: what it stands behind is unknown
    if updates:
        before = updates[0].index - 1 if topic.job is None else updates[0].previous
        if before < 0 <= start < forgotten:
            # The job may have been forgotten since, with more than the cursor's owner has seen; nobody knows any more.
            before = updates[0].index - 1
    else:
        # Where none follow, those up to the last have expired; else none were asked for.
        before = start if more else last
    missing = (start + 1, before) if before > start else None
    unknown = last < 0 and start < forgotten
    return Page(log_id.decode(), epoch, head, bool(reset), start, updates, more, missing, unknown)


def clear_request(keys: Keys, node: str, publish: str = "PUBLISH") -> Request:
    """The call of clear.lua for a node; ``publish`` is the command that publishes."""
    return Request([keys.log(node), keys.records(Topic(node)), keys.jobs(node)], [new_id(), publish])
