"""What the metrics tell of how connections end: each that the gateway ends, once, and none that its client ends."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families
from websockets.frames import CloseCode

from streamer.core.cursor import START
from streamer.gateway.server import Gateway
from tests.gateway.clients import DEADLINE_S, Node, ask, connect, end, eventually, path, receive, refusal, serving
from tests.gateway.v1 import talking
from tests.servers import RedisServer

Samples = dict[str, dict[str, float]]


async def _samples(gateway: Gateway) -> Samples:
    """Each metric's values, by the first label's value."""
    answer = await ask(gateway.settings.internal_port or 0, "/metrics")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})["".join(sample.labels.values())] = sample.value
    return found


async def _counted(gateway: Gateway, name: str) -> dict[str, float]:
    """What a metric has counted, by label, once all connections of clients are gone."""
    await eventually("all are gone", lambda: not gateway._connections)
    return {label: value for label, value in (await _samples(gateway))[name].items() if value}


async def test_who_is_told_of_gaps_and_resets_is_counted_on_either_endpoint(gateway: Gateway, forgetful: Node) -> None:
    forgetful.count(1)
    first = forgetful.read_all(None)[0].cursor(forgetful.read(None, START).log_id).token
    forgetful.count(29)
    for after, code in ((first, 4002), (first, 4002), ("3f9a1c2b7d4e.1.2", 4001)):
        async with connect(gateway, path(forgetful.name, after=after)) as client:
            assert (await end(client)).code == code
    async with talking(gateway) as talker:
        await talker.say("subscribe", node=forgetful.name, after=first)
        assert [message["op"] for message in await talker.hear_until("gap")] == ["subscribed", "gap"]
    async with talking(gateway) as talker:
        await talker.say("subscribe", node=forgetful.name, after="3f9a1c2b7d4e.1.2")
        # Of the log in which it goes on, the start is kept no longer.
        assert [message["op"] for message in await talker.hear_until("gap")] == ["subscribed", "reset", "gap"]
    assert await _counted(gateway, "streamer_gaps_total") == {"": 4}
    assert await _counted(gateway, "streamer_resets_total") == {"": 2}
    assert await _counted(gateway, "streamer_closed_total") == {"4001": 1, "4002": 2}


async def test_websockets_that_the_gateway_closes_are_counted_by_code(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    for message, code in (("x", 1003), ("x", 1003), ("x" * 5000, 1009)):
        async with connect(gateway, path(publisher.name)) as client:
            await client.send(message)
            assert (await end(client)).code == code
    assert await _counted(gateway, "streamer_closed_total") == {"1003": 2, "1009": 1}


async def test_websockets_that_their_clients_end_are_not_counted(gateway: Gateway, publisher: Node) -> None:
    publisher.count(1)
    for _ in range(2):
        async with connect(gateway, path(publisher.name)) as client:
            await receive(client, 1)
            await client.close(CloseCode.GOING_AWAY)
        async with connect(gateway, path(publisher.name)) as client:
            await receive(client, 1)
            client.transport.abort()
        async with talking(gateway):
            pass
    assert await _counted(gateway, "streamer_closed_total") == {}
    assert await _counted(gateway, "streamer_refused_total") == {}


async def test_requests_that_are_refused_are_counted_by_status_but_not_those_of_the_internal_port(
    gateway: Gateway, node: str
) -> None:
    for _ in range(2):
        assert (await refusal(gateway, "/nowhere"))[0] == 404
    assert (await refusal(gateway, path(node, after="x")))[0] == 400
    assert (await ask(gateway.port, path(node))).status == 426
    assert (await ask(gateway.port, "/api/nodes")).status == 200
    assert (await ask(gateway.port, "/", "POST")).status == 405
    assert (await ask(gateway.settings.internal_port or 0, "/nowhere")).status == 404
    assert await _counted(gateway, "streamer_refused_total") == {"400": 1, "404": 2, "405": 1, "426": 1}


async def test_what_is_usual_is_there_before_it_happens(gateway: Gateway) -> None:
    samples = await _samples(gateway)
    assert {"1012": 0, "4003": 0}.items() <= samples["streamer_closed_total"].items()
    assert {"404": 0, "503": 0}.items() <= samples["streamer_refused_total"].items()


async def test_a_gateway_that_stops_says_so_and_counts_whom_it_dismisses(valkey: RedisServer, publisher: Node) -> None:
    publisher.count(1)
    async with serving(valkey) as gateway:
        assert (await _samples(gateway))["streamer_draining"] == {"": 0}
        async with connect(gateway, path(publisher.name)) as plain, talking(gateway) as talker:
            await receive(plain, 1)
            stopping = asyncio.create_task(gateway.stop(DEADLINE_S))
            ends = [asyncio.create_task(one.end() if one is talker else end(plain)) for one in (plain, talker)]
            # One is dismissed at once, the other half of the time later.
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            assert (await _samples(gateway))["streamer_draining"] == {"": 1}
            await eventually("it is counted", lambda: gateway.endings.closed[1012] == 1)
            stopping.cancel()
            assert [(await each).code for each in ends] == [1012, 1012]
            await asyncio.gather(stopping, return_exceptions=True)
    assert +gateway.endings.closed == {1012: 2}
