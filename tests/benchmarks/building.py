"""Builds the programs in C that the benchmarks use: the clients, which cost little themselves, and the floor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from workers.local_parts import PartFailed

COMPILER = "cc"
_SOURCES = Path(__file__).parent
_PROGRAMS = {"load": ("load.c", "stream.c"), "floor": ("floor.c",)}


class Programs(NamedTuple):
    """Where the programs are. What each one does, its source says."""

    load: Path
    floor: Path


def build(directory: Path) -> Programs:
    """Compile them into a directory. Raises PartFailed where there is no compiler, or it fails."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise PartFailed(f"there is no C compiler ({COMPILER}): on Debian, install gcc and libc6-dev")
    for program, sources in _PROGRAMS.items():
        command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(directory / program)]
        done = subprocess.run([*command, *(str(_SOURCES / name) for name in sources)], capture_output=True, text=True)
        if done.returncode:
            raise PartFailed(f"{program} cannot be compiled:\n{done.stderr.strip()}")
    return Programs(*(directory / program for program in Programs._fields))
