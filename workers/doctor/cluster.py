"""A cluster: whether all slots are served, whether each master has a replica, and whether the URL means a cluster."""

from __future__ import annotations

from typing import NamedTuple

from workers.doctor.checks import Case, Check
from workers.doctor.facts import Cluster, Facts, Member
from workers.doctor.findings import Level, Promise
from workers.doctor.server import Server, server_of

SLOTS = 16384


class State(NamedTuple):
    """A cluster's state, by its own word, and how many slots nobody has, or have a server that is away."""

    state: str
    unassigned: int
    failing: int


class Masters(NamedTuple):
    """How many masters have slots, and those without a replica that is well, in words."""

    number: int
    alone: str


def parse_members(nodes: str) -> tuple[Member, ...]:
    """Read the answer to CLUSTER NODES. Raises ValueError where it is none."""
    return tuple(_member(line.split()) for line in nodes.splitlines() if line.strip())


def _member(words: list[str]) -> Member:
    if len(words) < 8:
        raise ValueError(f"no line of CLUSTER NODES: {words!r:.200}")
    member_id, address, flags, master, _, _, _, link, *slots = words
    well = not {"fail", "fail?", "noaddr", "handshake"} & set(flags.split(",")) and link == "connected"
    return Member(
        address.partition("@")[0],
        member_id,
        "" if master == "-" else master,
        well,
        tuple(_slots(each) for each in slots if not each.startswith("[")),
        "myself" in flags.split(","),
    )


def _slots(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def parse_info(text: str) -> dict[str, str]:
    """Read the answer to CLUSTER INFO."""
    return {name: value for name, colon, value in (line.partition(":") for line in text.splitlines()) if colon}


def own_slots(cluster: Cluster) -> tuple[range, ...]:
    """The slots of the server that was asked."""
    return next((member.slots for member in cluster.members if member.myself), ())


def _state(facts: Facts) -> State | None:
    if facts.cluster is None:
        return None
    numbers = {name: int(value) for name, value in facts.cluster.info.items() if value.isdecimal()}
    if "cluster_slots_assigned" not in numbers:
        return None
    failing = numbers.get("cluster_slots_fail", 0) + numbers.get("cluster_slots_pfail", 0)
    return State(facts.cluster.info.get("cluster_state", "unknown"), SLOTS - numbers["cluster_slots_assigned"], failing)


def _masters(facts: Facts) -> Masters | None:
    if facts.cluster is None or not facts.cluster.members:
        return None
    masters = [member for member in facts.cluster.members if not member.master_id and member.slots]
    followed = {member.master_id for member in facts.cluster.members if member.well}
    return Masters(len(masters), ", ".join(each.address for each in masters if each.id not in followed))


def _address(facts: Facts) -> str | None:
    return "cluster" if facts.scheme.endswith("+cluster") else facts.scheme


def _clustered(facts: Facts) -> bool:
    return facts.clustered


CHECKS: tuple[Check[State] | Check[Masters] | Check[str] | Check[Server], ...] = (
    Check(
        "slots of the cluster",
        Promise.ACCEPTED,
        _state,
        "all are served",
        (
            Case(
                lambda state: state.unassigned > 0,
                Level.PROBLEM,
                "{0.unassigned:,} slots have no server (cluster_state {0.state}): nodes whose names fall on them "
                "cannot append, and perhaps none can",
                Promise.ACCEPTED,
                "Assign them: redis-cli --cluster fix HOST:PORT.",
            ),
            Case(
                lambda state: state.failing > 0,
                Level.PROBLEM,
                "{0.failing:,} slots have a server that is away (cluster_state {0.state}): nodes whose names fall on "
                "them wait",
                Promise.FAILED_OVER,
                "Bring the server back, or promote its replica: CLUSTER FAILOVER TAKEOVER.",
            ),
            Case(
                lambda state: state.state != "ok",
                Level.PROBLEM,
                "cluster_state {0.state}: appends are refused",
                Promise.ACCEPTED,
                "Look at CLUSTER INFO and CLUSTER NODES on each server.",
            ),
        ),
        concerns=_clustered,
        unknown="Run this as a user who may run CLUSTER INFO.",
    ),
    Check(
        "masters of the cluster",
        Promise.FAILED_OVER,
        _masters,
        "{0.number}, each with a replica",
        (
            Case(
                lambda masters: bool(masters.alone),
                Level.WARNING,
                "{0.alone} without a replica: when it fails, the nodes whose names fall on its slots wait for it",
                Promise.FAILED_OVER,
                "Give each master a replica, on another machine: CLUSTER REPLICATE.",
            ),
            Case(
                lambda masters: masters.number < 3,
                Level.WARNING,
                "only {0.number}: when one fails, there is no majority to promote its replica",
                Promise.FAILED_OVER,
                "Run three masters or more.",
            ),
        ),
        concerns=_clustered,
        unknown="Run this as a user who may run CLUSTER NODES.",
    ),
    Check(
        "URL of the cluster",
        Promise.ACCEPTED,
        _address,
        "means the cluster",
        (
            Case(
                lambda scheme: scheme != "cluster",
                Level.PROBLEM,
                "{0}:// means a single server, and this one is of a cluster: nodes whose names fall on others' slots "
                "cannot append",
                Promise.ACCEPTED,
                "Use redis+cluster://HOST:PORT,HOST:PORT.",
            ),
        ),
        concerns=_clustered,
    ),
    Check(
        "sharded pub/sub",
        Promise.LIVE,
        server_of,
        "is there",
        (
            Case(
                lambda server: server.kind == "Redis" and int(server.version.partition(".")[0]) < 7,
                Level.PROBLEM,
                "there is none before Redis 7, and on a cluster nothing is live without it",
                Promise.LIVE,
                "Upgrade to Redis 7 or later, or Valkey.",
            ),
        ),
        concerns=_clustered,
    ),
    Check(
        "other servers of the cluster",
        Promise.HISTORY,
        lambda facts: None,
        "",
        (),
        concerns=_clustered,
        unknown="Settings were read from one server. Run this for each master, with its own address.",
    ),
)
