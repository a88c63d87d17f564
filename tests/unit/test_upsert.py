"""The result of an upsert for each of its ends, and the record that it reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.remote_contact import RemoteContact, pick_list
from crm_provider.client.upsert import ContactWriter, Creation, LearnedOrder, WriteResult
from crm_provider.load.rows import Contact
from crm_provider.values.server_clock import ServerClock, ServerMoment, utc_time

from .load.fake_crm import FakeCrm

LIST, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
ADA = "ada@x.org"
HAS, OLD = {"name": "Ada"}, {"name": "A."}
NEW = Contact(ADA, HAS)
RESPONSE = {"id": f"id-{ADA}", "email": ADA}
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class ReadBack(FakeCrm):
    """The response to each creation is lost, and the contact is read back."""

    def create_or_find(self, email: str, *, attributes: Any = None, origin: Any = None) -> Creation:
        made = email not in self.contacts
        with contextlib.suppress(e.CrmContactAlreadyExistsError):
            super().create_or_find(email, attributes=attributes, origin=origin)
        return Creation(dict(self.contacts[email]), made=made, read_back=True)


def writer_of(crm: FakeCrm, **options: Any) -> ContactWriter:
    return ContactWriter(crm, **{"order": LearnedOrder(), **options})  # type: ignore[arg-type]


def record(attributes: dict[str, str], **fields: Any) -> dict[str, Any]:
    return {**RESPONSE, "attributes": attributes, **fields}


def remote(attributes: dict[str, str], **fields: Any) -> RemoteContact:
    return RemoteContact.of(record(attributes, **fields), ADA)


def crm_with(attributes: dict[str, str], crm: FakeCrm | None = None, **fields: Any) -> FakeCrm:
    crm = crm or FakeCrm()
    crm.add(ADA, attributes, **fields)
    return crm


# -- written values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "contact", "known", "written"),
    [
        (None, NEW, None, WriteResult("created", response=RESPONSE)),
        (OLD, NEW, remote(OLD), WriteResult("updated", response=RESPONSE, remote=remote(OLD))),
        (HAS, NEW, remote(HAS), WriteResult("unchanged", called=False, remote=remote(HAS))),
        (OLD, NEW, None, WriteResult("updated", response=RESPONSE)),
        (OLD, Contact(ADA, {}), None, WriteResult("unchanged", called=False)),
    ],
    ids=["new", "known, other values", "known, same values", "not known", "without attributes"],
)
def test_result_of_a_write(there: Any, contact: Contact, known: Any, written: WriteResult) -> None:
    crm = FakeCrm() if there is None else crm_with(there)
    assert writer_of(crm).write(contact, known) == written


def test_contact_created_and_read_back() -> None:
    whole = record(HAS, origin=None)
    assert writer_of(ReadBack()).write(NEW) == WriteResult(
        "created", response=whole, remote=RemoteContact.of(whole, ADA)
    )


def test_contact_created_by_an_earlier_attempt() -> None:
    crm = crm_with(HAS, ReadBack())
    written = writer_of(crm, mode="create").write(NEW, is_ours=lambda found: found.attributes == HAS)
    assert written == WriteResult("unchanged", called=False, remote=remote(HAS))
    with pytest.raises(e.CrmContactAlreadyExistsError) as raised:
        writer_of(crm, mode="create").write(NEW, is_ours=lambda found: False)
    assert (raised.value.status, raised.value.path) == (409, "/contacts")


def test_suppressed_contact_is_not_written_and_added_to_no_list() -> None:
    crm = crm_with(OLD, status="unsubscribed")
    known = remote(OLD, status="unsubscribed")
    writer = writer_of(crm, mode="update", lists=(LIST,))
    written = writer.write(NEW, known)
    assert written == WriteResult("suppressed", called=False, remote=known)
    assert writer.add_to_lists(NEW, written) is written
    assert (
        writer_of(crm, lists=(LIST,), guard=False).add_to_lists(NEW, WriteResult("suppressed")).outcome == "suppressed"
    )
    assert crm.calls == []


def test_guard_is_on_by_default() -> None:
    crm = crm_with(OLD, status="unsubscribed")
    assert writer_of(crm, lists=(LIST,)).write(NEW).outcome == "suppressed"


def test_lists_use_the_result_of_the_write_without_a_read() -> None:
    crm = crm_with(HAS)
    known = remote(HAS)
    written = WriteResult("unchanged", response=RESPONSE, remote=known)
    assert writer_of(crm, lists=(LIST,)).add_to_lists(NEW, written) == WriteResult(
        "updated", response=RESPONSE, remote=known
    )
    assert crm.calls == [("add", ADA)]


@pytest.mark.parametrize(
    ("shown", "asked"), [("ADA@x.org", "ADA@x.org"), ("a***@x.org", ADA), ("eve@x.org", ADA), (7, ADA), (None, ADA)]
)
@pytest.mark.parametrize("again", [False, True])
def test_lists_use_the_address_as_the_crm_has_spelled_it(shown: Any, asked: str, again: bool) -> None:
    crm = FakeCrm()
    crm.add(asked, HAS)
    written = WriteResult("created", response={"id": "1", "email": shown})
    writer_of(crm, lists=(LIST,)).add_to_lists(NEW, written, again=again)
    assert crm.contacts[asked]["segmentedListsIds"] == [LIST]


def test_known_contact_with_other_values_is_read_again_even_if_in_the_lists() -> None:
    crm = crm_with(OLD, status="unsubscribed", segmentedListsIds=[LIST])  # since the read
    written = writer_of(crm, lists=(LIST,)).write(NEW, remote(OLD, segmentedListsIds=[LIST]))
    assert (written.outcome, crm.calls) == ("suppressed", [("get", ADA)])


class Lagging(FakeCrm):
    """It knows that the contact exists, but does not show it yet."""

    def create_or_find(self, email: str, **_: Any) -> Creation:
        raise e.CrmContactAlreadyExistsError("Contact already exists.", status=409)


@pytest.mark.parametrize("lists", [(), (LIST,)], ids=["not read", "read"])
def test_contact_that_exists_but_is_not_found_is_reported_with_both_facts(lists: tuple[str, ...]) -> None:
    with pytest.raises(e.CrmContactNotFoundError) as raised:
        writer_of(Lagging(), lists=lists).write(NEW)
    assert raised.value.message == "Contact not found, although the CRM has just refused to create it (409)."
    assert raised.value.advice.startswith("Write it again later")


def test_contact_deleted_since_the_read_teaches_nothing() -> None:
    order = LearnedOrder(share=1.0, weight=20)
    writer_of(FakeCrm(), order=order).write(NEW, remote(OLD))
    assert order.share == 1.0


# -- the read contact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "email"), [("Ada@X.org", "Ada@X.org"), ("", ADA), (None, ADA), (7, ADA)])
def test_address_is_that_of_the_record_if_it_has_one(own: Any, email: str) -> None:
    assert RemoteContact.of({"email": own}, ADA).email == email


def test_only_some_attributes_are_read() -> None:
    found = RemoteContact.of({"id": "1", "attributes": {"name": "Ada", "city": "London"}}, ADA)
    assert found.only({"name", "phone"}) == RemoteContact(ADA, {"name": "Ada"}, id="1")


# -- one list of many ----------------------------------------------------------------------------------------

NONE = "33333333-3333-4333-8333-333333333333"
EITHER = "give either the name or the list_id of the segmentation list"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": None, "list_id": None}, EITHER),
        ({"name": "VIP", "list_id": LIST}, EITHER),
        ({"name": "VIP", "list_id": None}, f"2 segmentation lists have this name; use list_id, one of {LIST}, {OTHER}"),
        ({"name": "none", "list_id": None}, "Segmentation list not found: no list is called 'none'."),
        ({"name": "vip", "list_id": None}, "Segmentation list not found: no list is called 'vip'; did you mean 'VIP'?"),
        ({"name": None, "list_id": NONE}, f"Segmentation list not found: no list has the id {NONE}."),
        ({"name": "Odd", "list_id": None}, "the segmentation list of this name has no id"),
    ],
)
def test_reason_why_no_list_is_picked(asked: dict[str, Any], message: str) -> None:
    lists = [{"id": LIST, "name": "VIP"}, {"id": OTHER, "title": "VIP"}, {"id": NONE[:-1]}, {"name": "Odd"}]
    with pytest.raises(e.CrmError) as raised:
        pick_list(lambda: lists, **asked)
    assert raised.value.message == message
    if "not found" in raised.value.message:
        assert (raised.value.method, raised.value.path) == ("GET", "/segments")


def test_lists_without_names_do_not_show_that_one_is_missing() -> None:
    with pytest.raises(e.CrmProtocolError, match="no segmentation list of the listing has a name; use list_id"):
        pick_list(lambda: [{"id": LIST, "label": "VIP"}], name="VIP", list_id=None)
    with pytest.raises(e.CrmSegmentationListNotFoundError):
        pick_list(list, name="VIP", list_id=None)


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ({"name": " ", "list_id": None}, "name"),
        ({"name": " ", "list_id": None, "field": "list_name"}, "list_name"),
        ({"name": None, "list_id": "x"}, "list_id"),
    ],
)
def test_error_uses_the_callers_argument_name(asked: dict[str, Any], called: str) -> None:
    with pytest.raises(e.CrmInvalidValueError) as raised:
        pick_list(list, **asked)
    assert raised.value.message.startswith(f"{called} ")


def test_listing_by_id_is_read_only_up_to_the_list() -> None:
    def lists() -> Iterator[dict[str, Any]]:
        yield {"id": LIST.upper()}
        raise AssertionError("read on")

    assert pick_list(lists, name=None, list_id=LIST) == {"id": LIST.upper()}


# -- the CRM's clock -----------------------------------------------------------------------------------------


def test_simultaneous_responses_give_the_exact_time() -> None:
    clock = ServerClock()
    clock.note("Sun, 01 Mar 2026 12:00:00 GMT", sent=100.0, received=100.0)
    clock.note("Sun, 01 Mar 2026 12:00:01 GMT", sent=100.0, received=100.0)
    moment = NOON + timedelta(seconds=1)
    assert clock.at(100.0) == ServerMoment(moment, moment)


def test_the_shortest_round_trip_is_known() -> None:
    clock = ServerClock()
    for sent, received in [(100.0, 101.5), (102.0, 102.25), (103.0, 103.5)]:
        clock.note("Sun, 01 Mar 2026 12:00:00 GMT", sent=sent, received=received)
    assert clock.round_trip == 0.25


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine is not in the UTC zone."""
    monkeypatch.setenv("TZ", "America/Sao_Paulo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "header", ["Sun, 01 Mar 2026 12:00:00 GMT", "Sun, 01 Mar 2026 12:00:00 -0000", "Sun, 01 Mar 2026 09:00:00 -0300"]
)
def test_date_in_any_zone(header: str) -> None:
    clock = ServerClock()
    clock.note(header, sent=100.0, received=100.0)
    assert clock.at(100.0) == ServerMoment(NOON, NOON + timedelta(seconds=1))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "text", ["2026-03-01T12:00:00z", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00", "2026-03-01T09:00:00-03:00"]
)
def test_moments_are_in_utc_whatever_their_zone(text: str) -> None:
    found = utc_time(text)
    assert found == NOON
    assert found is not None and found.tzinfo is timezone.utc
