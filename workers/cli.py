"""The entry point: as little as can be, since whatever comes before `main` has no say in what Ctrl-C does."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""The exit status of what Ctrl-C has ended, as shells give it: 128 and the signal's number."""


def main() -> None:
    """Run the command line and end the process with its exit status."""
    try:
        # Not at the top: this takes some tenths of a second, in which people press Ctrl-C as well.
        from workers.commands import run

        status = run(INTERRUPTED)
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)
