"""The storm: 20 nodes, 3 gateways, 200 clients, while everything fails. Nothing accepted is missing, nothing doubled.

The seed is drawn, and printed where the test fails. `STREAMER_STORM_SEED=17` has the faults of that seed once more;
`STREAMER_STORM_S=600` has both storms together last ten minutes in place of one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile

import pytest

from tests.commands import command, environment
from tests.faults.failovers import Failovers
from tests.sentinels import Sentinels
from tests.servers import REAL_KINDS
from workers.bench.figures import Result
from workers.bench.lab import open_workshop
from workers.bench.progress import Stage
from workers.bench.storm.house import House
from workers.bench.storm.plan import Plan
from workers.bench.storm.schedule import Fault
from workers.bench.storm.storm import Storm
from workers.bench.storm.table import faults_of

SEED = int(os.environ.get("STREAMER_STORM_SEED", random.randrange(2**31)))
EACH_S = float(os.environ.get("STREAMER_STORM_S", "60")) / 2
FAULT_EVERY_S = 1.0
AFTERWARDS_S = 240.0
"""So long it may take to start everything, and to judge."""

FAULTS = {
    "gateways_killed",
    "gateways_stopped",
    "gateways_frozen",
    "node_processes_killed",
    "node_processes_frozen",
    "times_clients_stalled",
    "times_clients_left",
    "times_clients_came_anew",
    "links_cut",
    "links_silent",
    "restarts_of_redis",
    "times_redis_frozen",
    "clients_of_redis_killed",
    "subscribers_of_redis_killed",
}


def test_nothing_is_lost_where_one_server_and_everything_around_it_fails() -> None:
    options = ["--seed", str(SEED), "--duration-s", f"{EACH_S:g}", "--fault-every-s", f"{FAULT_EVERY_S:g}", "--json"]
    done = subprocess.run(
        command("bench", "storm", *options),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=EACH_S + AFTERWARDS_S,
    )
    assert done.returncode == 0, done.stderr
    assert f"seed {SEED}," in done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == []
    assert {name for name in FAULTS if not result["figures"][name]} == set()
    check_it_was_a_storm(result["figures"])


def test_nothing_is_lost_where_masters_fail_over() -> None:
    plan = Plan(EACH_S, nodes=20, gateways=3, clients=200, rate=5.0, seed=SEED, fault_every_s=FAULT_EVERY_S)
    result = Result("storm", {})
    print(f"STREAMER_STORM_SEED={SEED}")
    with (
        Sentinels(REAL_KINDS[SEED % len(REAL_KINDS)]) as sentinels,
        Failovers(sentinels) as failovers,
        open_workshop("streamer:", sentinels.url) as workshop,
        House(workshop, plan, sentinels.url, "streamer:") as house,
        Stage() as stage,
    ):
        faults: list[Fault] = [*faults_of(house), *failovers.faults]
        house.start()
        Storm(house, faults, stage, workshop.directory / "ends", failovers.heal).run(result)
        if result.faults:
            kept = tempfile.mkdtemp(prefix="streamer-storm-")
            shutil.copytree(workshop.directory, kept, dirs_exist_ok=True)
            pytest.fail(f"{result.verdict()}\nfiles of all processes: {kept}")
    figures = result.as_json()["figures"]
    assert [fault.name for fault in faults if not figures[fault.key]] == []
    check_it_was_a_storm(figures)


def check_it_was_a_storm(figures: dict[str, float]) -> None:
    """Fail where nothing was published, or nobody noticed anything."""
    print(json.dumps(figures, indent=1))
    assert figures["accepted"] > 20 * EACH_S
    assert figures["delivered"] > figures["accepted"]
    assert figures["connections_lost"] > 50
    assert figures["connections_closed"] > 0
