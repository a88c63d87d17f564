"""Scenarios that once went wrong, with the correct results written by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .fake_crm import key_of
from .invariants import broken
from .scenario import LISTS, Beside, Fault, LoadSpec, Person, Scenario
from .story import Reported, Story, folder, summary_of

LOST = (Fault(0, "lost before"),)
"""The first call of a load that creates first: it never arrives and gets no response."""

ADA = {"email": "ada@x.org", "a": "new", "b": "same"}
NEW = {"a": "new", "b": "same"}
OLD = Person("ada@x.org", {"a": "old", "b": "same", "c": "kept"})
NO = Person("ada@x.org", {"a": "old", "b": "same"}, "unsubscribed")
FOLLOWING = tuple({"email": f"next{n}@x.org", "a": "x"} for n in range(3))


@dataclass(frozen=True)
class Known:
    """A scenario and its correct results.

    :param outcomes: outcomes of the rows, for each finished load (and each load of rejects)
    :param ada: attributes and lists (places) of her contact in the end, None if there is none
    :param most_calls: most calls of the last load
    """

    scenario: Scenario
    outcomes: list[str]
    ada: tuple[dict[str, Any], tuple[int, ...]] | None
    most_calls: int | None = None


def one(person: Person | None, *loads: LoadSpec, **options: Any) -> Scenario:
    return Scenario((person,) if person else (), loads, **options)


WRITTEN = ({"a": "new", "b": "same", "c": "kept"}, ())
AS_BEFORE = ({"a": "old", "b": "same", "c": "kept"}, ())

KNOWN: dict[str, Known] = {
    # -- the response to a creation is lost, and the contact existed before --------------------------------------
    "lost creation of a contact that exists: written": Known(
        one(OLD, LoadSpec((ADA,), plan="learned", faults=LOST)), ["updated"], WRITTEN
    ),
    "the same, remembered correctly": Known(
        one(OLD, LoadSpec((ADA,), faults=LOST), LoadSpec((ADA,))), ["updated", "unchanged"], WRITTEN, most_calls=0
    ),
    "the same, server error before it was processed": Known(
        one(OLD, LoadSpec((ADA,), faults=(Fault(0, "500 before"),))), ["updated"], WRITTEN
    ),
    "the same, the conflict response was lost": Known(
        one(OLD, LoadSpec((ADA,), faults=(Fault(0, "504 after"),))), ["updated"], WRITTEN
    ),
    "the same, and no response for half a minute": Known(
        one(OLD, LoadSpec((ADA,), faults=(Fault(0, "timeout after"),))), ["updated"], WRITTEN
    ),
    "the same, with lists": Known(
        one(OLD, LoadSpec((ADA,), lists=(0,), faults=LOST)), ["updated"], ({"a": "new", "b": "same", "c": "kept"}, (0,))
    ),
    "the same, created by another client after the read": Known(
        one(
            None,
            LoadSpec((*FOLLOWING, ADA), plan="compare", faults=(Fault(5, "lost before"),),
                     beside=(Beside("create", "ada@x.org", {"a": "old", "b": "same"}, at=2),)),
            LoadSpec((ADA,), plan="compare"),
        ),
        ["created"] * 3 + ["updated", "unchanged"],
        (NEW, ()),
    ),
    "lost creation, and the contact has all values: no write": Known(
        one(Person("ada@x.org", NEW), LoadSpec((ADA,), faults=LOST)), ["unchanged"], (NEW, ())
    ),
    "lost creation, and the contact has none of the attributes": Known(
        one(Person("ada@x.org", {"c": "kept"}), LoadSpec((ADA,), faults=LOST)),
        ["updated"],
        ({"a": "new", "b": "same", "c": "kept"}, ()),
    ),
    "lost creation, and the contact has none of the attributes, with a row without values": Known(
        one(Person("ada@x.org", {"c": "kept"}), LoadSpec(({"email": "ada@x.org"},), lists=(0,), faults=LOST)),
        ["updated"],
        ({"c": "kept"}, (0,)),
    ),
    "lost creation of an unsubscribed contact: in no list": Known(
        one(NO, LoadSpec((ADA,), lists=(0,), faults=LOST)), ["suppressed"], ({"a": "old", "b": "same"}, ())
    ),
    "lost creation of an unsubscribed contact, with resubscribe": Known(
        one(NO, LoadSpec((ADA,), lists=(0,), resubscribe=True, faults=LOST)), ["updated"], (NEW, (0,))
    ),
    "lost creation in mode create: left alone": Known(
        one(OLD, LoadSpec((ADA,), mode="create", faults=LOST)), ["unchanged"], AS_BEFORE
    ),
    "lost creation in mode create, equal values, with lists: left alone": Known(
        one(Person("ada@x.org", NEW), LoadSpec((ADA,), mode="create", lists=(1,), faults=LOST)),
        ["unchanged"],
        (NEW, ()),
    ),
    "lost creation that was processed: ours": Known(
        one(None, LoadSpec((ADA,), lists=(0, 1), faults=(Fault(0, "lost after"),))), ["created"], (NEW, (0, 1))
    ),
    "lost creation that was not processed: sent again": Known(
        one(None, LoadSpec((ADA,), lists=(0,), faults=LOST)), ["created"], (NEW, (0,))
    ),
    "lost creation that was processed, the CRM's clock is behind": Known(
        one(None, LoadSpec((ADA,), mode="create", lists=(0,), faults=(Fault(0, "lost after"),)), skew=-90.0),
        ["created"],
        (NEW, (0,)),
    ),
    # -- mode update -------------------------------------------------------------------------------------------
    "update of a missing contact without values": Known(
        one(None, LoadSpec(({"email": "ada@x.org"},), mode="update"), LoadSpec(({"email": "ada@x.org"},))),
        ["rejected", "created"],
        ({}, ()),
    ),
    # -- mode create with lists --------------------------------------------------------------------------------
    **{
        f"create makes a contact, {what} at the list, plan {plan}": Known(
            one(None, LoadSpec((ADA,), mode="create", plan=plan, lists=(0,), faults=(Fault(at + pages, kind, count),))),
            ["created"],
            (NEW, (0,)),
        )
        for plan, pages in (("auto", 0), ("compare", 2))
        for what, kind, at, count in (
            ("quota", "quota", 1, 1),
            ("throttled", "429", 1, 7),
            ("key refused", "key revoked", 1, 1),
        )
    },
    **{
        f"create makes a contact, killed {what} the list, plan {plan}": Known(
            one(None, LoadSpec((ADA,), mode="create", plan=plan, lists=(0,), faults=(Fault(at + pages, kind),))),
            [],  # its creator is unknown now
            (NEW, (0,)),
        )
        for plan, pages in (("auto", 0), ("compare", 2))
        for what, kind, at in (("before", "kill before", 1), ("after its creation,", "kill after", 0))
    },
    "create succeeds, the list fails, the rejects are loaded again": Known(
        one(
            None,
            LoadSpec((ADA, *FOLLOWING), mode="create", lists=(0,), faults=(Fault(1, "500 before", 10),), resend=True),
        ),
        [],
        (NEW, (0,)),
    ),
    "create with lists leaves an equal contact alone": Known(
        one(Person("ada@x.org", NEW), LoadSpec((ADA,), mode="create", lists=(0,))), ["unchanged"], (NEW, ())
    ),
    "a contact throttled at its list was created": Known(
        one(None, LoadSpec((ADA,), lists=(0,), faults=(Fault(1, "429", 6),))), ["created"], (NEW, (0,))
    ),
    # -- people without consent --------------------------------------------------------------------------------
    "a suppression entry in decomposed Unicode": Known(
        one(
            Person("zo\u00e9@x.org"),
            LoadSpec(
                tuple({"email": email, "a": "x"} for email in ("zo\u00e9@x.org", "zoe\u0301@x.org", "ZO\u00c9@x.org")),
                suppression=("zoe\u0301@x.org",),
            ),
        ),
        ["suppressed"] * 3,
        None,
        most_calls=0,
    ),
    "unsubscribed after the read": Known(
        one(
            Person("ada@x.org", {"a": "old"}),
            LoadSpec((*FOLLOWING, ADA), plan="compare", lists=(0,), beside=(Beside("unsubscribe", "ada@x.org", at=4),)),
        ),
        ["created"] * 3 + ["suppressed"],
        ({"a": "old"}, ()),
    ),
    # -- counts and values -------------------------------------------------------------------------------------
    "calls of a try that failed while planning": Known(
        one(OLD, LoadSpec((ADA,), plan="compare", faults=(Fault(1, "key revoked"),))), ["updated"], WRITTEN
    ),
    "nothing to send, in mode create with lists: no call": Known(
        one(None, LoadSpec(({"email": "nobody"},), mode="create", lists=(0,))), ["rejected"], None, most_calls=0
    ),
    "a nested boolean is not a number": Known(
        one(Person("ada@x.org", {"a": [1]}), LoadSpec(({"email": "ada@x.org", "a": [True]},), plan="compare")),
        ["updated"],
        ({"a": [True]}, ()),
    ),
    "every second row is new: within the forecast": Known(
        Scenario(
            tuple(Person(f"p{n}@x.org") for n in range(0, 15, 2)),
            (LoadSpec(tuple({"email": f"p{n}@x.org", "a": "x"} for n in range(15)), plan="learned"),),
        ),
        ["updated", "created"] * 7 + ["updated"],
        None,
    ),
    "updates with lists: within the forecast": Known(
        Scenario(
            tuple(Person(f"p{n}@x.org") for n in range(9)),
            (LoadSpec(tuple({"email": f"p{n}@x.org", "a": "x"} for n in range(9)), mode="update", lists=(0,)),),
        ),
        ["updated"] * 9,
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_scenarios_have_the_correct_result(name: str) -> None:
    known = KNOWN[name]
    with folder() as path:
        story = Story(known.scenario, Path(path))
        reported = [one for place, spec in enumerate(known.scenario.loads) for one in story.play(spec, place)]
    for one_load in reported:
        assert broken(one_load) == {}, summary_of(one_load)
    shown = "\n".join(map(summary_of, reported))
    if known.outcomes:
        assert outcomes_of(reported) == known.outcomes, shown
    if known.ada is not None:
        found = story.crm.contacts["ada@x.org"]
        attributes, lists = known.ada
        assert found.lists == [LISTS[place] for place in lists], shown
        assert as_json(found.attributes) == as_json(attributes), shown
    if known.most_calls is not None:
        assert reported[-1].calls <= known.most_calls, shown


def as_json(attributes: dict[str, Any]) -> str:
    """Comparable values: Python considers 1 and True equal."""
    return json.dumps(attributes, sort_keys=True)


def outcomes_of(reported: list[Reported]) -> list[str]:
    return [load.outcomes[number] for load in reported for number in sorted(load.outcomes)]


def test_addresses_are_case_folded() -> None:
    assert key_of(" ZOE\u0301@x.org ") == "zo\u00e9@x.org"
