"""Programs of this package that its commands run as processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def own_program(module: str) -> list[str]:
    """The command that runs a module of ours, by this Python.

    `python -m` looks for it in the working directory first, which may have a `workers` of somebody else's: it does so
    only where that directory is ours.
    """
    return [sys.executable, *([] if _ROOT.samefile(".") else ["-P"]), "-m", module]
