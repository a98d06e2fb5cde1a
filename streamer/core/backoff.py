"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def backoff(rng: Random, first_s: float = 0.5, most_s: float = 10.0) -> Iterator[float]:
    """Yield waits in seconds without end: each is drawn from zero to a ceiling that doubles up to ``most_s``.

    Full jitter spreads a herd best: see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The floor
    of a fifth keeps a lucky draw from becoming a busy loop.
    """
    ceiling = first_s
    while True:
        yield max(ceiling / 5, rng.uniform(0, ceiling))
        ceiling = min(most_s, ceiling * 2)
