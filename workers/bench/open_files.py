"""How many files, and so connections, a process may have open."""

from __future__ import annotations

import resource

from streamer.core.errors import InvalidSetting

BESIDES = 200
"""What a process opens beside its connections."""


def allow_connections(number: int) -> None:
    """Let this process, and all that it starts, have so many connections. Raises InvalidSetting where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = number + BESIDES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise InvalidSetting(
            f"{number:,} clients need {needed:,} open files, and this system allows {hard:,} (see ulimit -Hn)"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
