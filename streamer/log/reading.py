"""The log as a gateway sees it: asyncio, many nodes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from math import inf
from typing import Any, NamedTuple

from streamer.core.cursor import Cursor
from streamer.core.fleet_view import NodeSummary
from streamer.core.names import Topic, check_job, check_node
from streamer.core.records import UNREADABLE, index_of, unpack_record
from streamer.log.client import Client
from streamer.log.connecting import answering
from streamer.log.fleet import JobSummary, Summary
from streamer.log.keys import Keys, escape, unescape
from streamer.log.routing import Command
from streamer.log.scripts import INDEX_NODES, PAGE_RECORDS, Page, parse_page, read_request

_log = logging.getLogger(__name__)

MOST_JOBS = 1000
"""How many jobs of a node are listed, the latest first."""


FLEET_PAGE = 500
"""About how many nodes of the fleet are read at once."""

_log = logging.getLogger(__name__)


class Head(NamedTuple):
    """Where a topic stands: its log's id, empty for none, and epoch, and its last index, None where nobody knows it."""

    log_id: str
    epoch: int
    last: int | None


class Reader:
    """Reads the logs of nodes; for one event loop.

    Every method may be cancelled, and raises LogUnavailable where Redis does not answer in time, answers with an error,
    or holds what cannot be read. Raises InvalidSetting where the URL is none that we know.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        self._url, self._keys = url, keys
        self._redis = Client(url)

    async def read(self, topic: Topic, cursor: Cursor, limit: int = PAGE_RECORDS) -> Page:
        """Read a page of a topic behind a cursor."""
        request = read_request(self._keys, topic, cursor, limit)
        async with answering(self._url):
            reply: Any = await self._redis.run("read", request)
        return parse_page(topic, reply)

    async def before_last(self, topic: Topic, count: int) -> int | None:
        """The index behind which the last ``count`` records of a topic stand, None where no more are kept."""
        key, jobs_key = self._keys.records(topic), self._keys.jobs(topic.node)
        commands = [Command(key, ("LINDEX", key, -count - 1))]
        if topic.job is not None:
            commands.append(Command(jobs_key, ("ZSCORE", jobs_key, escape(topic.job))))
        async with answering(self._url):
            record, *score = await self._redis.ask_all(*commands)
        # The list of a job that the log does not know is left over from a lost log.
        # Nor can what is no record be told the index of.
        return None if record is None or None in score else index_of(record)

    async def heads(self, topics: Sequence[Topic]) -> list[Head | None]:
        """Where each of several topics stands, asked all at once; None where that cannot be read."""
        jobs: dict[str, list[str]] = {}
        for node, job in topics:
            jobs.setdefault(node, []).extend([] if job is None else [job])
        commands = []
        for node, names in jobs.items():
            log_key, jobs_key = self._keys.log(node), self._keys.jobs(node)
            commands.append(Command(log_key, ("HMGET", log_key, "id", "epoch", "next")))
            if names:
                commands.append(Command(jobs_key, ("ZMSCORE", jobs_key, *map(escape, names))))
        async with answering(self._url):
            replies = iter(await self._redis.ask(*commands))
        heads: dict[Topic, Head | None] = {}
        for node, names in jobs.items():
            log = heads[Topic(node)] = _head_of_log(next(replies))
            scores = _each(next(replies), names) if names else []
            heads |= {Topic(node, name): _head_of_job(log, score) for name, score in zip(names, scores, strict=True)}
        return [heads[topic] for topic in topics]

    async def nodes(self) -> dict[str, Summary]:
        """Every node that has ever reported, with its summary, by name."""
        nodes: dict[str, Summary] = {}
        async for page in self._scan_fleet():
            nodes |= dict(_summaries(page))
        return dict(sorted(nodes.items()))

    async def fleet(self) -> AsyncIterator[dict[str, NodeSummary]]:
        """Every node that has ever reported, page by page, by name; without what cannot be read.

        A node may be on two pages; of one that comes or goes meanwhile, nothing is promised.
        """
        async for page in self._scan_fleet():
            yield {node: summary.of(node) for node, summary in _summaries(page)}

    async def _scan_fleet(self) -> AsyncIterator[dict[bytes, bytes]]:
        # Not HGETALL: Redis would serve nobody else while it writes ten thousand nodes.
        key, cursor = self._keys.fleet, 0
        while True:
            async with answering(self._url):
                reply: Any = await self._redis.ask_one(key, "HSCAN", key, cursor, "COUNT", FLEET_PAGE)
            cursor, page = int(reply[0]), reply[1]
            yield page
            if not cursor:
                return

    async def nodes_of(self, job: str) -> list[str]:
        """The nodes that run a job, or have run it, by the job's index: that which was noted last comes first."""
        key = self._keys.job(job)
        async with answering(self._url):
            nodes: Any = await self._redis.ask_one(key, "ZREVRANGE", key, 0, INDEX_NODES - 1)
        return list(_names(job, nodes))

    async def jobs(self, node: str) -> list[JobSummary]:
        """The node's jobs whose lists are kept, the one last updated first."""
        async with answering(self._url):
            key = self._keys.jobs(node)
            latest: Any = await self._redis.ask_one(key, "ZREVRANGE", key, 0, MOST_JOBS - 1)
            names = _job_names(node, latest)
            lists = [self._keys.records(Topic(node, name)) for name in names]
            records: list[Any] = await self._redis.ask_all(*(Command(key, ("LINDEX", key, -1)) for key in lists))
        return [_summary(name, record) for name, record in zip(names, records, strict=True) if record is not None]

    async def ping(self) -> None:
        """Return once Redis has answered."""
        async with answering(self._url):
            await self._redis.ping()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _job_names(node: str, members: list[bytes]) -> list[str]:
    names = []
    for member in members:
        try:
            names.append(check_job(unescape(member.decode())))
        except ValueError as error:
            _log.warning("a job %.80r of node %s cannot be listed: %s", member, node, error)
    return names


def _summary(job: str, record: bytes) -> JobSummary:
    try:
        last = unpack_record(record)
    except ValueError:
        return JobSummary(job, 0, UNREADABLE, -1)
    return JobSummary(job, last.timestamp, last.status, last.index)


def _summaries(page: dict[bytes, bytes]) -> Iterator[tuple[str, Summary]]:
    for name, summary in page.items():
        # All nodes write this hash: what one of them has written must not hide the others.
        try:
            yield check_node(name.decode()), Summary.unpack(summary)
        except ValueError as error:
            _log.warning("the fleet's entry %.80r cannot be read: %s", name, error)


def _names(job: str, nodes: list[bytes]) -> Iterator[str]:
    for node in nodes:
        try:
            yield check_node(node.decode())
        except ValueError as error:
            _log.warning("the node %.80r in the index of job %s is none: %s", node, job, error)


def _head_of_log(reply: Any) -> Head | None:
    try:
        log_id, epoch, next_index = reply
        return Head(log_id.decode(), int(epoch), int(next_index) - 1) if log_id else Head("", 0, -1)
    except (TypeError, ValueError):  # the reply is an error, or the hash holds what is no number
        return None


def _each(scores: Any, names: list[str]) -> list[Any]:
    return [scores] * len(names) if isinstance(scores, Exception) else scores


def _head_of_job(log: Head | None, score: Any) -> Head | None:
    if log is None or isinstance(score, Exception) or score in (inf, -inf):
        return None
    return log._replace(last=None if score is None else int(score)) if log.log_id else log
