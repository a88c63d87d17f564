"""Scenarios by chance: few people and few values, so that rows and contacts overlap."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import strategies as st

from .fake_crm import ERROR_BODIES, FAULTS, key_of
from .scenario import Beside, Fault, LoadSpec, Person, Scenario

PEOPLE = (
    "ada@x.org", "bob@x.org", "cem@x.org", "dot@x.org", "eva@x.org", "fay@x.org", "gus@x.org", "hal@x.org",
    "ida@x.org", "jim@x.org", "kay@x.org", "zo\u00e9@x.org",
)  # fmt: skip
NEW = ("new1@x.org", "new2@x.org", "n\u00fc3@x.org")
SPELLINGS = {
    "as it is": lambda email: email,
    "in upper case": lambda email: email.upper(),
    "decomposed": lambda email: email.replace("\u00e9", "e\u0301").replace("\u00fc", "u\u0308"),
}

NAMES = ("a", "b", "c", "d")
LEFT_OUT = object()
VALUES = (LEFT_OUT, LEFT_OUT, "x", "y", "x", "y", 1, "1", [1], [True], True)
CELLS = (LEFT_OUT, LEFT_OUT, "x", "y", "x", "y", 1, "1", [1], [True], True, "", None, "  x ")


def some_of(values: tuple[Any, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """For each name one of the values, or none: one number for all, for that is drawn fast."""

    def spell(number: int) -> dict[str, Any]:
        found = {}
        for name in NAMES:
            number, place = divmod(number, len(values))
            if values[place] is not LEFT_OUT:
                found[name] = values[place]
        return found

    return st.integers(0, len(values) ** len(NAMES) - 1).map(spell)


attributes = some_of(VALUES)
cells = some_of(CELLS)
addresses = st.sampled_from([*PEOPLE[:5], PEOPLE[-1], *NEW])
any_address = st.sampled_from([*PEOPLE, *NEW])
spelled = st.builds(lambda email, how: SPELLINGS[how](email), addresses, st.sampled_from([*SPELLINGS]))
consents = st.sampled_from(["active", "active", "active", "unsubscribed", "blacklisted", "unsubscribedAt"])
lists = st.sampled_from([(), (0,), (1,), (0, 1)])

people = st.lists(
    st.builds(Person, any_address, attributes, consents, lists),
    min_size=3, max_size=12, unique_by=lambda person: key_of(person.email),
).map(tuple)  # fmt: skip


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    email = draw(spelled) if draw(st.integers(0, 15)) else draw(st.sampled_from(["", "nobody", None]))
    return {"email": email, **draw(cells)}


rows = st.lists(row(), min_size=3, max_size=15).map(tuple)
places = st.integers(0, 8) | st.integers(0, 40)
faults = st.lists(
    st.builds(
        Fault,
        places,
        st.sampled_from(
            [
                *FAULTS,
                "lost before",
                "lost before",
                "lost after",
                "429",
                "429",
                "quota",
                "quota",
                "kill before",
                "kill after",
                "interrupt",
            ]
        ),
        st.sampled_from([1, 1, 1, 2, 6, 14]),
    ),
    max_size=4,
).map(tuple)


def besides(places: st.SearchStrategy[int | None]) -> st.SearchStrategy[tuple[Beside, ...]]:
    return st.lists(
        st.builds(
            Beside,
            st.sampled_from(
                ["unsubscribe", "unsubscribe", "blacklist", "resubscribe", "set", "create", "delete", "list", "unlist"]
            ),
            addresses,
            attributes,
            places,
        ),
        max_size=3,
    ).map(tuple)


kills = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["before", "after"])), max_size=1).map(tuple)
calm = st.fixed_dictionaries({"beside": besides(st.none())})
stormy = st.fixed_dictionaries(
    {
        "faults": faults,
        "beside": besides(st.none() | places),
        "kills": kills,
        "abandon": st.sampled_from([False, False, False, True]),
        "resend": st.booleans(),
        "resend_faults": st.just(()) | faults,
    }
)
"""What happens to a load."""


def _suppression(emails: list[tuple[str, str]]) -> tuple[str, ...]:
    entries = {"sha256": lambda email: hashlib.sha256(key_of(email).encode()).hexdigest(), **SPELLINGS}
    return tuple(entries[how](email) for email, how in emails)


suppression = st.lists(
    st.tuples(addresses | st.sampled_from([PEOPLE[-1], NEW[-1]]), st.sampled_from(["sha256", *SPELLINGS])), max_size=2
).map(_suppression)  # fmt: skip


@st.composite
def load(draw: st.DrawFn, given: tuple[dict[str, Any], ...]) -> LoadSpec:
    mode = draw(st.sampled_from(["upsert", "upsert", "create", "create", "update"]))
    return LoadSpec(
        rows=given,
        mode=mode,
        plan=draw(st.sampled_from(["auto", "compare", *(["learned"] if mode == "upsert" else [])])),
        empty=draw(st.sampled_from(["skip", "skip", "clear", "null", "keep"])),
        duplicates=draw(st.sampled_from(["last", "first", "reject"])),
        lists=draw(lists),
        resubscribe=draw(st.sampled_from([False, False, False, True])),
        suppression=draw(suppression),
        full_refresh=draw(st.sampled_from([False, False, False, True])),
        **draw(calm | stormy | stormy),
    )


@st.composite
def scenario(draw: st.DrawFn) -> Scenario:
    given = draw(rows)
    loads = []
    for _ in range(draw(st.integers(1, 3))):
        loads.append(draw(load(given)))
        given = draw(st.just(given) | rows)
    return Scenario(
        people=draw(people),
        loads=tuple(loads),
        state=draw(st.sampled_from([True, True, False])),
        skew=draw(st.sampled_from([0.0, -90.0, 3600.0])),
        dates=draw(st.sampled_from(["both", "both", "both", "no Date", "no createdAt"])),
        errors=draw(st.sampled_from(["typed", "typed", *ERROR_BODIES])),
        envelope=draw(st.booleans()),
    )


scenarios = scenario()
