"""A check is a table: how to read a value from the facts, and the cases in which it is not well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from workers.doctor.facts import Facts
from workers.doctor.findings import Finding, Level, Promise

V = TypeVar("V")

ASK_OTHERS = "Look it up where this Redis is managed, or run this as a user who may run INFO and CONFIG GET."


@dataclass(frozen=True)
class Case(Generic[V]):
    """A way in which a value is not well. ``found`` and ``remedy`` are formats for the value, as in `{0}`."""

    applies: Callable[[V], bool]
    level: Level
    found: str
    promise: Promise
    remedy: str


@dataclass(frozen=True)
class Check(Generic[V]):
    """One thing to look at: the first case that applies is the finding; if none does, ``good`` is.

    ``read`` gives None for what could not be found out. ``concerns`` says whether there is anything to look at.
    ``promise`` is what is at risk where it could not be found out.
    """

    title: str
    promise: Promise
    read: Callable[[Facts], V | None]
    good: str
    cases: tuple[Case[V], ...]
    concerns: Callable[[Facts], object] = lambda facts: True
    unknown: str = ASK_OTHERS

    def examine(self, facts: Facts) -> Finding | None:
        """The finding; None where the check does not concern this Redis."""
        if not self.concerns(facts):
            return None
        value = self.read(facts)
        if value is None:
            return Finding(Level.NOTE, self.title, "could not be checked", self.promise, self.unknown, known=False)
        for case in self.cases:
            if case.applies(value):
                found, remedy = case.found.format(value), case.remedy.format(value)
                return Finding(case.level, self.title, found, case.promise, remedy)
        return Finding(Level.OK, self.title, self.good.format(value))
