"""When fault rules strike: order, counting, time to live, chance."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from crm_provider.sandbox.clock import Clock
from crm_provider.sandbox.faults import Fault, Sighting


@dataclass(frozen=True, kw_only=True)
class FaultStatus:
    """A rule and what it has done so far.

    :param matched: calls that the rule was about
    :param hits: calls that it struck
    :param active: False once its count or its time is used up
    """

    fault: Fault
    matched: int
    hits: int
    active: bool

    def as_json(self) -> dict[str, Any]:
        """The rule's fields together with its counters."""
        return {**asdict(self.fault), "matched": self.matched, "hits": self.hits, "active": self.active}


class _Rule:
    """A rule at work."""

    def __init__(self, fault: Fault, clock: Clock) -> None:
        self.fault = fault
        self.matched = 0
        self.hits = 0
        self._clock = clock
        self._added_at = clock.monotonic()
        self._random = random.Random(fault.seed)  # noqa: S311 - repeatable, nothing secret

    @property
    def active(self) -> bool:
        spent = self.fault.count is not None and self.hits >= self.fault.count
        age = self._clock.monotonic() - self._added_at
        return not spent and not (self.fault.seconds is not None and age >= self.fault.seconds)

    def strikes(self, sighting: Sighting) -> bool:
        if not self.active or not self.fault.matches(sighting):
            return False
        self.matched += 1
        if self.matched <= self.fault.after or self.fault.nth not in (None, self.matched):
            return False
        if self._random.random() >= self.fault.probability:
            return False
        self.hits += 1
        return True


class FaultBook:
    """Rules in the order in which they were added: the first that strikes wins, later ones do not see the call."""

    def __init__(self, clock: Clock, faults: Iterable[Fault] = ()) -> None:
        self._clock = clock
        self._rules: list[_Rule] = []
        self._added = 0
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> Fault:
        """Add a rule.

        :return: the rule with its name
        :raises ValueError: another rule has this name
        """
        self._added += 1
        named = fault if fault.name else replace(fault, name=f"{fault.effect}-{self._added}")
        if any(rule.fault.name == named.name for rule in self._rules):
            raise ValueError(f"there is a fault named {named.name!r} already")
        self._rules.append(_Rule(named, self._clock))
        return named

    def remove(self, name: str) -> bool:
        """Take a rule out; False if there is none with this name."""
        kept = [rule for rule in self._rules if rule.fault.name != name]
        removed = len(kept) < len(self._rules)
        self._rules = kept
        return removed

    def clear(self) -> None:
        """Take all rules out."""
        self._rules.clear()

    def pick(self, sighting: Sighting, *, in_front: bool) -> Fault | None:
        """The rule that strikes this call here, if any.

        :param in_front: asked before the rate limit, else after it: each rule belongs to one of the two places
        """
        here = (rule for rule in self._rules if rule.fault.in_front is in_front)
        return next((rule.fault for rule in here if rule.strikes(sighting)), None)

    def statuses(self) -> list[FaultStatus]:
        """All rules with their counters."""
        return [
            FaultStatus(fault=rule.fault, matched=rule.matched, hits=rule.hits, active=rule.active)
            for rule in self._rules
        ]
