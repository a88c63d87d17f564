"""Sensor conditions: the result of each, the records it reads, and its serialization."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.waiting.conditions import (
    Condition,
    ContactIs,
    DealInStage,
    DirectLookup,
    InList,
    ListExists,
    ListHasMembers,
    MembershipPage,
)

from .fakes import bench, data, error

VIP, TRIAL, TWIN = (f"{n}" * 8 + "-aaaa-4aaa-8aaa-" + f"{n}" * 12 for n in (1, 2, 3))
DEAL = "dddddddd-aaaa-4aaa-8aaa-dddddddddddd"
NEW, WON, LOST = (f"{n}" * 8 + "-bbbb-4bbb-8bbb-" + f"{n}" * 12 for n in (4, 5, 6))
ABSENT = object()


@dataclass
class FakeLookup:
    """Responds from tables and records the reads. An error in a table is raised."""

    all_lists: list[Any] = field(default_factory=list)
    contacts: Mapping[str, Any] = field(default_factory=dict)
    deals: Mapping[str, Any] = field(default_factory=dict)
    looked: list[str] = field(default_factory=list)

    def lists(self) -> Iterator[dict[str, Any]]:
        self.looked.append("lists")
        for item in self.all_lists:
            if isinstance(item, e.CrmError):
                raise item
            yield item

    def contact(self, email: str) -> dict[str, Any]:
        self.looked.append(email)
        return self._found(self.contacts.get(email, e.CrmContactNotFoundError("Contact not found.")))

    def deal(self, deal_id: str) -> dict[str, Any]:
        self.looked.append(deal_id)
        return self._found(self.deals.get(deal_id, e.CrmDealNotFoundError("Deal not found.")))

    def memberships(self) -> Iterator[MembershipPage]:
        """:data:`PAGES`, each recorded when it is read."""
        for number, page in enumerate(PAGES):
            self.looked.append(f"page {number}")
            if isinstance(page, e.CrmError):
                raise page
            yield page

    @staticmethod
    def _found(record: Any) -> dict[str, Any]:
        if isinstance(record, e.CrmError):
            raise record
        found: dict[str, Any] = record
        return found


BROKEN = e.CrmInternalServerError("broken", status=500)
PAGES: list[MembershipPage | e.CrmError] = [
    MembershipPage((frozenset({VIP}), frozenset({TRIAL})), 7),
    MembershipPage((frozenset({VIP, TRIAL}), frozenset()), 7),
    MembershipPage((frozenset({VIP}),), None),
    BROKEN,
]
"""Pages of contacts: three members of VIP and two of Trial. The last page cannot be read."""
CRM = {
    "all_lists": [
        {"id": VIP, "name": "VIP"},
        {"id": TRIAL, "title": "Trial"},
        {"id": TWIN, "name": "Twin"},
        {"id": NEW, "name": "Twin"},
    ],
    "contacts": {
        "ann@x.io": {
            "id": "c-ann",
            "status": "active",
            "segmentedListsIds": [VIP.upper()],
            "attributes": {"plan": "a"},
        },
        "bob@x.io": {"id": "c-bob", "status": "active", "segmentedListsIds": [VIP, TRIAL], "attributes": None},
        "cat@x.io": {"id": "c-cat", "segmentedListsIds": None},
        "eve@x.io": {
            "id": "c-eve",
            "status": "active",
            "attributes": {"score": "5", "rate": 0.5, "vip": True, "born": "2000-01-31"},
        },
        "ill@x.io": BROKEN,
    },
    "deals": {DEAL: {"id": DEAL, "stageId": NEW.upper()}, LOST: {"id": LOST}},
}


def ask(condition: Condition, crm: Mapping[str, Any] = CRM) -> tuple[Any, list[str]]:
    """The result or the class of the error, and the reads."""
    lookup = FakeLookup(**crm)
    try:
        return condition.check(lookup), lookup.looked
    except e.CrmError as error:
        return type(error), lookup.looked


def members(**arguments: Any) -> InList:
    return InList(**{"list_id": VIP, **arguments})


VIP_ANN = {"list_id": VIP, "contact_ids": ["c-ann"]}

RESULTS: dict[str, tuple[Condition, Any, list[str]]] = {
    # condition, result or class of error, records read
    "list by name": (ListExists(list_name="VIP"), {"id": VIP, "name": "VIP"}, ["lists"]),
    "list by title": (ListExists(list_name="Trial"), {"id": TRIAL, "name": "Trial"}, ["lists"]),
    "list by id": (ListExists(list_id=VIP), {"id": VIP, "name": "VIP"}, ["lists"]),
    "list by id, capitals": (ListExists(list_id=VIP.upper()), {"id": VIP, "name": "VIP"}, ["lists"]),
    "no such list": (ListExists(list_name="vip"), e.CrmSegmentationListNotFoundError, ["lists"]),
    "two of one name": (ListExists(list_name="Twin"), e.CrmInvalidValueError, ["lists"]),
    "one of two by id": (ListExists(list_id=TWIN), {"id": TWIN, "name": "Twin"}, ["lists"]),
    "member": (members(emails=("ann@x.io",)), VIP_ANN, ["ann@x.io"]),
    "member, list by name": (InList(emails=("ann@x.io",), list_name="VIP"), VIP_ANN, ["lists", "ann@x.io"]),
    "no member": (members(emails=("cat@x.io",)), None, ["cat@x.io"]),
    "unknown contact": (members(emails=("new@x.io",)), e.CrmContactNotFoundError, ["new@x.io"]),
    "unknown list by name": (
        InList(emails=("ann@x.io",), list_name="New"),
        e.CrmSegmentationListNotFoundError,
        ["lists"],
    ),
    "all": (
        members(emails=("ann@x.io", "bob@x.io")),
        {"list_id": VIP, "contact_ids": ["c-ann", "c-bob"]},
        ["ann@x.io", "bob@x.io"],
    ),
    "all, the first is missing": (members(emails=("cat@x.io", "ann@x.io")), None, ["cat@x.io"]),
    "all, the last is missing": (members(emails=("ann@x.io", "cat@x.io")), None, ["ann@x.io", "cat@x.io"]),
    "all, one twice": (members(emails=("ann@x.io", "ann@x.io")), VIP_ANN, ["ann@x.io"]),
    "any, the first": (members(emails=("ann@x.io", "bob@x.io"), match="any"), VIP_ANN, ["ann@x.io"]),
    "any, the last": (
        members(emails=("cat@x.io", "new@x.io", "ann@x.io"), match="any"),
        VIP_ANN,
        ["cat@x.io", "new@x.io", "ann@x.io"],
    ),
    "any, none": (members(emails=("cat@x.io", "cat@x.io"), match="any"), None, ["cat@x.io"]),
    "any, none but an unknown": (
        members(emails=("new@x.io", "cat@x.io"), match="any"),
        e.CrmContactNotFoundError,
        ["new@x.io", "cat@x.io"],
    ),
    "a server error on the way": (
        members(emails=("ill@x.io", "ann@x.io"), match="any"),
        e.CrmInternalServerError,
        ["ill@x.io"],
    ),
    "enough members on the first page": (
        ListHasMembers(list_id=VIP.upper(), min_members=1),
        {"id": VIP, "members": 1},
        ["page 0"],
    ),
    "enough members on a later page": (
        ListHasMembers(list_name="VIP", min_members=2),
        {"id": VIP, "members": 2},
        ["lists", "page 0", "page 1"],
    ),
    "just enough contacts are left": (
        ListHasMembers(list_id=TRIAL, min_members=6),
        None,
        ["page 0", "page 1"],  # 2 found, 3 of 7 left; then 5 of 7
    ),
    "more members than contacts": (ListHasMembers(list_id=VIP, min_members=8), None, ["page 0"]),
    "the page that would decide fails": (
        ListHasMembers(list_id=VIP, min_members=4),
        e.CrmInternalServerError,
        ["page 0", "page 1", "page 2", "page 3"],
    ),
    "members of an unknown list": (
        ListHasMembers(list_name="New", min_members=1),
        e.CrmSegmentationListNotFoundError,
        ["lists"],
    ),
    "contact": (ContactIs(email="ann@x.io"), {"id": "c-ann", "status": "active"}, ["ann@x.io"]),
    "contact, status": (
        ContactIs(email="ann@x.io", status="active"),
        {"id": "c-ann", "status": "active"},
        ["ann@x.io"],
    ),
    "contact, other status": (ContactIs(email="ann@x.io", status="gone"), None, ["ann@x.io"]),
    "contact without status": (ContactIs(email="cat@x.io", status="active"), None, ["cat@x.io"]),
    "contact, value": (
        ContactIs(email="ann@x.io", attributes={"plan": "a"}),
        {"id": "c-ann", "status": "active"},
        ["ann@x.io"],
    ),
    "contact, other value": (ContactIs(email="ann@x.io", attributes={"plan": "b"}), None, ["ann@x.io"]),
    "contact, one of two values": (ContactIs(email="ann@x.io", attributes={"plan": "a", "x": 1}), None, ["ann@x.io"]),
    "contact without attributes": (ContactIs(email="bob@x.io", attributes={"plan": "a"}), None, ["bob@x.io"]),
    "no such contact": (ContactIs(email="new@x.io"), e.CrmContactNotFoundError, ["new@x.io"]),
    "deal is in": (DealInStage(deal_id=DEAL, stage_ids=(NEW,)), {"id": DEAL, "stage_id": NEW.upper()}, [DEAL]),
    "deal is in one of": (
        DealInStage(deal_id=DEAL, stage_ids=(WON, NEW)),
        {"id": DEAL, "stage_id": NEW.upper()},
        [DEAL],
    ),
    "deal is elsewhere": (DealInStage(deal_id=DEAL, stage_ids=(WON, LOST)), None, [DEAL]),
    "deal has left": (
        DealInStage(deal_id=DEAL, stage_ids=(WON, LOST), until="left"),
        {"id": DEAL, "stage_id": NEW.upper()},
        [DEAL],
    ),
    "contact, a number as text": (
        ContactIs(email="eve@x.io", attributes={"score": 5, "rate": "0.5", "vip": True}),
        {"id": "c-eve", "status": "active"},
        ["eve@x.io"],
    ),
    "contact, true is no number": (ContactIs(email="eve@x.io", attributes={"vip": 1}), None, ["eve@x.io"]),
    "contact, a date": (
        ContactIs(email="eve@x.io", attributes={"born": date(2000, 1, 31)}),
        {"id": "c-eve", "status": "active"},
        ["eve@x.io"],
    ),
    "contact, wrapped": (ContactIs(email="Ann <ann@x.io>;"), {"id": "c-ann", "status": "active"}, ["ann@x.io"]),
    "list by a uuid": (ListExists(list_id=uuid.UUID(VIP)), {"id": VIP, "name": "VIP"}, ["lists"]),  # type: ignore[arg-type]
    "member, spelled twice": (members(emails=("ann@x.io", "<Ann@x.io>", "mailto:ANN@X.IO")), VIP_ANN, ["ann@x.io"]),
    "deal, stage as a uuid": (
        DealInStage(deal_id=uuid.UUID(DEAL), stage_ids=(uuid.UUID(NEW),)),  # type: ignore[arg-type]
        {"id": DEAL, "stage_id": NEW.upper()},
        [DEAL],
    ),
    "deal has not left": (DealInStage(deal_id=DEAL, stage_ids=(WON, NEW), until="left"), None, [DEAL]),
    "no such deal": (DealInStage(deal_id=WON, stage_ids=(NEW,)), e.CrmDealNotFoundError, [WON]),
    "deal without a stage": (DealInStage(deal_id=LOST, stage_ids=(NEW,), until="left"), e.CrmProtocolError, [LOST]),
}


@pytest.mark.parametrize("case", RESULTS)
def test_result_of_each_condition(case: str) -> None:
    condition, result, looked = RESULTS[case]
    assert ask(condition) == (result, looked)


@pytest.mark.parametrize("case", RESULTS)
def test_condition_survives_json(case: str) -> None:
    condition, result, _ = RESULTS[case]
    copy = Condition.from_data(json.loads(json.dumps(condition.as_data())))
    assert copy.as_data() == condition.as_data()
    assert ask(copy)[0] == result


def test_list_may_be_named_by_a_number() -> None:
    condition = ListExists(list_name=2024)  # type: ignore[arg-type]
    assert ask(condition, {"all_lists": [{"id": NEW, "name": "2024"}]}) == ({"id": NEW, "name": "2024"}, ["lists"])


WRONG = {
    "list: neither": ListExists(),
    "list: both": ListExists(list_id=VIP, list_name="VIP"),
    "list: blank name": ListExists(list_name=" "),
    "list: no uuid": ListExists(list_id="VIP"),
    "members: neither list": ListHasMembers(min_members=1),
    "members: none": ListHasMembers(list_id=VIP, min_members=0),
    "members: a fraction": ListHasMembers(list_id=VIP, min_members=1.5),  # type: ignore[arg-type]
    "members: yes": ListHasMembers(list_id=VIP, min_members=True),
    "members: a word": ListHasMembers(list_id=VIP, min_members="many"),  # type: ignore[arg-type]
    "member: nobody": members(emails=()),
    "member: no address": members(emails=("ann@x.io", "ann")),
    "member: None": members(emails=(None,)),
    "member: no uuid": members(emails=("ann@x.io",), list_id="VIP"),
    "member: neither list": InList(emails=("ann@x.io",)),
    "contact: no address": ContactIs(email="ann"),
    "contact: None": ContactIs(email=None),  # type: ignore[arg-type]
    "contact: attributes as text": ContactIs(email="ann@x.io", attributes="plan=a"),  # type: ignore[arg-type]
    "contact: attributes are a list": ContactIs(email="ann@x.io", attributes=["plan"]),  # type: ignore[arg-type]
    "contact: a list of addresses": ContactIs(email=["ann@x.io"]),  # type: ignore[arg-type]
    "contact: two addresses": ContactIs(email="ann@x.io, bob@x.io"),
    "contact: status is a list": ContactIs(email="ann@x.io", status=["active"]),  # type: ignore[arg-type]
    "list: a mapping": ListExists(list_name={"name": "VIP"}),  # type: ignore[arg-type]
    "member: the text of a list": members(emails=("['ann@x.io', 'bob@x.io']",)),
    "deal: None as text": DealInStage(deal_id="None", stage_ids=(NEW,)),
    "deal: a number": DealInStage(deal_id=5, stage_ids=(NEW,)),  # type: ignore[arg-type]
    "deal: no uuid": DealInStage(deal_id="1", stage_ids=(NEW,)),
    "deal: stage is no uuid": DealInStage(deal_id=DEAL, stage_ids=("Won",)),
    "deal: no stage": DealInStage(deal_id=DEAL, stage_ids=()),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_condition_is_refused_before_any_read(case: str) -> None:
    assert ask(WRONG[case]) == (e.CrmInvalidValueError, [])


# -- reasons for waiting -------------------------------------------------------------------------------------

REASONS: dict[str, tuple[Condition, str]] = {
    "members": (
        ListHasMembers(list_id=VIP, min_members="7"),  # type: ignore[arg-type]  # from a template
        "members found: 1 of 7, among contacts read: 2",
    ),
    "status": (ContactIs(email="ann@x.io", status="gone"), "the status is different"),
    "no such attribute": (ContactIs(email="ann@x.io", attributes={"tier": "a"}), "the contact has no attribute 'tier'"),
    "a value": (
        ContactIs(email="ann@x.io", attributes={"plan": "secret"}),
        "attribute 'plan' has another value (a text; wanted is a text)",
    ),
    "types": (
        ContactIs(email="eve@x.io", attributes={"vip": "true", "score": [5]}),
        (
            "attribute 'vip' has another value (a boolean; wanted is a text); "
            "attribute 'score' has another value (a text; wanted is a list)"
        ),
    ),
    "stage": (DealInStage(deal_id=DEAL, stage_ids=(WON,)), f"the deal is in stage {NEW.upper()}"),
    "membership": (members(emails=("ann@x.io", "cat@x.io")), "contacts found in the list: 1 of 2"),
}


@pytest.mark.parametrize("case", REASONS)
def test_reason_why_the_condition_is_not_met_yet(case: str) -> None:
    condition, why = REASONS[case]
    assert ask(condition)[0] is None
    assert condition.why == why


# -- cached contacts ------------


def test_contact_seen_in_the_list_is_not_read_again() -> None:
    condition = members(emails=("ann@x.io", "new@x.io", "bob@x.io"))
    lookup = FakeLookup(**CRM)
    for _ in range(2):
        with pytest.raises(e.CrmContactNotFoundError):
            condition.check(lookup)
    assert lookup.looked == ["ann@x.io", "new@x.io", "new@x.io"]
    lookup.contacts = {**CRM["contacts"], "new@x.io": {"id": "c-new", "segmentedListsIds": [VIP]}}  # type: ignore[dict-item]
    assert condition.check(lookup) == {"list_id": VIP, "contact_ids": ["c-ann", "c-new", "c-bob"]}
    assert lookup.looked[3:] == ["new@x.io", "bob@x.io"]


def test_server_error_forgets_no_contact() -> None:
    condition = members(emails=("ann@x.io", "ill@x.io"))
    lookup = FakeLookup(**CRM)
    for _ in range(2):
        with pytest.raises(e.CrmInternalServerError):
            condition.check(lookup)
    assert lookup.looked == ["ann@x.io", "ill@x.io", "ill@x.io"]


def test_copy_of_a_condition_has_no_cached_contacts() -> None:
    condition = members(emails=("ann@x.io",))
    ask(condition)
    assert "seen" not in condition.as_data()
    assert ask(Condition.from_data(condition.as_data()))[1] == ["ann@x.io"]


# -- direct lookups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "reply", "sent"),
    [
        (ListExists(list_name="VIP"), data({"page": 0, "total": 4, "data": CRM["all_lists"]}), "GET /segments?page=0"),
        (ContactIs(email="ann@x.io"), data({"id": "c-ann", "status": "active"}), "GET /contacts/ann%40x.io"),
        (DealInStage(deal_id=DEAL, stage_ids=(NEW,)), data({"id": DEAL, "stageId": NEW}), f"GET /deals/{DEAL}"),
        (
            ListHasMembers(list_id=VIP, min_members="1"),  # type: ignore[arg-type]  # from a template
            data({"page": 0, "total": 40, "data": list(CRM["contacts"].values())[:2]}),
            "GET /contacts?page=0",
        ),
    ],
    ids=["list", "contact", "deal", "members"],
)
def test_direct_lookup_reads_the_crm_each_time(condition: Condition, reply: Any, sent: str) -> None:
    crm = bench(reply, reply)
    for _ in range(2):
        assert condition.check(DirectLookup(crm.client)) is not None
    assert crm.http.sent == [sent, sent]


def test_total_of_pages_does_not_end_a_count_of_members() -> None:
    others = [{"id": f"c-{n}", "segmentedListsIds": []} for n in range(10)]
    pages = [
        data({"page": n, "total": 2, "data": items}) for n, items in enumerate((others, [CRM["contacts"]["ann@x.io"]]))
    ]
    assert ListHasMembers(list_id=VIP, min_members=1).check(DirectLookup(bench(*pages).client)) is not None


def test_direct_lookup_raises_the_error_of_the_crm() -> None:
    with pytest.raises(e.CrmForbiddenError):
        ContactIs(email="ann@x.io").check(DirectLookup(bench(error("FORBIDDEN")).client))
