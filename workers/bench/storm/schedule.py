"""Which fault happens when, and to what: all of it follows from a seed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Strike:
    """A fault that happens: at a time since the start, to a target, for so long. ``draw`` is for its own choices."""

    at_s: float
    fault: Fault
    target: str
    lasts_s: float
    draw: int

    def __str__(self) -> str:
        return f"{self.target} {self.fault.does}" + (f" for {self.lasts_s:.1f} s" if self.fault.end else "")


@dataclass(frozen=True)
class Fault:
    """A kind of fault: ``name`` for figures, and what it does to its target, as in "gateway 1" "is killed".

    It hits one of ``targets`` at a time, lasts between so many seconds, and then leaves its target alone for
    ``rest_s`` seconds, so that this can recover; `begin` and, where it has one, `end` return soon.
    """

    name: str
    does: str
    targets: Sequence[str]
    begin: Callable[[Strike], None]
    end: Callable[[Strike], None] | None = None
    lasts_s: tuple[float, float] = (0.0, 0.0)
    rest_s: float = 0.5

    @property
    def key(self) -> str:
        """The name for programs."""
        return self.name.replace(" ", "_").lower()


def schedule(faults: Sequence[Fault], seed: int, duration_s: float, every_s: float) -> list[Strike]:
    """The faults of a storm, in order of time: every kind once, before any comes again.

    What is hit is not hit again before it has recovered, by whatever kind; all is over at the end.
    """
    rng = Random(f"storm:{seed}")
    free_at: dict[str, float] = {}
    deck: list[Fault] = []
    strikes: list[Strike] = []
    at_s = 0.0
    while (at_s := at_s + every_s * rng.uniform(0.5, 1.5)) < duration_s:
        if len(deck) < len(faults):
            # Behind what is left of those before, which wait for their targets.
            deck += rng.sample(faults, len(faults))
        for fault in deck:
            lasts_s = rng.uniform(*fault.lasts_s)
            free = [target for target in fault.targets if free_at.get(target, 0.0) <= at_s]
            if free and at_s + lasts_s <= duration_s:
                target = rng.choice(free)
                free_at[target] = at_s + lasts_s + fault.rest_s
                strikes.append(Strike(at_s, fault, target, lasts_s, rng.getrandbits(32)))
                deck.remove(fault)
                break
    return strikes
