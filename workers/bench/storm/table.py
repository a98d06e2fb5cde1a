"""The faults that a storm may cause in what is its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import redis

from workers.bench.storm.house import House
from workers.bench.storm.orders import Leave, Stall
from workers.bench.storm.parts import Part, Server
from workers.bench.storm.schedule import Fault, Strike

Client = Callable[[], redis.Redis]

SHARE_STALLED, SHARE_LEAVING, SHARE_ANEW = 4, 4, 10
"""Of so many clients one is hit."""


def faults_of(house: House) -> list[Fault]:
    """The table: what may happen to the house, and to the Redis where that is its own."""
    server = house.server
    return [
        *_faults_of_gateways(house),
        *_faults_of_nodes(house),
        *_faults_of_clients(house),
        *(_faults_of_links(house) if house.links else []),
        *(_faults_of_server(server) if server is not None else []),
    ]


def client_kills(name: str, client: Client) -> list[Fault]:
    """What `CLIENT KILL` does: a server ends all connections of a kind, as an operator may have it do."""

    def kill(kind: str) -> Callable[[Strike], None]:
        def begin(_: Strike) -> None:
            try:
                with client() as asking:
                    ask: Any = asking.execute_command
                    ask("CLIENT", "KILL", "TYPE", kind)
            except redis.RedisError:
                pass  # it is down, and has no clients

        return begin

    return [
        Fault("clients of Redis killed", "kills the connections of its clients", [name], kill("normal")),
        Fault("subscribers of Redis killed", "kills the connections of its subscribers", [name], kill("pubsub")),
    ]


def _faults_of_gateways(house: House) -> list[Fault]:
    gateways = {gateway.name: gateway for gateway in house.gateways}

    def start(strike: Strike) -> None:
        gateways[strike.target].start()

    return [
        Fault(
            "gateways killed",
            "is killed, and away",
            list(gateways),
            lambda strike: gateways[strike.target].kill(),
            start,
            (0.2, 3.0),
            rest_s=2.0,
        ),
        Fault(
            "gateways stopped",
            "is stopped in order, and away",
            list(gateways),
            lambda strike: gateways[strike.target].stop(),
            start,
            (1.5, 3.0),
            rest_s=2.0,
        ),
        _freezing("gateways frozen", gateways, (0.5, 4.0)),
    ]


def _faults_of_nodes(house: House) -> list[Fault]:
    nodes = {node.name: node for node in house.nodes}

    def kill(strike: Strike) -> None:
        house.note_writers()
        nodes[strike.target].kill()

    return [
        Fault(
            "node processes killed",
            "is killed, and away",
            list(nodes),
            kill,
            lambda strike: nodes[strike.target].start(),
            (0.0, 2.0),
            rest_s=1.0,
        ),
        _freezing("node processes frozen", nodes, (0.5, 4.0)),
    ]


def _faults_of_clients(house: House) -> list[Fault]:
    everyone = range(house.plan.clients)

    def some(strike: Strike, share: int) -> list[int]:
        return Random(strike.draw).sample(everyone, max(1, len(everyone) // share))

    def leaving(share: int, *, anew: bool) -> Callable[[Strike], None]:
        return lambda strike: house.tell_clients(Leave(some(strike, share), anew))

    def stall(strike: Strike) -> None:
        house.tell_clients(Stall(some(strike, SHARE_STALLED), strike.lasts_s))

    return [
        Fault("times clients stalled", "stall", ["some clients"], stall, _nothing, (0.5, 5.0)),
        Fault("times clients left", "leave and come back", ["some clients"], leaving(SHARE_LEAVING, anew=False)),
        Fault("times clients came anew", "give way to new ones", ["some clients"], leaving(SHARE_ANEW, anew=True)),
    ]


def _faults_of_links(house: House) -> list[Fault]:
    links = house.links
    return [
        Fault(
            "links cut",
            "is cut",
            list(links),
            lambda strike: links[strike.target].cut(),
            lambda strike: links[strike.target].mend(),
            (0.0, 3.0),
            rest_s=1.0,
        ),
        Fault(
            "links silent",
            "is silent",
            list(links),
            lambda strike: links[strike.target].hold(),
            lambda strike: links[strike.target].release(),
            (0.5, 6.0),
            rest_s=1.0,
        ),
    ]


def _faults_of_server(server: Server) -> list[Fault]:
    targets: Sequence[str] = [server.name]
    return [
        Fault(
            "restarts of Redis",
            "is killed, and away",
            targets,
            lambda _: server.kill(),
            lambda _: server.start(),
            (0.1, 2.0),
            rest_s=2.0,
        ),
        _freezing("times Redis frozen", {server.name: server}, (0.5, 3.0)),
        *client_kills(server.name, server.client),
    ]


def _freezing(name: str, parts: dict[str, Any], lasts_s: tuple[float, float]) -> Fault:
    def part(strike: Strike) -> Part:
        found: Part = parts[strike.target]
        return found

    return Fault(
        name,
        "stands still",
        list(parts),
        lambda strike: part(strike).freeze(),
        lambda strike: part(strike).thaw(),
        lasts_s,
        rest_s=1.0,
    )


def _nothing(_: Strike) -> None:
    """It ends by itself."""
