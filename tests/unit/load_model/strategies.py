"""Random scenarios: few people and few values, so that rows and contacts overlap.

A scenario is decoded from one byte string with a fixed position for everything. So hypothesis creates each example
anew (with many small draws it would derive five of six from the one before), and shrinks fast: a zero is "left out" or
the simplest choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st

from .fake_crm import ERROR_BODIES, FAULTS, key_of
from .scenario import Beside, Fault, LoadSpec, Person, Scenario

T = TypeVar("T")

PEOPLE = (
    "ada@x.org", "bob@x.org", "cem@x.org", "dot@x.org", "eva@x.org", "zo\u00e9@x.org", "fay@x.org", "gus@x.org",
    "hal@x.org", "ida@x.org", "jim@x.org", "kay@x.org",
)  # fmt: skip
"""Addresses that the CRM may have before the first load."""

ADDRESSES = (*PEOPLE[:6], "new1@x.org", "new2@x.org", "n\u00fc3@x.org")
"""Addresses of rows."""

SPELLINGS: dict[str, Callable[[str], str]] = {
    "unchanged": lambda email: email,
    "in upper case": lambda email: email.upper(),
    "decomposed": lambda email: email.replace("\u00e9", "e\u0301").replace("\u00fc", "u\u0308"),
}
ENTRIES: dict[str, Callable[[str], str]] = {
    **SPELLINGS,
    "hashed": lambda email: hashlib.sha256(key_of(email).encode()).hexdigest(),
}

LEFT_OUT = object()
NAMES = ("a", "b", "c", "d")
VALUES = (LEFT_OUT, "x", "y", "x", LEFT_OUT, 1, "1", [1], [True], True)
CELLS = (*VALUES, "x", "y", "", None, "  x ")
NO_EMAIL = ("nobody", "", None)
CONSENTS = ("active", "active", "active", "unsubscribed", "blacklisted", "unsubscribedAt")
LISTS = ((), (0,), (1,), (0, 1))
PLACES = (*range(9), *range(9), *range(9), *range(9, 41))
"""Calls at which faults occur: most loads take about twenty."""

KINDS = (
    "lost before", "lost before", "lost before", "lost after", "lost after", "429", "429", "quota", "quota", *FAULTS,
    "kill before", "kill after", "interrupt",
)  # fmt: skip
COUNTS = (1, 1, 1, 2, 6, 14)
CHANGES = (
    "unsubscribe",
    "unsubscribe",
    "blacklist",
    "blacklist",
    "resubscribe",
    "set",
    "create",
    "delete",
    "list",
    "unlist",
)

MOST_ROWS, MOST_LOADS, MOST_FAULTS, MOST_CHANGES = 15, 3, 4, 3


class Dice:
    """Choices, one byte each."""

    def __init__(self, data: bytes) -> None:
        self._data, self.used = data, 0

    def pick(self, choices: Sequence[T]) -> T:
        """One of several. The first one is the simplest."""
        self.used += 1
        return choices[self._data[self.used - 1] % len(choices)]

    def chance(self, share: float) -> bool:
        """True in a share of the cases. False is the simplest."""
        self.used += 1
        return self._data[self.used - 1] >= 256 * (1 - share)


def scenario_of(data: bytes) -> Scenario:
    """The scenario encoded in some bytes."""
    return _scenario(Dice(data))


def _scenario(dice: Dice) -> Scenario:
    people = [_person(dice, email) for email in PEOPLE]
    loads: list[LoadSpec] = []
    rows: list[dict[str, Any] | None] = [None] * MOST_ROWS
    for number in range(MOST_LOADS):
        is_there, spec, rows = dice.chance(0.55), *_load(dice, rows, is_first=number == 0)
        if (is_there or number == 0) and spec.rows:
            loads.append(spec)
    return Scenario(
        people=tuple(person for person in people if person),
        loads=tuple(loads),
        state=not dice.chance(0.3),
        skew=dice.pick((0.0, -90.0, 3600.0)),
        dates=dice.pick(("both", "both", "both", "no Date", "no createdAt")),
        errors=dice.pick(("typed", "typed", *ERROR_BODIES)),
        envelope=not dice.chance(0.3),
    )


def _person(dice: Dice, email: str) -> Person | None:
    is_there = dice.chance(0.55)
    made = Person(email, _some(dice, VALUES), dice.pick(CONSENTS), dice.pick(LISTS))
    return made if is_there else None


def _some(dice: Dice, values: Sequence[Any]) -> dict[str, Any]:
    has_values, found = not dice.chance(0.15), {name: dice.pick(values) for name in NAMES}
    return {name: value for name, value in found.items() if has_values and value is not LEFT_OUT}


def _load(
    dice: Dice, before: list[dict[str, Any] | None], *, is_first: bool
) -> tuple[LoadSpec, list[dict[str, Any] | None]]:
    rows = [_row(dice, row, is_first=is_first) for row in before]
    mode = dice.pick(("upsert", "upsert", "create", "create", "update"))
    plan = dice.pick(("auto", "compare", "learned", "compare"))
    options = {
        "rows": tuple(row for row in rows if row is not None),
        "mode": mode,
        "plan": "auto" if plan == "learned" and mode != "upsert" else plan,
        "empty": dice.pick(("skip", "skip", "clear", "null", "keep")),
        "duplicates": dice.pick(("last", "first", "reject")),
        "lists": dice.pick(LISTS),
        "resubscribe": dice.chance(0.25),
        "suppression": tuple(entry for entry in (_entry(dice), _entry(dice)) if entry),
        "full_refresh": dice.chance(0.2),
    }
    is_calm = dice.chance(0.3)
    changes = [_change(dice) for _ in range(MOST_CHANGES)]
    weather = {
        "faults": _faults(dice, MOST_FAULTS),
        "kills": _kills(dice),
        "abandon": dice.chance(0.15),
        "resend": dice.chance(0.5),
        "resend_faults": _faults(dice, 2),
    }
    beside = tuple(change for change in changes if change and not (is_calm and change.at is not None))
    return LoadSpec(**options, beside=beside, **({} if is_calm else weather)), rows


def _row(dice: Dice, before: dict[str, Any] | None, *, is_first: bool) -> dict[str, Any] | None:
    """A row. In a later load mostly that of the load before."""
    is_new, is_there = dice.chance(0.3), dice.chance(0.55)
    address, spelling = dice.pick(ADDRESSES), dice.pick([*SPELLINGS])
    is_invalid, invalid = dice.chance(0.05), dice.pick(NO_EMAIL)
    row = {"email": invalid if is_invalid else SPELLINGS[spelling](address), **_some(dice, CELLS)}
    if not is_first and not is_new:
        return before
    return row if is_there else None


def _entry(dice: Dice) -> str | None:
    is_there, email, how = dice.chance(0.3), dice.pick((*ADDRESSES, PEOPLE[5], ADDRESSES[-1])), dice.pick([*ENTRIES])
    return ENTRIES[how](email) if is_there else None


def _faults(dice: Dice, most: int) -> tuple[Fault, ...]:
    found = [(dice.chance(0.4), Fault(dice.pick(PLACES), dice.pick(KINDS), dice.pick(COUNTS))) for _ in range(most)]
    return tuple(fault for is_there, fault in found if is_there)


def _change(dice: Dice) -> Beside | None:
    is_there, what, email = dice.chance(0.45), dice.pick(CHANGES), dice.pick(ADDRESSES)
    attributes, at = _some(dice, VALUES), dice.pick((None, *PLACES))
    at = at if dice.chance(0.6) else None
    return Beside(what, email, attributes if what in ("set", "create") else {}, at) if is_there else None


def _kills(dice: Dice) -> tuple[tuple[int, str], ...]:
    is_there, kill = dice.chance(0.2), (dice.pick(range(6)), dice.pick(("before", "after")))
    return (kill,) if is_there else ()


def _size() -> int:
    """The bytes of a scenario."""
    dice = Dice(bytes(10_000))
    _scenario(dice)
    return dice.used


SIZE = _size()
scenarios = st.binary(min_size=SIZE, max_size=SIZE).map(scenario_of)
