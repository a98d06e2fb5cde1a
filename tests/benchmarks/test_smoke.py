"""Each benchmark at a small size, where only one thing counts: that every update arrives once and in order."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.building import COMPILER
from tests.benchmarks.lab import Lab, open_lab
from tests.benchmarks.rows import BY_NAME, ROWS, Row
from tests.servers import missing

ROOT = Path(__file__).resolve().parents[2]
QUIET_S = 0.05


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if shutil.which(COMPILER) is None:
        missing(COMPILER)
    with open_lab(QUIET_S) as lab:
        yield lab


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_in_each_benchmark_everything_arrives_once_and_in_order(lab: Lab, row: Row) -> None:
    figures = row.run(lab, small=True)  # raises NotWhole
    keys = [figure.key for figure in figures]
    assert keys
    assert len(set(keys)) == len(keys)
    assert any(figure.target for figure in figures), "what it must reach is not said"


def _benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command_shows_its_figures_and_writes_them_to_a_file(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = _benchmarks("connecting", "--small", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "handshakes per second of a core" in done.stdout
    written = json.loads(file.read_text())
    assert written["small"] is True
    assert written["rows"]["connecting"]["per_s"]["value"] > 0


def test_the_command_lists_its_rows() -> None:
    done = _benchmarks("--list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(BY_NAME)


def test_the_command_refuses_a_row_that_is_none() -> None:
    done = _benchmarks("fast")
    assert done.returncode == 2
    assert "'fast' is not one of 'all'" in done.stderr
