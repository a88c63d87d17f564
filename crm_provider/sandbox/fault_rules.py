"""When faults apply: the rules of a sandbox in order, and the built-in rules of the magic emails."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from crm_provider.sandbox.faults import Fault, RequestFacts
from crm_provider.sandbox.settings import Clock

# -- rules --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FaultStatus:
    """A rule and its counters.

    :param matched: number of requests that the rule matched
    :param hits: number of requests that it was applied to
    :param active: False once its count or its lifetime is used up
    """

    fault: Fault
    matched: int
    hits: int
    active: bool

    def as_json(self) -> dict[str, Any]:
        """The rule's fields together with its counters."""
        return {**asdict(self.fault), "matched": self.matched, "hits": self.hits, "active": self.active}


class _ActiveRule:
    """A rule with its counters and its random numbers."""

    def __init__(self, fault: Fault, clock: Clock) -> None:
        self.fault = fault
        self.matched = 0
        self.hits = 0
        self._clock = clock
        self._added_at = clock.monotonic()
        self._random = random.Random(fault.seed)  # noqa: S311 - repeatable, nothing secret

    @property
    def active(self) -> bool:
        used_up = self.fault.count is not None and self.hits >= self.fault.count
        age = self._clock.monotonic() - self._added_at
        return not used_up and not (self.fault.seconds is not None and age >= self.fault.seconds)

    def applies(self, facts: RequestFacts) -> bool:
        """Count this request, and return whether the rule applies to it."""
        if not self.active or not self.fault.matches(facts):
            return False
        self.matched += 1
        if self.matched <= self.fault.after or self.fault.nth not in (None, self.matched):
            return False
        if self._random.random() >= self.fault.probability:
            return False
        self.hits += 1
        return True


class FaultRules:
    """Rules in the order of their addition. The first one that applies wins; later ones do not see the request."""

    def __init__(self, clock: Clock, faults: Iterable[Fault] = ()) -> None:
        self._clock = clock
        self._rules: list[_ActiveRule] = []
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
        self._rules.append(_ActiveRule(named, self._clock))
        return named

    def remove(self, name: str) -> bool:
        """Remove a rule; False if there is none with this name."""
        kept = [rule for rule in self._rules if rule.fault.name != name]
        removed = len(kept) < len(self._rules)
        self._rules = kept
        return removed

    def clear(self) -> None:
        """Remove all rules."""
        self._rules.clear()

    def pick(self, facts: RequestFacts, *, in_front: bool) -> Fault | None:
        """The rule that applies to this request, or None.

        :param in_front: True before the rate limit, False behind it; each rule belongs to one of the two places
        """
        here = (rule for rule in self._rules if rule.fault.in_front is in_front)
        return next((rule.fault for rule in here if rule.applies(facts)), None)

    def statuses(self) -> list[FaultStatus]:
        """All rules with their counters."""
        return [
            FaultStatus(fault=rule.fault, matched=rule.matched, hits=rule.hits, active=rule.active)
            for rule in self._rules
        ]


# -- magic emails: addresses that misbehave without a rule of the user ----------------------------------------

MAGIC_DOMAIN = "sandbox.test"


@dataclass(frozen=True, kw_only=True)
class MagicEmail:
    """One magic address.

    :param name: the part before the ``@``; ``name+anything`` works as well, with its own counters
    :param does: what happens, for the documentation and the command line
    :param faults: the rules that make it happen
    :param blocked: the contact is unsubscribed and blacklisted as soon as it is created
    """

    name: str
    does: str
    faults: tuple[Fault, ...] = ()
    blocked: bool = False

    @property
    def email(self) -> str:
        return f"{self.name}@{MAGIC_DOMAIN}"


MAGIC_EMAILS = (
    MagicEmail(
        name="throttled",
        does="the first 2 requests get 429, later ones succeed",
        faults=(Fault(effect="error", error="throttled", count=2),),
    ),
    MagicEmail(
        name="quota",
        does="every request gets 429 Limit Exceeded with Retry-After: 3600",
        faults=(Fault(effect="error", error="quota used up", retry_after=3600),),
    ),
    MagicEmail(
        name="invalid",
        does="POST and PUT get INVALID_INPUT",
        faults=tuple(Fault(effect="error", error="INVALID_INPUT", method=method) for method in ("POST", "PUT")),
    ),
    MagicEmail(
        name="lost",
        does="the first POST is carried out, but its response is lost: the connection closes",
        faults=(Fault(effect="lost", method="POST", count=1),),
    ),
    MagicEmail(
        name="outage",
        does="the first 7 requests get 503, later ones succeed",
        faults=(Fault(effect="error", error="unavailable", count=7),),
    ),
    MagicEmail(
        name="error",
        does="every request gets 500 INTERNAL_SERVER_ERROR",
        faults=(Fault(effect="error", error="INTERNAL_SERVER_ERROR"),),
    ),
    MagicEmail(
        name="slow",
        does="every response takes 2 seconds",
        faults=(Fault(effect="latency", latency=2.0),),
    ),
    MagicEmail(
        name="forbidden",
        does="every request gets 403 FORBIDDEN",
        faults=(Fault(effect="error", error="FORBIDDEN"),),
    ),
    MagicEmail(
        name="html",
        does="every request gets a proxy's HTML page with status 200",
        faults=(Fault(effect="html", status=200),),
    ),
    MagicEmail(
        name="blocked",
        does="the contact has unsubscribedAt and blacklistedAt as soon as it is created",
        blocked=True,
    ),
)
"""All magic addresses. The sandbox, its command line, the documentation and the tests use this table."""


def magic_email(email: str | None) -> MagicEmail | None:
    """The magic address that this email belongs to; case and a ``+tag`` are ignored."""
    local, _, domain = (email or "").lower().rpartition("@")
    if domain != MAGIC_DOMAIN:
        return None
    name = local.partition("+")[0]
    return next((row for row in MAGIC_EMAILS if row.name == name), None)


class MagicFaults:
    """The rules of the magic addresses with their counters, separate for each address with its tag."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rules_of: dict[str, FaultRules] = {}

    def pick(self, facts: RequestFacts, *, in_front: bool) -> Fault | None:
        """The rule that applies to this request, or None; see :meth:`FaultRules.pick`."""
        row = magic_email(facts.email)
        if row is None or facts.email is None:
            return None
        if facts.email not in self._rules_of:
            faults = (replace(f, name=f"magic:{row.name}:{number}") for number, f in enumerate(row.faults, start=1))
            self._rules_of[facts.email] = FaultRules(self._clock, faults)
        return self._rules_of[facts.email].pick(facts, in_front=in_front)
