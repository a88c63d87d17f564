"""The calls of a row: by mode, by knowledge of its contact, and by the CRM's responses."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.remote_contact import ABSENT, RemoteContact
from crm_provider.client.upsert import ContactWriter, Creation, LearnedOrder
from crm_provider.load.kinds.remote_contacts import ContactSender
from crm_provider.load.rows import Contact, EarlierCreation, Outcome, Row
from crm_provider.load.workers import InFlightRow, SentRow

from .fake_crm import FakeCrm

LIST = "11111111-1111-4111-8111-111111111111"
ADA = "ada@x.org"
NEW = Contact(ADA, {"name": "Ada"})
HAS = {"name": "Ada"}
OLD = {"name": "A."}


def order_of(*, update_first: bool) -> LearnedOrder:
    return LearnedOrder(share=float(update_first), weight=1.0)


def sender_of(
    crm: FakeCrm,
    *,
    mode: Any = "upsert",
    order: Any = None,
    lists: tuple[str, ...] = (),
    guard: bool = True,
    began: datetime | None = None,
) -> ContactSender:
    writer = ContactWriter(crm, mode=mode, order=order or LearnedOrder(), lists=lists, guard=guard)  # type: ignore[arg-type]
    return ContactSender(writer, began=began)


def row_in_flight(
    contact: Contact = NEW, seen: RemoteContact | None = None, made: EarlierCreation | None = None
) -> InFlightRow:
    return InFlightRow(Row(1, {}), contact, seen, made=made)


def send(
    crm: FakeCrm,
    *,
    contact: Contact = NEW,
    seen: RemoteContact | None = None,
    mode: Any = "upsert",
    update_first: bool = False,
    lists: tuple[str, ...] = (),
    guard: bool = True,
) -> tuple[str, list[str]]:
    sender = sender_of(crm, mode=mode, order=order_of(update_first=update_first), lists=lists, guard=guard)
    try:
        outcome = sender.send(row_in_flight(contact, seen)).outcome.value
    except e.CrmError as error:
        outcome = error.type
    return outcome, [name for name, _ in crm.calls]


def crm_with(attributes: dict[str, Any] | None, **fields: Any) -> FakeCrm:
    crm = FakeCrm()
    if attributes is not None:
        crm.add(ADA, attributes, **fields)
    return crm


def seen(attributes: dict[str, Any] | None, **fields: Any) -> RemoteContact:
    return ABSENT if attributes is None else RemoteContact.of({"email": ADA, "attributes": attributes, **fields}, ADA)


@pytest.mark.parametrize(
    ("mode", "there", "known", "update_first", "outcome", "calls"),
    [
        # nothing is known
        ("upsert", None, False, False, "created", ["create"]),
        ("upsert", OLD, False, False, "updated", ["create", "update"]),
        ("upsert", None, False, True, "created", ["update", "create"]),
        ("upsert", OLD, False, True, "updated", ["update"]),
        ("create", None, False, False, "created", ["create"]),
        ("create", OLD, False, False, "CONTACT_ALREADY_EXISTS", ["create"]),
        ("update", None, False, False, "CONTACT_NOT_FOUND", ["update"]),
        ("update", OLD, False, False, "updated", ["update"]),
        # the contact was read
        ("upsert", None, True, True, "created", ["create"]),
        ("upsert", OLD, True, False, "updated", ["update"]),
        ("upsert", HAS, True, False, "unchanged", []),
        ("create", OLD, True, False, "CONTACT_ALREADY_EXISTS", []),
        ("create", None, True, False, "created", ["create"]),
        ("update", HAS, True, False, "unchanged", []),
        ("update", OLD, True, False, "updated", ["update"]),
        ("update", None, True, False, "CONTACT_NOT_FOUND", ["update"]),
    ],
)
def test_calls_of_a_row(
    mode: str, there: dict[str, Any] | None, known: bool, update_first: bool, outcome: str, calls: list[str]
) -> None:
    crm = crm_with(there)
    found = send(crm, mode=mode, seen=seen(there) if known else None, update_first=update_first)
    assert found == (outcome, calls)
    if outcome in ("created", "updated"):
        assert crm.contacts[ADA]["attributes"] == HAS


def test_contact_deleted_since_the_read_is_created() -> None:
    assert send(FakeCrm(), seen=seen(OLD)) == ("created", ["update", "create"])


def test_contact_created_since_the_read_is_updated() -> None:
    assert send(crm_with(OLD), seen=ABSENT) == ("updated", ["create", "update"])


def test_contact_is_written_with_the_spelling_of_the_crm() -> None:
    crm = FakeCrm()
    crm.add("Ada@x.org", OLD)
    known = RemoteContact.of(crm.contacts["Ada@x.org"], "Ada@x.org")
    assert send(crm, seen=known) == ("updated", ["update"])


@pytest.mark.parametrize(
    ("mode", "there", "outcome", "calls"),
    [
        ("upsert", None, "created", ["create"]),
        ("upsert", OLD, "unchanged", ["create"]),  # the conflict proves that the contact exists
        ("update", OLD, "unchanged", ["get"]),
        ("update", None, "CONTACT_NOT_FOUND", ["get"]),
    ],
)
def test_row_without_attributes(mode: str, there: Any, outcome: str, calls: list[str]) -> None:
    assert send(crm_with(there), contact=Contact(ADA, {}), mode=mode, update_first=True) == (outcome, calls)


@pytest.mark.parametrize(
    ("there", "known", "update_first", "outcome", "calls"),
    [
        (None, False, False, "created", ["create", "add"]),
        (OLD, False, False, "updated", ["create", "get", "update", "add"]),
        (HAS, False, True, "updated", ["get", "add"]),
        (None, False, True, "created", ["get", "create", "add"]),
        (HAS, True, False, "updated", ["get", "add"]),  # the guard reads at the time of the write
    ],
)
def test_calls_for_lists(there: Any, known: bool, update_first: bool, outcome: str, calls: list[str]) -> None:
    crm = crm_with(there)
    found = send(crm, seen=seen(there) if known else None, update_first=update_first, lists=(LIST,))
    assert found == (outcome, calls)
    assert crm.contacts[ADA]["segmentedListsIds"] == [LIST]


def test_contact_already_in_the_lists_is_left_alone() -> None:
    crm = crm_with(HAS, segmentedListsIds=[LIST.upper()])
    assert send(crm, update_first=True, lists=(LIST,)) == ("unchanged", ["get"])


@pytest.mark.parametrize(
    "sign", [{"unsubscribedAt": "2026-01-01T00:00:00Z"}, {"blacklistedAt": "2026-01-01"}, {"status": "Unsubscribed"}]
)
@pytest.mark.parametrize("mode", ["upsert", "update"])
@pytest.mark.parametrize("update_first", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_unsubscribed_contact_is_not_written(sign: dict[str, str], mode: str, update_first: bool, known: bool) -> None:
    crm = crm_with(OLD, **sign)
    outcome, calls = send(
        crm, mode=mode, update_first=update_first, lists=(LIST,), seen=seen(OLD, **sign) if known else None
    )
    assert outcome == Outcome.SUPPRESSED.value
    assert not {"update", "add"} & set(calls)
    assert crm.contacts[ADA]["attributes"] == OLD


def test_guard_can_be_disabled_and_does_not_affect_plain_updates() -> None:
    crm = crm_with(OLD, status="unsubscribed")
    assert send(crm, lists=(LIST,), guard=False) == ("updated", ["create", "update", "add"])
    assert send(crm_with(OLD, status="unsubscribed")) == ("updated", ["create", "update"])


def test_contact_missed_by_a_listing_is_read_before_it_is_added_to_a_list() -> None:
    crm = crm_with(OLD, status="unsubscribed")
    assert send(crm, mode="update", seen=ABSENT, lists=(LIST,)) == ("suppressed", ["get"])


def test_order_of_calls_is_learned() -> None:
    crm, order = FakeCrm(), LearnedOrder()
    sender = sender_of(crm, order=order)
    for _ in range(3):
        sender.send(row_in_flight())
    assert [name for name, _ in crm.calls] == ["create", "create", "update", "create", "update"]
    assert order.share == pytest.approx(2 / 3)


def test_error_unrelated_to_the_order_is_raised() -> None:
    crm = crm_with(OLD)
    crm.trouble = lambda call, email: e.CrmForbiddenError("no", status=403)
    assert send(crm) == ("FORBIDDEN", ["create"])
    crm.calls.clear()
    assert send(crm, update_first=True) == ("FORBIDDEN", ["update"])


def by_status(call_: str, path: str) -> FakeCrm:
    """A CRM whose first response to one call is a bare 404."""

    def trouble(call: str, email: str) -> e.CrmError | None:
        if call != call_ or [name for name, _ in crm.calls].count(call_) > 1:
            return None
        return e.CrmNotFoundError("status 404 (empty body)", type="HTTP_404", status=404, path=path)

    crm = FakeCrm(trouble=trouble)
    return crm


@pytest.mark.parametrize("known", [None, seen(OLD)])
def test_contact_missing_by_a_bare_404_is_created(known: RemoteContact | None) -> None:
    found = send(by_status("update", "/contacts/{email}"), update_first=True, seen=known)
    assert found == ("created", ["update", "create"])


@pytest.mark.parametrize("mode", ["upsert", "update"])
def test_bare_404_of_a_list_is_not_about_the_contact(mode: str) -> None:
    crm = by_status("add", "/segments/add-contact/{email}")
    crm.add(ADA, HAS)
    assert send(crm, mode=mode, update_first=True, seen=seen(HAS), lists=(LIST,)) == ("HTTP_404", ["get", "add"])
    crm.calls.clear()
    assert send(crm, mode=mode, update_first=True, lists=(LIST,)) == ("HTTP_404", ["get", "add"])


def test_update_only_row_ends_with_the_bare_404() -> None:
    assert send(by_status("update", "/contacts/{email}"), mode="update") == ("HTTP_404", ["update"])


@pytest.mark.parametrize(
    ("update_first", "there", "learned"),
    [(False, None, [False]), (False, OLD, [True]), (True, None, [False]), (True, OLD, [True])],
)
@pytest.mark.parametrize("lists", [(), (LIST,)])
def test_each_row_is_learned_from_once(update_first: bool, there: Any, learned: list[bool], lists: Any) -> None:
    class Order(LearnedOrder):
        def learn(self, *, existed: bool) -> None:
            seen_so_far.append(existed)

    seen_so_far: list[bool] = []
    order = Order(share=float(update_first), weight=1.0)
    sender_of(crm_with(there), order=order, lists=lists).send(row_in_flight())
    assert seen_so_far == learned


def test_bare_404_is_learned_only_after_proof() -> None:
    class Order(LearnedOrder):
        def learn(self, *, existed: bool) -> None:
            seen_so_far.append(existed)

    seen_so_far: list[bool] = []
    crm = by_status("update", "/contacts/{email}")
    crm.add(ADA, OLD)
    sender_of(crm, order=Order(share=1.0, weight=1.0)).send(row_in_flight())
    assert ([name for name, _ in crm.calls], seen_so_far) == (["update", "create", "update"], [True])


def raised(
    contact: Contact, mode: str, crm: FakeCrm, known: RemoteContact | None, lists: tuple[str, ...] = ()
) -> e.CrmError:
    with pytest.raises(e.CrmError) as caught:
        sender_of(crm, mode=mode, lists=lists).send(row_in_flight(contact, known))
    return caught.value


def test_error_known_without_a_call_equals_that_of_the_crm() -> None:
    exists = raised(NEW, "create", crm_with(OLD), seen(OLD))
    assert (exists.message, exists.method, exists.path) == ("Contact already exists.", "POST", "/contacts")
    assert exists.status is None, "no call was made"
    gone = raised(NEW, "update", FakeCrm(), None, lists=(LIST,))
    assert (gone.message, gone.method, gone.path) == ("Contact not found.", "GET", "/contacts/{email}")
    assert gone.status == 404


def test_origin_is_sent_with_a_new_contact() -> None:
    crm = FakeCrm()
    assert send(crm, contact=Contact(ADA, HAS, origin="fair 2026"))[0] == "created"
    assert crm.contacts[ADA]["origin"] == "fair 2026"


@pytest.mark.parametrize("known", [None, seen(OLD)])
def test_row_that_needed_no_write_is_unchanged(known: RemoteContact | None) -> None:
    sender = sender_of(crm_with(OLD), mode="update")
    assert sender.send(row_in_flight(Contact(ADA, {}), known)) == SentRow(Outcome.UNCHANGED, called=False)
    assert sender.send(row_in_flight()) == SentRow(Outcome.UPDATED, called=True)


def test_contact_is_added_only_to_missing_lists_with_the_spelling_of_the_crm() -> None:
    upper = LIST.upper().replace("1", "A")
    crm = FakeCrm()
    crm.add("Ada@x.org", HAS, segmentedListsIds=[upper.lower()])
    known = RemoteContact.of(crm.contacts["Ada@x.org"], "Ada@x.org")
    assert send(crm, seen=known, lists=(upper, LIST), guard=False) == ("updated", ["add"])
    assert crm.contacts["Ada@x.org"]["segmentedListsIds"] == [upper.lower(), LIST]


# -- created by this load, or there before -------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
BEGAN = NOON
BEFORE, SINCE = "2026-02-01T00:00:00.000Z", "2026-03-01T12:00:05.000Z"


class Losing(FakeCrm):
    """The response to each creation is lost. The contact that is read back was created by it, or existed before."""

    def create_or_find(self, email: str, *, attributes: Any = None, origin: Any = None) -> Creation:
        was_there = email in self.contacts
        with contextlib.suppress(e.CrmContactAlreadyExistsError):
            super().create_or_find(email, attributes=attributes, origin=origin)
        return Creation(self.contacts[email], made=not was_there, read_back=True)


@pytest.mark.parametrize(
    ("mode", "there", "fields", "lists", "outcome", "calls"),
    [
        ("upsert", None, {}, (), "created", ["create"]),
        ("upsert", None, {}, (LIST,), "created", ["create", "add"]),
        ("upsert", OLD, {}, (), "updated", ["create", "update"]),
        ("upsert", HAS, {}, (), "unchanged", ["create"]),
        ("upsert", HAS, {}, (LIST,), "updated", ["create", "add"]),
        ("upsert", OLD, {"status": "unsubscribed"}, (), "updated", ["create", "update"]),
        ("upsert", OLD, {"status": "unsubscribed"}, (LIST,), "suppressed", ["create"]),
        ("upsert", HAS, {"blacklistedAt": "2026-01-01"}, (LIST,), "suppressed", ["create"]),
        ("create", None, {}, (LIST,), "created", ["create", "add"]),
        ("create", OLD, {}, (LIST,), "CONTACT_ALREADY_EXISTS", ["create"]),
        ("create", HAS, {}, (LIST,), "CONTACT_ALREADY_EXISTS", ["create"]),
    ],
)
def test_contact_found_after_a_lost_creation_is_treated_like_a_read_one(
    mode: str, there: Any, fields: dict[str, str], lists: tuple[str, ...], outcome: str, calls: list[str]
) -> None:
    crm = Losing()
    if there is not None:
        crm.add(ADA, there, **fields)
    assert send(crm, mode=mode, lists=lists) == (outcome, calls)
    assert crm.contacts[ADA].get("segmentedListsIds", []) == ([LIST] if "add" in calls else [])


@pytest.mark.parametrize("mode", ["upsert", "create"])
def test_row_with_failed_lists_continues_with_them(mode: str) -> None:
    failures = [e.CrmTooManyRequestsError("slow down", status=429)]
    crm = FakeCrm(trouble=lambda call, email: failures.pop() if call == "add" and failures else None)
    sender, in_flight = sender_of(crm, mode=mode, lists=(LIST,)), row_in_flight()
    with pytest.raises(e.CrmTooManyRequestsError):
        sender.send(in_flight)
    assert in_flight.made == EarlierCreation(None, certain=True)
    assert sender.send(in_flight) == SentRow(Outcome.CREATED)
    assert [name for name, _ in crm.calls] == ["create", "add", "get", "add"]


def test_contact_unsubscribed_before_its_lists_were_added_stays_out() -> None:
    failures = [e.CrmTooManyRequestsError("slow down", status=429)]
    crm = FakeCrm(trouble=lambda call, email: failures.pop() if call == "add" and failures else None)
    sender, in_flight = sender_of(crm, lists=(LIST,)), row_in_flight()
    with pytest.raises(e.CrmTooManyRequestsError):
        sender.send(in_flight)
    crm.contacts[ADA]["status"] = "unsubscribed"
    assert sender.send(in_flight) == SentRow(Outcome.CREATED, is_whole=False)
    assert "segmentedListsIds" not in crm.contacts[ADA]


@pytest.mark.parametrize(
    ("created_at", "attributes", "made", "outcome"),
    [
        # created by an earlier try of this load
        (SINCE, HAS, EarlierCreation(BEGAN), "created"),
        (SINCE, {**HAS, "name": "ADA"}, EarlierCreation(BEGAN), "created"),
        (None, HAS, EarlierCreation(BEGAN, certain=True), "created"),
        # it existed before this load
        (BEFORE, HAS, EarlierCreation(BEGAN), "CONTACT_ALREADY_EXISTS"),
        (BEFORE, HAS, EarlierCreation(BEGAN, certain=True), "CONTACT_ALREADY_EXISTS"),
        (SINCE, HAS, None, "CONTACT_ALREADY_EXISTS"),  # no earlier attempt: another client has just created it
        # no way to know the creator
        (None, HAS, EarlierCreation(BEGAN), "CONTACT_ALREADY_EXISTS"),
        (SINCE, HAS, EarlierCreation(None), "CONTACT_ALREADY_EXISTS"),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_create_counts_contacts_of_this_load_and_leaves_others_alone(
    created_at: str | None, attributes: dict[str, Any], made: EarlierCreation | None, outcome: str, known: bool
) -> None:
    fields = {} if created_at is None else {"createdAt": created_at}
    crm = crm_with(attributes, **fields)
    seen_then = RemoteContact.of(crm.contacts[ADA], ADA) if known else None
    sender = sender_of(crm, mode="create", lists=(LIST,), began=BEGAN)
    try:
        found = sender.send(row_in_flight(seen=seen_then, made=made)).outcome.value
    except e.CrmError as error:
        found = error.type
    assert found == outcome
    assert crm.contacts[ADA].get("segmentedListsIds", []) == ([LIST] if outcome == "created" else [])
    assert crm.contacts[ADA]["attributes"] == attributes


def test_rejected_row_with_a_created_contact_gets_its_lists_from_the_next_load() -> None:
    crm = crm_with(HAS, createdAt=SINCE)
    in_flight = InFlightRow(
        Row(1, {}, made=EarlierCreation(BEGAN, certain=True, earlier_load=True)),
        NEW,
        None,
        made=EarlierCreation(BEGAN, certain=True, earlier_load=True),
    )
    sender = sender_of(crm, mode="create", lists=(LIST,))
    assert sender.send(in_flight).outcome is Outcome.UPDATED
    assert crm.contacts[ADA]["segmentedListsIds"] == [LIST]
    assert sender.send(row_in_flight(made=EarlierCreation(BEGAN, certain=True))).outcome is Outcome.CREATED, (
        "created by this load"
    )


def test_creation_with_unknown_result_may_have_happened() -> None:
    crm = FakeCrm(trouble=lambda call, email: e.CrmTimeoutError("no response", outcome_known=False))
    in_flight = row_in_flight()
    with pytest.raises(e.CrmTimeoutError):
        sender_of(crm, mode="create", lists=(LIST,), began=BEGAN).send(in_flight)
    assert in_flight.made == EarlierCreation(BEGAN)


def test_guard_reads_a_known_contact_again_before_the_write() -> None:
    crm = crm_with(OLD, status="unsubscribed")  # since the read
    assert send(crm, seen=seen(OLD), lists=(LIST,)) == ("suppressed", ["get"])
    assert crm.contacts[ADA]["attributes"] == OLD
    crm = crm_with(HAS, segmentedListsIds=[LIST])
    assert send(crm, seen=seen(HAS, segmentedListsIds=[LIST]), lists=(LIST,)) == ("unchanged", [])


def test_other_missing_record_does_not_cause_a_creation() -> None:
    crm = by_status("update", "/somewhere/else")
    crm.add(ADA, OLD)
    assert send(crm, seen=seen(OLD)) == ("HTTP_404", ["update"])
