"""Sending one deal to the CRM, and the state of the CRM's deals before it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.deals import same_deal_value
from crm_provider.load.kinds.deal_cache import DealCache, RemoteDeal
from crm_provider.load.kinds.deal_sender import ELSEWHERE, DealSender
from crm_provider.load.kinds.deals import DEALS
from crm_provider.load.kinds.remote import TrySetup
from crm_provider.load.kinds.remote_deals import RemoteDeals
from crm_provider.load.mapping.deal_mapper import Deal
from crm_provider.load.planner import Plan, Sample
from crm_provider.load.preflight import check
from crm_provider.load.rows import EarlierCreation, Outcome, Row, SourceError
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.checkpoint import DoneRows
from crm_provider.load.workers import CancelToken, InFlightRow

DEAL, OTHER = "11111111-0000-4000-8000-000000000001", "11111111-0000-4000-8000-000000000002"
FIRST, LAST = "22222222-0000-4000-8000-00000000000a", "22222222-0000-4000-8000-00000000000b"
PIPELINE, CONTACT = "33333333-0000-4000-8000-000000000001", "44444444-0000-4000-8000-000000000001"
BEGAN = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
NAMES = frozenset({"pb_name", "pb_amount", "pb_closingDate"})


class FakeDeals:
    """Deals and contacts in memory; records every call."""

    def __init__(self) -> None:
        self.deals: dict[str, dict[str, Any]] = {}
        self.contacts = {"ada@x.org": CONTACT}
        self.calls: list[str] = []
        self.trouble: e.CrmError | None = None
        self.error = e.CrmError("none yet")
        self.created: dict[str, Any] = {}
        self.odd = self.omitted = False

    def add(self, id_: str = DEAL, *, stage: str | None = FIRST, **fields: Any) -> FakeDeals:
        self.deals[id_] = {
            "id": id_, "contactId": CONTACT, "pipelineId": PIPELINE, "stageId": stage, "attributes": {}, **fields,
        }  # fmt: skip
        return self

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.trouble is not None:
            raise self.trouble

    def get_deal(self, deal_id: str) -> dict[str, Any]:
        self._call("get")
        if deal_id not in self.deals:
            raise e.CrmDealNotFoundError("Deal not found.", status=404)
        return self.deals[deal_id]

    def update_deal(self, deal_id: str, **changes: Any) -> dict[str, Any]:
        self._call(f"update {' '.join(sorted(changes))}")
        return self.get_deal(deal_id)

    def create_deal(self, **fields: Any) -> dict[str, Any]:
        self._call("create")
        self.created = fields
        return {"id": OTHER}

    def list_deals(self, *, carefully: bool) -> Iterator[dict[str, Any]]:
        assert carefully, "a deal that is not found is created a second time"
        self._call("list")
        return iter(self.deals.values())

    def list_pages(self, listing: str, *, at_once: int, with_moved: bool) -> Iterator[Any]:
        self._call(f"pages of {listing}")
        found = self.deals.values() if listing == "deals" else [{"id": i, "email": m} for m, i in self.contacts.items()]
        yield SimpleNamespace(fresh=[*found, *([] if self.omitted else [{"id": 7, "email": 7, "contactId": None}])])
        if self.odd:
            raise e.CrmProtocolError("the listing ends early")

    def count_deals(self) -> int:
        return len(self.deals)

    def count_contacts(self) -> int:
        return len(self.contacts)

    def get_contact(self, email: str) -> dict[str, Any]:
        self._call("contact")
        if email not in self.contacts:
            raise e.CrmContactNotFoundError("Contact not found.", status=404)
        return {"id": self.contacts[email]}


def sent(
    crm: FakeDeals,
    deal: Deal,
    *,
    known: bool = False,
    made: EarlierCreation | None = None,
    sends: int = 1,
    stages: tuple[str, ...] = (),
    **options: Any,
) -> tuple[str, list[str]]:
    """The outcome or the type of the error, and the calls."""
    with closing(DealCache()) as cache:
        if known:
            for record in crm.deals.values():
                cache.put(RemoteDeal.of(record, NAMES))
        sender = DealSender(
            crm,  # type: ignore[arg-type]
            cache,
            names=NAMES,
            contact_id=lambda email: crm.get_contact(email)["id"],
            stages=frozenset(stages),
            began=BEGAN,
            **{"finds": False, **options},
        )
        in_flight = InFlightRow(Row(1, {}), deal, None, sends=sends, made=made)
        try:
            found = sender.send(in_flight, deal)
        except e.CrmError as error:
            crm.error = error
            assert in_flight.made == (made if error.outcome_known or made else EarlierCreation(BEGAN))
            return error.type, crm.calls
        assert found.called is any(call.startswith(("create", "update")) for call in crm.calls)
        assert found.ids["deal_id"] in ([deal.deal_id] if deal.deal_id else [DEAL, OTHER])
        assert found.ids.get("contact_id") == (CONTACT if deal.contact_email else deal.contact_id)
        assert (found.message == ELSEWHERE) is (found.outcome.value == "skipped") is not found.is_whole
        return found.outcome.value, crm.calls


MOVE = Deal(DEAL, LAST)
NEW = Deal(None, FIRST, PIPELINE, CONTACT, attributes={"pb_name": "Big"})


@pytest.mark.parametrize(
    ("there", "deal", "known", "stages", "outcome", "calls"),
    [
        # nothing is known
        (FIRST, MOVE, False, (), "updated", ["update stage_id", "get"]),
        (
            FIRST,
            Deal(DEAL, LAST, attributes={"pb_name": "x"}),
            False,
            (),
            "updated",
            ["update attributes stage_id", "get"],
        ),
        (FIRST, Deal(DEAL, contact_email="ada@x.org"), False, (), "updated", ["contact", "update contact_id", "get"]),
        (FIRST, Deal(DEAL), False, (), "unchanged", ["get"]),
        # the deal was read
        (LAST, MOVE, True, (), "unchanged", []),
        (LAST.upper(), MOVE, True, (), "unchanged", []),
        (FIRST, MOVE, True, (), "updated", ["update stage_id", "get"]),
        (FIRST, Deal(DEAL, FIRST, attributes={"pb_name": "x"}), True, (), "updated", ["update attributes", "get"]),
        (FIRST, Deal(DEAL, None, None, CONTACT.upper()), True, (), "unchanged", []),
        (FIRST, Deal(DEAL, None, None, OTHER), True, (), "updated", ["update contact_id", "get"]),
        # it may leave only one stage
        (FIRST, MOVE, False, (FIRST,), "updated", ["get", "update stage_id", "get"]),
        (FIRST, MOVE, True, (FIRST,), "updated", ["get", "update stage_id", "get"]),
        (FIRST, Deal(DEAL, None, None, OTHER), False, (FIRST,), "updated", ["get", "update contact_id", "get"]),
        (FIRST, MOVE, False, (LAST,), "skipped", ["get"]),
        (FIRST, MOVE, True, (LAST,), "skipped", []),
        (LAST, MOVE, False, (FIRST,), "unchanged", ["get"]),
        (
            LAST,
            Deal(DEAL, LAST, attributes={"pb_name": "x"}),
            False,
            (FIRST,),
            "updated",
            ["get", "update attributes", "get"],
        ),
        (FIRST, Deal(DEAL, None, attributes={"pb_name": "x"}), True, (LAST,), "skipped", []),
        (None, MOVE, False, (FIRST,), "INVALID_VALUE", ["get"]),  # of this row; others may be fine
    ],
)
def test_calls_for_an_existing_deal(
    there: str | None, deal: Deal, known: bool, stages: tuple[str, ...], outcome: str, calls: list[str]
) -> None:
    found = sent(FakeDeals().add(stage=there), deal, known=known, stages=stages)
    assert found == (outcome, calls)


def test_deal_that_moved_after_it_was_read_is_left_alone() -> None:
    crm = FakeDeals().add(stage=FIRST)
    with closing(DealCache()) as cache:
        cache.put(RemoteDeal.of(crm.deals[DEAL], NAMES))
        crm.add(stage=OTHER)
        sender = DealSender(
            crm, cache, names=NAMES, contact_id=str, finds=False, stages=frozenset({FIRST})  # type: ignore[arg-type]
        )  # fmt: skip
        assert sender.send(InFlightRow(Row(1, {}), MOVE, None), MOVE).outcome.value == "skipped"
    assert crm.calls == ["get"]


@pytest.mark.parametrize(
    ("crm", "deal", "options", "outcome", "calls"),
    [
        (FakeDeals(), NEW, {}, "created", ["create"]),
        (FakeDeals(), Deal(None, FIRST, PIPELINE, None, "ada@x.org"), {}, "created", ["contact", "create"]),
        (FakeDeals(), Deal(None, FIRST, PIPELINE, None, "bob@x.org"), {}, "CONTACT_NOT_FOUND", ["contact"]),
        (FakeDeals(), Deal(None, FIRST, PIPELINE), {}, "INVALID_VALUE", []),
        (FakeDeals(), Deal(DEAL), {}, "DEAL_NOT_FOUND", ["get"]),  # not "unchanged", as there is nothing to write
        # upsert
        (FakeDeals(), NEW, {"finds": True}, "created", ["create"]),
        (FakeDeals().add(), NEW, {"finds": True, "known": True}, "updated", ["update attributes", "get"]),
        (FakeDeals().add(attributes={"pb_name": "Big"}), NEW, {"finds": True, "known": True}, "unchanged", []),
        (
            FakeDeals().add(pipelineId=None),
            NEW,
            {"finds": True, "known": True},
            "updated",
            ["update attributes", "get"],
        ),
        (FakeDeals().add(pipelineId=OTHER), NEW, {"finds": True, "known": True}, "created", ["create"]),
        (FakeDeals().add().add(OTHER), NEW, {"finds": True, "known": True}, "INVALID_VALUE", []),
        # create, after a full read that the user requested
        (FakeDeals().add(), NEW, {"refuses": True, "known": True}, "CONTACT_ASSOCIATED_WITH_A_DEAL", []),
        (FakeDeals().add(contactId=OTHER), NEW, {"refuses": True, "known": True}, "created", ["create"]),
        (FakeDeals().add(contactId=None), NEW, {"refuses": True, "known": True}, "created", ["create"]),
    ],
)
def test_calls_for_a_new_deal(
    crm: FakeDeals, deal: Deal, options: dict[str, Any], outcome: str, calls: list[str]
) -> None:
    crm.calls.clear()
    assert sent(crm, deal, **options) == (outcome, calls)


UNDECIDED = (
    "Contact already associated with a deal in this pipeline; the CRM does not show whether an earlier "
    "attempt created it."
)


@pytest.mark.parametrize(
    ("crm", "deal", "options", "error"),
    [
        (FakeDeals(), Deal(None, FIRST, PIPELINE), {},
         ("a new deal needs a contact, a pipeline and a stage", None, None)),
        (FakeDeals().add().add(OTHER), NEW, {"finds": True, "known": True},
         ("the contact has 2 deals in this pipeline; name the deal by its deal_id", None, None)),
        (FakeDeals().add(), NEW, {"refuses": True, "known": True},
         ("Contact already associated with a deal.", "POST", "/deals")),
        (FakeDeals().add(), NEW, {"made": EarlierCreation(None), "known": True},
         (UNDECIDED, "POST", "/deals")),
        (FakeDeals().add(stage=None), MOVE, {"stages": (FIRST,)},
         ("the CRM does not show the stage of the deal, which only_from_stages needs; give it one in the CRM", None,
          None)),
    ],
)  # fmt: skip
def test_reason_why_a_deal_is_not_sent(
    crm: FakeDeals, deal: Deal, options: dict[str, Any], error: tuple[Any, ...]
) -> None:
    sent(crm, deal, **options)
    assert (crm.error.message, crm.error.method, crm.error.path) == error


SINCE, BEFORE = "2026-03-01T12:00:05Z", "2026-02-01T00:00:00Z"
CONFLICT = "CONTACT_ASSOCIATED_WITH_A_DEAL"


@pytest.mark.parametrize(
    ("fields", "made", "outcome"),
    [
        ({"createdAt": SINCE, "attributes": {"pb_name": "Big"}}, EarlierCreation(BEGAN), "created"),
        ({"createdAt": SINCE}, EarlierCreation(BEGAN), "created"),
        ({"createdAt": SINCE, "stage": LAST}, EarlierCreation(BEGAN), "created"),  # moved after creation
        ({"createdAt": "2026-03-01T12:00:00Z"}, EarlierCreation(BEGAN), "created"),
        ({"attributes": {"pb_name": "Big"}, "stage": None}, EarlierCreation(BEGAN), "created"),
        ({"createdAt": SINCE}, EarlierCreation(BEGAN, earlier_load=True), "unchanged"),
        ({"attributes": {"pb_name": "Big"}}, EarlierCreation(BEGAN), "created"),
        ({"attributes": {"pb_name": "Big"}, "createdAt": SINCE}, EarlierCreation(None), "created"),
        # a deal of another creator
        ({"createdAt": BEFORE, "attributes": {"pb_name": "Big"}}, EarlierCreation(BEGAN), "create"),
        ({"attributes": {"pb_name": "Other"}, "stage": LAST}, EarlierCreation(BEGAN), "create"),
        # no way to know the creator
        ({}, EarlierCreation(BEGAN), CONFLICT),
        ({"createdAt": SINCE}, EarlierCreation(None), CONFLICT),
        ({"attributes": {"pb_name": "Other"}}, EarlierCreation(BEGAN), CONFLICT),
        ({"createdAt": SINCE, "attributes": {"pb_name": "Other"}}, EarlierCreation(BEGAN), CONFLICT),  # may be renamed
        ({"attributes": {"pb_name": "Big"}, "stage": LAST}, EarlierCreation(BEGAN), CONFLICT),  # may have moved since
    ],
)
@pytest.mark.parametrize("sends", [1, 2])
def test_earlier_creation_is_looked_for_before_a_new_one(
    fields: dict[str, Any], made: EarlierCreation, outcome: str, sends: int
) -> None:
    crm = FakeDeals().add(**{"stage": FIRST, **fields})
    found, calls = sent(crm, NEW, known=sends == 1, made=made, sends=sends)
    assert calls == ["list"] * (sends - 1) + ["create"] * (outcome == "create")
    assert found == ("created" if outcome == "create" else outcome)


def test_deal_without_attributes_is_recognised_by_its_time() -> None:
    deal = Deal(None, FIRST, PIPELINE, CONTACT)
    assert sent(FakeDeals().add(), deal, known=True, made=EarlierCreation(BEGAN)) == (CONFLICT, [])
    older_first = FakeDeals().add(createdAt=BEFORE).add(OTHER, createdAt=SINCE)
    assert sent(older_first, deal, known=True, made=EarlierCreation(BEGAN)) == ("created", [])


@pytest.mark.parametrize(
    ("fields", "made", "outcome", "calls"),
    [
        ({"createdAt": SINCE}, EarlierCreation(BEGAN), "created", []),
        (
            {"createdAt": SINCE, "stage": LAST},
            EarlierCreation(BEGAN),
            "updated",
            ["update stage_id", "get"],
        ),  # moved since
        ({"createdAt": SINCE}, EarlierCreation(BEGAN, earlier_load=True), "unchanged", []),
        ({"createdAt": "2026-03-01T12:00:00Z"}, EarlierCreation(BEGAN), "created", []),
        ({"createdAt": SINCE}, None, "unchanged", []),
        ({"createdAt": BEFORE}, EarlierCreation(BEGAN), "unchanged", []),
        ({}, EarlierCreation(BEGAN), "unchanged", []),
        ({"createdAt": SINCE}, EarlierCreation(None), "unchanged", []),
    ],
)
def test_resumed_upsert_counts_deals_of_its_earlier_try(
    fields: dict[str, Any], made: EarlierCreation | None, outcome: str, calls: list[str]
) -> None:
    crm = FakeDeals().add(**{"stage": FIRST, "attributes": {"pb_name": "Big"}, **fields})
    assert sent(crm, NEW, known=True, finds=True, made=made) == (outcome, calls)


@pytest.mark.parametrize("attributes", [{"pb_name": "Big"}, {}])
def test_created_deal_is_known_afterwards(attributes: dict[str, Any]) -> None:
    crm, deal = FakeDeals(), Deal(None, FIRST, PIPELINE, CONTACT, attributes=attributes)
    with closing(DealCache()) as cache:
        sender = DealSender(
            crm, cache, names=NAMES, contact_id=str, finds=True, stages=frozenset()  # type: ignore[arg-type]
        )  # fmt: skip
        ids = {"deal_id": OTHER, "contact_id": CONTACT}
        assert sender.send(InFlightRow(Row(1, {}), deal, None), deal).ids == ids
        place = {"contact_id": CONTACT, "pipeline_id": PIPELINE, "stage_id": FIRST}
        assert crm.created == {**place, "attributes": attributes or None}
        assert cache.get(OTHER) == RemoteDeal(OTHER, attributes=attributes, **place)
        assert sender.send(InFlightRow(Row(2, {}), deal, None), deal).ids == ids
        assert sender.send(InFlightRow(Row(3, {}), Deal(OTHER, LAST), None), Deal(OTHER, FIRST)).ids == {
            "deal_id": OTHER
        }
    assert crm.calls == ["create"]


def test_creation_with_unknown_result_is_remembered() -> None:
    crm = FakeDeals()
    crm.trouble = e.CrmTimeoutError("no response", outcome_known=False)
    assert sent(crm, NEW) == ("TIMEOUT", ["create"])
    assert sent(crm, NEW, made=EarlierCreation(None))[0] == "TIMEOUT"
    crm.trouble = e.CrmInvalidInputError("no", status=422)
    assert sent(crm, NEW)[0] == "INVALID_INPUT"


@pytest.mark.parametrize(
    ("name", "found", "wanted", "equal"),
    [
        ("pb_amount", "1500", "1500.00", True),
        ("pb_amount", 1500.5, "1500.50", True),
        ("pb_amount", Decimal("0.10"), "0.1", True),
        ("pb_amount", "1500", "1500.01", False),
        ("pb_amount", "", "0", False),
        ("pb_amount", None, "0", False),
        ("pb_amount", True, "1", False),
        ("pb_amount", "sNaN", "1", False),
        ("pb_amount", "sNaN", "sNaN", True),
        ("pb_closingDate", "2026-01-31T12:00:00.000Z", "2026-01-31T09:00:00-03:00", True),
        ("pb_closingDate", "2026-01-31T12:00:00Z", "2026-01-31T12:00:01Z", False),
        ("pb_closingDate", None, "2026-01-31T12:00:00Z", False),
        ("pb_name", "1500", "1500.00", False),
    ],
)
def test_equal_values_of_different_forms(name: str, found: Any, wanted: Any, equal: bool) -> None:
    assert same_deal_value(name, found, wanted) is equal
    assert RemoteDeal(DEAL, attributes={name: found}).shows({name: wanted}) is equal
    assert not RemoteDeal(DEAL).shows({name: wanted})


def test_cache_keeps_digits_and_can_be_emptied() -> None:
    cache = DealCache()
    assert (cache.get(DEAL), cache.of(CONTACT, PIPELINE)) == (None, [])
    cache.close()
    record = FakeDeals().add(attributes={"pb_amount": Decimal("0.10"), "other": 1}, createdAt=SINCE).deals[DEAL]
    remote = RemoteDeal.of(record, NAMES)
    cache.put(remote)
    assert cache.get(DEAL.upper()) == remote
    assert cache.of(CONTACT.upper(), PIPELINE.upper()) == [remote]
    assert remote.attributes == {"pb_amount": Decimal("0.10")}
    assert remote.created_at == BEGAN + timedelta(seconds=5)
    cache.close()


# -- knowledge before the first write -------------------------------------------------------------------------


def remote_of(crm: FakeDeals, rows: list[dict[str, Any]], mapping: Any, **given: Any) -> RemoteDeals:
    resumed, done = given.pop("resumed", False), given.pop("done", DoneRows())
    options, mapper = DEALS.options_of(given), DEALS.mapper_of({"mapping": mapping, **given})
    preflight = check(open_source(rows), mapper, options)
    token = CancelToken()
    return RemoteDeals(
        TrySetup(
            client=crm,  # type: ignore[arg-type]
            options=options, mapper=mapper, preflight=preflight, done=done, cancel_token=token, is_resumed=resumed,
        )
    )  # fmt: skip


ONE_CALL = "each row is one call"
NO_SEARCH = "the API cannot search for the deal of a contact"
NO_DEALS = "the CRM reports 0 deals, read ten per call; it may take fewer calls"
BY_READING = "all contacts are read to find those of the addresses"
BY_MAIL = {"contact_email": "m", "pipeline_id": {"constant": PIPELINE}, "stage_id": {"constant": FIRST}}


@pytest.mark.parametrize(
    ("rows", "given", "plan"),
    [
        (3, {"mode": "create"}, Plan("create", 3 + 3 + 1 + 1, ONE_CALL)),  # one call may be needed for the CRM's clock
        (3, {"mode": "create", "resumed": True},
         Plan("compare", 3 + 3 + 1 + 1 + 1, f"an earlier try may have made some of the deals; {NO_DEALS}")),
        (3, {"mode": "upsert"}, Plan("compare", 3 + 3 + 1 + 1 + 1, f"{NO_SEARCH}; {NO_DEALS}")),
        (60, {"mode": "create"}, Plan("compare", 60 + 1 + 1 + 1, f"{ONE_CALL}; {BY_READING}")),  # contacts: one call
        (60, {"mode": "upsert"}, Plan("compare", 60 + 1 + 1 + 1 + 1 + 1, f"{NO_SEARCH}; {NO_DEALS}; {BY_READING}")),
        (0, {"mode": "create"}, Plan("nothing", 0, "no rows are left to send")),
    ],
)  # fmt: skip
def test_plan_includes_address_lookups_and_earlier_tries(rows: int, given: dict[str, Any], plan: Plan) -> None:
    crm = FakeDeals()
    remote = remote_of(crm, [{"m": f"p{n}@x.org"} for n in range(rows)], BY_MAIL, **given)
    assert remote.make_plan(may_compare=True) == plan
    assert remote.needs_start is (rows > 0)
    assert crm.calls == []
    remote.close()


@pytest.mark.parametrize(
    ("rows", "may_compare", "contacts", "plan"),
    [
        (49, True, 1, ("create", 49 + 49 + 1 + 1)),
        (50, True, 1, ("compare", 50 + 1 + 1 + 1)),
        (60, False, 1, ("create", 60 + 60 + 1 + 1)),
        (60, True, None, ("create", 60 + 1 + 60 + 1)),
        (60, True, 600, ("create", 60 + 1 + 60 + 1)),  # reading the contacts costs the same
        (60, True, 590, ("compare", 60 + 1 + 59 + 1)),
    ],
)
def test_all_contacts_are_read_if_cheaper(
    rows: int, may_compare: bool, contacts: int | None, plan: tuple[str, int]
) -> None:
    crm = FakeDeals()
    crm.count_contacts = lambda: contacts  # type: ignore[method-assign, assignment, return-value]
    remote = remote_of(crm, [{"m": f"p{n}@x.org"} for n in range(rows)], BY_MAIL, mode="create")
    found = remote.make_plan(may_compare=may_compare)
    assert (found.name, found.calls) == plan
    remote.close()


def test_guard_costs_one_more_call() -> None:
    mapping = {"deal_id": "d", "stage_id": "s"}
    remote = remote_of(FakeDeals(), [{"d": DEAL, "s": LAST}], mapping, mode="move", only_from_stages=FIRST)
    assert remote.make_plan(may_compare=True).calls == 2
    remote.close()


@pytest.mark.parametrize(
    ("given", "outcome", "calls"),
    [
        ({"mode": "create", "plan": "compare"}, CONFLICT, []),
        ({"mode": "create", "resumed": True}, "created", ["create"]),
        ({"mode": "create"}, "created", ["create"]),
        ({"mode": "upsert"}, "updated", ["update attributes", "get"]),
        ({"mode": "upsert", "only_from_stages": FIRST}, "updated", ["get", "update attributes", "get"]),
    ],
)
def test_load_options_reach_the_sender(given: dict[str, Any], outcome: str, calls: list[str]) -> None:
    crm = FakeDeals().add()
    remote = remote_of(crm, [{"m": "ada@x.org", "n": "Big"}], {**BY_MAIL, "attributes.pb_name": "n"}, **given)
    remote.began = BEGAN
    remote.make_plan(may_compare=True)
    remote.read_all(lambda count, records: None)
    crm.calls.clear()
    in_flight = InFlightRow(Row(1, {}), NEW, None)
    if outcome == CONFLICT:
        with pytest.raises(e.CrmContactAssociatedWithADealError):
            remote.send(in_flight)
    else:
        assert remote.send(in_flight).outcome.value == outcome
    assert crm.calls == calls
    remote.close()


NO_CONTACTS = "no deal of the listing has a contactId"


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ({"id": DEAL}, NO_CONTACTS),
        ({"id": DEAL, "contactId": {"id": CONTACT}}, NO_CONTACTS),
        ({"dealId": DEAL, "contactId": CONTACT}, "the response has no id"),
    ],
)
@pytest.mark.parametrize("given", [{"mode": "upsert"}, {"mode": "create", "plan": "compare"}])
def test_no_deal_is_created_if_the_listing_does_not_show_which_deals_there_are(
    given: dict[str, Any], shown: dict[str, Any], problem: str
) -> None:
    crm = FakeDeals()
    crm.deals, crm.omitted = {DEAL: {"pipelineId": PIPELINE, **shown}}, True
    remote = remote_of(crm, [{"m": "ada@x.org"}], BY_MAIL, **given)
    remote.make_plan(may_compare=True)
    with pytest.raises(e.CrmProtocolError, match=problem):
        remote.read_all(lambda count, records: None)
    remote.close()
    by_id = remote_of(crm, [{"d": DEAL, "s": LAST}], {"deal_id": "d", "stage_id": "s"}, mode="update", plan="compare")
    by_id.make_plan(may_compare=True)
    by_id.read_all(lambda count, records: None)  # the rows have the ids of their deals
    by_id.close()


def test_creation_without_a_response_is_remembered_with_the_start_of_the_load() -> None:
    crm = FakeDeals()
    remote = remote_of(crm, [{"m": "ada@x.org"}], BY_MAIL, mode="create")
    remote.began, crm.trouble = BEGAN, e.CrmTimeoutError("no response", outcome_known=False)
    in_flight = InFlightRow(Row(1, {}), NEW, None)
    with pytest.raises(e.CrmTimeoutError):
        remote.send(in_flight)
    assert in_flight.made == EarlierCreation(BEGAN)
    remote.close()


def test_contact_read_without_an_id_is_looked_up() -> None:
    crm = FakeDeals()
    crm.contacts |= {f"p{n}@x.org": CONTACT for n in range(59)} | {"": CONTACT, "odd@x.org": ""}
    remote = remote_of(crm, [{"m": email} for email in crm.contacts if email], BY_MAIL, mode="create")
    remote.make_plan(may_compare=True)
    remote.read_all(lambda count, records: None)
    crm.contacts["odd@x.org"] = OTHER
    deal = Deal(None, FIRST, PIPELINE, None, "odd@x.org")
    assert remote.send(InFlightRow(Row(1, {}), deal, None)).ids["contact_id"] == OTHER
    assert crm.calls == ["pages of contacts", "contact", "create"]
    remote.close()


def test_contacts_that_were_read_are_not_looked_up() -> None:
    crm = FakeDeals()
    crm.contacts |= {f"p{n}@x.org": CONTACT for n in range(59)}
    rows = [{"m": email.upper()} for email in crm.contacts]
    remote = remote_of(crm, [*rows, {"m": "new@x.org"}], BY_MAIL, mode="create")
    assert "all contacts are read" in remote.make_plan(may_compare=True).why
    remote.read_all(lambda count, records: None)
    assert crm.calls == ["pages of contacts"]
    deal = Deal(None, FIRST, PIPELINE, None, "ADA@x.org")
    assert remote.get(deal) is None
    with ThreadPoolExecutor(1) as threads:  # rows are sent from threads
        assert threads.submit(remote.send, InFlightRow(Row(1, {}), deal, None)).result().outcome.value == "created"
    assert crm.calls[1:] == ["create"]
    with pytest.raises(e.CrmContactNotFoundError):
        remote.send(InFlightRow(Row(1, {}), Deal(None, FIRST, PIPELINE, None, "new@x.org"), None))
    remote.close()


def test_sample_is_cached_and_an_unreadable_deal_counts_as_new() -> None:
    crm = FakeDeals().add(stage=LAST).add(OTHER, stage=FIRST)
    ids = [DEAL, OTHER, "11111111-0000-4000-8000-000000000003"]
    remote = remote_of(crm, [{"d": id_, "s": LAST} for id_ in ids], {"deal_id": "d", "stage_id": "s"}, mode="move")
    assert remote.sample(1).rows == 1
    found = remote.sample(10)
    assert (found.rows, found.existing, found.same) == (3, 2, 1)
    assert [remote.cache.get(id_) is not None for id_ in ids] == [True, True, False]
    assert not remote.needs_start
    assert remote.send(InFlightRow(Row(1, {}), MOVE, None)).outcome.value == "unchanged"
    remote.close()


def test_deal_of_another_contact_is_not_the_same() -> None:
    crm, mapping = FakeDeals().add(stage=LAST), {"deal_id": "d", "stage_id": "s", "contact_id": "c"}
    remote = remote_of(crm, [{"d": DEAL, "s": LAST, "c": OTHER}], mapping, mode="update")
    assert remote.sample(1) == Sample(1, 1, 0)
    remote.close()


def test_inconsistent_listing_is_enough_to_compare_but_not_to_create() -> None:
    crm = FakeDeals().add(stage=LAST)
    crm.odd = True
    move = remote_of(crm, [{"d": DEAL, "s": LAST}], {"deal_id": "d", "stage_id": "s"}, mode="move", plan="compare")
    move.make_plan(may_compare=True)
    move.read_all(lambda count, records: None)
    assert not move.cache.complete
    assert move.cache.get(DEAL) is not None
    move.close()
    for given in ({"mode": "upsert"}, {"mode": "create", "plan": "compare"}):
        new = remote_of(crm, [{"m": "ada@x.org"}], BY_MAIL, **given)
        new.make_plan(may_compare=True)
        with pytest.raises(e.CrmProtocolError, match="ends early"):
            new.read_all(lambda count, records: None)
        new.close()


@pytest.mark.parametrize(
    ("counts", "refused", "calls"),
    [({}, 0, 0), ({Outcome.CREATED: 1, Outcome.UPDATED: 2, Outcome.UNCHANGED: 4, Outcome.SKIPPED: 8}, 16, 23)],
)
def test_calls_of_a_naive_loop_over_the_rows(counts: dict[Outcome, int], refused: int, calls: int) -> None:
    remote = remote_of(FakeDeals(), [{"m": "ada@x.org"}], BY_MAIL, mode="create")
    assert remote.naive_calls(counts, refused) == calls
    remote.close()


def test_done_rows_are_not_counted() -> None:
    rows = [{"d": DEAL, "s": LAST}, {"d": OTHER, "s": LAST}, {"d": "", "s": LAST}]
    mapping = {"deal_id": "d", "stage_id": "s"}
    remote = remote_of(FakeDeals(), rows, mapping, mode="move", done=DoneRows(1))
    assert remote.make_plan(may_compare=True).calls == 1
    remote.close()
    remote = remote_of(FakeDeals(), rows, mapping, mode="move", done=DoneRows(3))
    assert remote.make_plan(may_compare=True).name == "nothing"
    remote.close()
    rows = [{"m": f"p{n}@x.org"} for n in range(1, 5)]
    remote = remote_of(FakeDeals(), rows, BY_MAIL, mode="create", done=DoneRows(1, [3]))
    assert remote.make_plan(may_compare=True).calls == 2 + 2 + 1 + 1
    remote.close()


@pytest.mark.parametrize(
    ("mapping", "error", "reason"),
    [
        (BY_MAIL, e.CrmStageNotFoundError, "stage_id is a constant of the mapping"),
        (BY_MAIL, e.CrmPipelineNotFoundError, "pipeline_id is a constant of the mapping"),
        (BY_MAIL, e.CrmContactNotFoundError, None),
        ({**BY_MAIL, "stage_id": "s"}, e.CrmStageNotFoundError, None),
    ],
)
def test_error_of_a_constant_ends_the_run(mapping: Any, error: type[e.CrmError], reason: str | None) -> None:
    remote = remote_of(FakeDeals(), [{"m": "ada@x.org", "s": FIRST}], mapping, mode="create")
    assert remote.of_the_run(error("no")) == reason
    remote.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "remove"}, "mode"),
        ({"plan": "learned"}, "plan"),
        ({"mode": "create", "only_from_stages": FIRST}, "mode='create' changes none"),
        ({"mode": "move", "only_from_stages": []}, "only_from_stages is empty; give at least one"),
    ],
)
def test_invalid_options_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        DEALS.options_of(given)


def test_stages_are_checked_when_known() -> None:
    assert DEALS.options_of({"only_from_stages": FIRST.upper()}).stages() == {FIRST}
    assert DEALS.options_of({"only_from_stages": None}).stages() == frozenset()
    for wrong in ("won", ""):  # a template may render a guard to nothing
        given = {"mode": "move", "mapping": {"deal_id": "d", "stage_id": "s"}, "only_from_stages": wrong}
        with pytest.raises(SourceError, match=r"only_from_stages\[0\] is text of . characters, not a UUID"):
            DEALS.check_arguments(given, later=lambda value: False)
    plain, guarded = DEALS.options_of({"mode": "move"}), DEALS.options_of({"mode": "move", "only_from_stages": FIRST})
    assert plain.effect != guarded.effect
    assert plain.decisive != guarded.decisive
