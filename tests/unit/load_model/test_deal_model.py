"""Deals in one CRM: after any lost call, one creation creates at most one deal, and returns only its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from . import engine
from .fake_crm import FAULTS, Clock, FakeCrm, Http
from .invariants import is_lost
from .scenario import Fault, Person

FUZZ = "CRM_FUZZ_EXAMPLES"
PIPELINES = ("aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002")
STAGES = ("bbbbbbbb-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002")
DAY = 86_400.0


@dataclass(frozen=True)
class Deal:
    """A deal of the contact.

    :param pipeline: index in :data:`PIPELINES`, like ``stage`` in :data:`STAGES`
    """

    pipeline: int = 0
    stage: int = 0
    attributes: tuple[tuple[str, str], ...] = (("pb_name", "Big"),)

    def fields(self, contact_id: str) -> dict[str, Any]:
        return {
            "contactId": contact_id, "pipelineId": PIPELINES[self.pipeline], "stageId": STAGES[self.stage],
            "attributes": dict(self.attributes),
        }  # fmt: skip


@dataclass(frozen=True)
class Deals:
    """Creations of deals for one contact, one day apart.

    :param before: the deals of another client
    :param several: whether the CRM allows more than one deal for a contact
    :param fillers: deals of other contacts, so that the listing has several pages
    """

    before: tuple[Deal, ...]
    creations: tuple[Deal, ...]
    faults: tuple[Fault, ...] = ()
    several: bool = False
    fillers: int = 0
    skew: float = 0.0
    errors: str = "typed"


@dataclass(frozen=True)
class Came:
    """The result of one creation.

    :param made: ids of the deals that the CRM created for it
    :param creations: how often it was sent, and processed without a response before
    """

    made: tuple[str, ...]
    returned: str | None
    error: str | None
    outcome_known: bool
    had_one: bool


def play(deals: Deals) -> list[Came]:
    clock = Clock()
    crm = FakeCrm(clock, skew=deals.skew, errors=deals.errors, several_deals=deals.several)
    crm.seed(Person("ada@x.org"))
    owner = crm.contacts["ada@x.org"].id
    for _ in range(deals.fillers):
        crm.add_deal(age=timedelta(days=50), **Deal().fields("cccccccc-0000-4000-8000-000000000001"))
    for deal in deals.before:
        crm.add_deal(age=timedelta(days=40), **deal.fields(owner))
    calls = 0

    def serve(method: str, path: str, query: Any, body: Any) -> Http:
        nonlocal calls
        number, calls = calls, calls + 1
        fault = next((f.kind for f in deals.faults if f.at <= number < f.at + f.count), None)
        return crm.response(method, path, query, body, fault)

    came = []
    with engine.client_of(serve, clock) as client:
        for deal in deals.creations:
            clock.advance(DAY)
            there = {found["id"] for found in crm.deals}
            had_one = any(found["contactId"] == owner for found in crm.deals)
            first = len(crm.log)
            returned, error, known = engine.create_deal(client, owner, deal.fields(owner))
            made = tuple(found["id"] for found in crm.deals if found["id"] not in there)
            check_no_blind_repeat(crm.log[first:])
            came.append(Came(made, returned, error, known, had_one))
    return came


def check_no_blind_repeat(log: list[Any]) -> None:
    is_unknown = False
    for event in log:
        if event.what == "deals":
            is_unknown = False
        elif event.what == "deal":
            assert not is_unknown, "a creation with a lost response was sent again without a read"
            is_unknown = is_lost(event)


def check(deals: Deals) -> None:
    for came in play(deals):
        about = f"{came}\n{deals}"
        assert len(came.made) <= 1, f"one creation created two deals: {about}"
        if came.returned is not None:
            assert (came.returned,) == came.made, f"the returned deal is not the created one: {about}"
        elif came.error == "CONTACT_ASSOCIATED_WITH_A_DEAL":
            assert came.had_one and not came.made, f"the conflict is with its own deal: {about}"
        else:
            assert deals.faults, f"it failed without a fault: {about}"
            assert not (came.outcome_known and came.made), f"the error says that nothing was created: {about}"


deal = st.builds(
    Deal, st.integers(0, 1), st.integers(0, 1),
    st.sampled_from([(), (("pb_name", "Big"),), (("pb_name", "Big"), ("pb_amount", "10")), (("pb_name", "Other"),)]),
)  # fmt: skip
scenarios = st.builds(
    Deals,
    before=st.lists(deal, max_size=2).map(tuple),
    creations=st.lists(deal, min_size=1, max_size=2).map(tuple),
    faults=st.lists(
        st.builds(Fault, st.integers(0, 8), st.sampled_from([*FAULTS, "lost before", "lost after"]), st.integers(1, 6)),
        max_size=3,
    ).map(tuple),
    several=st.booleans(),
    fillers=st.sampled_from([0, 0, 9, 12]),
    skew=st.sampled_from([0.0, -90.0, 3600.0]),
    errors=st.sampled_from(["typed", "text"]),
)


@settings(
    max_examples=10 * int(os.environ[FUZZ]) if FUZZ in os.environ else 300,
    derandomize=FUZZ not in os.environ,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(scenarios)
def test_one_creation_creates_at_most_one_deal(deals: Deals) -> None:
    check(deals)


LOST = (Fault(0, "lost before"),)
CONFLICT = "CONTACT_ASSOCIATED_WITH_A_DEAL"


@pytest.mark.parametrize(
    ("deals", "errors", "made"),
    [
        pytest.param(Deals((), (Deal(),)), [None], [1], id="no deal yet"),
        pytest.param(Deals((Deal(),), (Deal(),)), [CONFLICT], [0], id="there is one"),
        pytest.param(Deals((Deal(),), (Deal(),), LOST), [CONFLICT], [0], id="there is one, and the response is lost"),
        pytest.param(
            Deals((Deal(attributes=()),), (Deal(),), LOST), [CONFLICT], [0],
            id="there is one without attributes, and the response is lost",
        ),
        pytest.param(
            Deals((Deal(),), (Deal(),), (Fault(0, "500 after"),)), [CONFLICT], [0],
            id="there is one, and a server error hides the conflict",
        ),
        pytest.param(Deals((), (Deal(),), (Fault(0, "lost after"),)), [None], [1], id="created, but response lost"),
        pytest.param(Deals((), (Deal(),), LOST), [None], [1], id="not created, response lost"),
        pytest.param(
            Deals((Deal(),), (Deal(),), LOST, several=True), [None], [1],
            id="the CRM allows several: another's deal is not taken for it",
        ),
        pytest.param(
            Deals((), (Deal(), Deal()), (Fault(1, "lost before"),), several=True), [None, None], [1, 1],
            id="the CRM allows several: the deal of an earlier creation is not taken for it",
        ),
    ],
)  # fmt: skip
def test_result_of_each_creation(deals: Deals, errors: list[str | None], made: list[int]) -> None:
    came = play(deals)
    assert [one.error for one in came] == errors
    assert [len(one.made) for one in came] == made
    check(deals)
