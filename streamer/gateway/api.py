"""The HTTP API: the fleet, a node and its jobs, pages of updates."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from websockets.http11 import Response

from streamer.core.cursor import START, Cursor
from streamer.core.messages import plain_message
from streamer.core.names import Topic
from streamer.gateway.http import answer_error, answer_json
from streamer.gateway.routes import ListNodes, ListUpdates, ShowNode
from streamer.log.reading import Reader


async def answer_api(reader: Reader, route: ListNodes | ShowNode | ListUpdates) -> Response:
    """Answer a request to the API. Raises LogUnavailable."""
    match route:
        case ListNodes():
            return answer_json(await _nodes(reader))
        case ShowNode(node):
            return answer_json(await _node(reader, node))
        case ListUpdates(topic, after):
            return await _updates(reader, topic, after or START)


async def _nodes(reader: Reader) -> dict[str, Any]:
    nodes = await reader.nodes()
    return {"nodes": [{"node": node, **msgspec.structs.asdict(summary)} for node, summary in nodes.items()]}


async def _node(reader: Reader, node: str) -> dict[str, Any]:
    page = await reader.read(Topic(node), START, limit=0)
    return {
        "node": node,
        "log": page.log_id or None,
        "epoch": page.epoch,
        "head": page.head,
        "cursor": Cursor(page.log_id, page.epoch, page.head).token if page.log_id else None,
        "jobs": await reader.jobs(node),
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
