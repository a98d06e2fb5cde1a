"""The HTTP API: the fleet, a node and its jobs, pages of updates."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from websockets.http11 import Response

from streamer.core.cursor import START, Cursor
from streamer.core.messages import plain_message
from streamer.core.names import Topic
from streamer.core.permissions import EVERYTHING, Permissions
from streamer.gateway.http import answer_error, answer_json
from streamer.gateway.routes import ListNodes, ListUpdates, ShowNode
from streamer.log.fleet import Summary
from streamer.log.reading import Reader


async def answer_api(
    reader: Reader, route: ListNodes | ShowNode | ListUpdates, permissions: Permissions = EVERYTHING
) -> Response:
    """Answer a request to the API by who may make it; lists show what they may see. Raises LogUnavailable."""
    match route:
        case ListNodes():
            return answer_json(await _nodes(reader, permissions))
        case ShowNode(node):
            return answer_json(await _node(reader, node, permissions))
        case ListUpdates(topic, after):
            return await _updates(reader, topic, after or START)


async def _nodes(reader: Reader, permissions: Permissions) -> dict[str, Any]:
    seen = [
        {"node": node, **_summary(summary, permissions)}
        for node, summary in (await reader.nodes()).items()
        if permissions.may_see_node(node)
    ]
    return {"nodes": seen}


def _summary(summary: Summary, permissions: Permissions) -> dict[str, Any]:
    """A node's summary, without the status of a job that may not be seen, and its name."""
    shown = msgspec.structs.asdict(summary)
    return shown if permissions.may_see_job(summary.job) else {**shown, "status": "", "job": None}


async def _node(reader: Reader, node: str, permissions: Permissions) -> dict[str, Any]:
    page = await reader.read(Topic(node), START, limit=0)
    return {
        "node": node,
        "log": page.log_id or None,
        "epoch": page.epoch,
        "head": page.head,
        "cursor": Cursor(page.log_id, page.epoch, page.head).token if page.log_id else None,
        "jobs": [job for job in await reader.jobs(node) if permissions.may_see_job(job.job)],
    }


async def _updates(reader: Reader, topic: Topic, after: Cursor) -> Response:
    page = await reader.read(topic, after)
    if page.reset:
        return answer_error(
            HTTPStatus.GONE, "the log was started anew, or never had that cursor; ask again without `after`"
        )
    last = page.updates[-1].cursor(page.log_id) if page.updates else Cursor(page.log_id, page.epoch, page.start)
    return answer_json(
        {
            "updates": [plain_message(page.log_id, update) for update in page.updates],
            "missing": page.missing,
            "more": page.more,
            "cursor": last.token if page.log_id else None,
        }
    )
