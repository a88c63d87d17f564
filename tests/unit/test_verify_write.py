"""After a lost response: whether the lost call created the found record, or it existed before."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import pytest

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.remote_contact import CLOCKS_APART, made_since
from crm_provider.client.request import Call
from crm_provider.values.json_values import same_value, shows
from crm_provider.values.server_clock import ServerClock, ServerMoment, utc_time

from .fakes import Bench, Reply, Step, bench, data, error, lost

EMAIL = "ada@example.com"
ID, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
CONTACT_ID, PIPELINE, STAGE = (f"{n}3333333-3333-4333-8333-333333333333" for n in "123")
NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
NOON_HEADER = "Sun, 01 Mar 2026 12:00:00 GMT"


def header(seconds: float) -> str:
    """The header at some seconds after noon."""
    return format_datetime(NOON + timedelta(seconds=math.floor(seconds)), usegmt=True)


# -- the CRM's clock -----------------------------------------------------------------------------------------


def test_clock_is_unknown_before_any_response() -> None:
    clock = ServerClock()
    clock.note(None, sent=1.0, received=2.0)
    clock.note("yesterday", sent=1.0, received=2.0)
    assert clock.at(1.5) is None


def test_first_response_gives_a_span_of_its_travel_time_and_one_header_second() -> None:
    clock = ServerClock()
    clock.note(NOON_HEADER, sent=100.0, received=100.4)
    assert clock.at(100.4) == ServerMoment(NOON, NOON + timedelta(seconds=1.4))
    assert clock.at(90.4) == ServerMoment(NOON - timedelta(seconds=10), NOON - timedelta(seconds=8.6))


def test_more_responses_narrow_the_span() -> None:
    clock = ServerClock()
    clock.note(NOON_HEADER, sent=100.0, received=100.1)  # noon is between 99.0 and 100.1
    clock.note("Sun, 01 Mar 2026 12:00:01 GMT", sent=100.3, received=100.4)  # a second later between 99.3 and 100.4
    moment = clock.at(100.0)
    assert moment is not None
    assert moment.earliest == NOON + timedelta(seconds=0.6)
    drift = timedelta(seconds=0.3 * 5e-4)
    assert abs(moment.latest - NOON - timedelta(seconds=1.0) - drift) < timedelta(microseconds=2)


def test_clocks_that_diverge_do_not_contradict_each_other() -> None:
    """By 400 millionths. Afterwards the span is as long as the clocks could diverge."""
    clock, seconds = ServerClock(), 10_000.0
    for local in range(0, 10_000, 10):
        for part in (0.0, 0.999):
            seconds = local * 1.0004 + part
            clock.note(header(seconds), sent=local + part, received=local + part)
    moment = clock.at(9990.0)
    assert moment is not None
    assert moment.earliest < NOON + timedelta(seconds=9990 * 1.0004) < moment.latest
    assert moment.latest - moment.earliest < timedelta(seconds=1)


@pytest.mark.parametrize(("period", "noticed"), [(1.01, 11.0), (1.1, 3.0)])
def test_header_that_the_server_keeps_for_a_second_does_not_mislead(period: float, noticed: float) -> None:
    """After some seconds the responses contradict each other, and the span has room for it; the clocks are the same."""
    clock = ServerClock()
    for call in range(1000):
        at = call * 0.37
        clock.note(header(at // period * period), sent=at, received=at + 0.05)
        moment, true = clock.at(at), NOON + timedelta(seconds=at)
        assert moment is not None
        assert at < noticed or moment.earliest <= true <= moment.latest, at
    assert moment.latest - moment.earliest < timedelta(seconds=1)


def test_clock_set_back_is_used_as_it_is_now() -> None:
    clock = ServerClock()
    clock.note(NOON_HEADER, sent=100.0, received=100.0)
    clock.note("Sun, 01 Mar 2026 11:00:00 GMT", sent=101.0, received=101.0)
    moment = clock.at(101.0)
    assert moment is not None
    assert moment.earliest == NOON - timedelta(hours=1)


def test_clock_set_back_by_little_is_within_the_span() -> None:
    """It looks like a header that the server keeps, so the span has room for both."""
    clock = ServerClock()
    clock.note(header(0.99), sent=100.0, received=100.0)
    clock.note(header(-1.01), sent=100.0, received=100.0)
    moment = clock.at(100.0)
    assert moment == ServerMoment(NOON - timedelta(seconds=2), NOON + timedelta(seconds=0.1))


def test_load_waits_until_its_creations_are_certainly_younger() -> None:
    made = bench(dated(data({"page": 0, "total": 0, "data": []})))
    before = made.clock.now
    start = made.client.start_of_writes()
    assert start == NOON + timedelta(seconds=1 + 1)  # noon at the latest when it was read, and two clocks
    waited = made.clock.now - before
    assert waited == 1 + 2 * 1
    moment = made.transport.server_time()
    assert moment is not None
    assert start is not None
    assert moment.earliest - CLOCKS_APART >= start
    assert made.client.start_of_writes() is not None  # without another call
    assert len(made.http.calls) == 1


def test_crm_without_a_clock() -> None:
    made = bench(data({"page": 0, "total": 0, "data": []}))
    assert made.client.start_of_writes() is None
    assert made.clock.slept == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T12:00:00.000Z", NOON),
        ("2026-03-01T09:00:00-03:00", NOON),
        ("2026-03-01T12:00:00", NOON),
        ("March", None),
        ("", None),
        (None, None),
        (1772366400, None),
    ],
)
def test_moments_of_the_api(text: Any, expected: datetime | None) -> None:
    assert utc_time(text) == expected


# -- created or found ----------------------------------------------------------------------------------------

SINCE = ServerMoment(NOON, NOON + timedelta(seconds=1.4))


@pytest.mark.parametrize(
    ("seconds", "with_same_values", "with_others"),
    [
        (-86400.0, False, False),  # created a day before
        (-1.1, False, False),
        (-1.0, True, False),
        (-0.9, True, False),  # within the uncertainty of two clocks: only the values decide
        (0.7, True, False),
        (1.4, True, True),  # certainly created after the call was sent, whatever the CRM did to the values
        (60.0, True, True),
    ],
)
def test_age_of_a_record_decides_or_its_values_if_uncertain(
    seconds: float, with_same_values: bool, with_others: bool
) -> None:
    created = NOON + timedelta(seconds=seconds)
    assert made_since(created, SINCE, same_values=True) is with_same_values
    assert made_since(created, SINCE, same_values=False) is with_others


@pytest.mark.parametrize(("created", "since"), [(None, SINCE), (NOON, None), (None, None)])
def test_values_decide_without_an_age(created: datetime | None, since: ServerMoment | None) -> None:
    assert made_since(created, since, same_values=True)
    assert not made_since(created, since, same_values=False)


# -- equality ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ("Ada", "Ada", True),
        ("Ada", "ada", False),
        ("5", 5, True),
        (5, "5", True),
        (5, 5.0, True),
        (0.1, "0.1", True),
        (None, None, True),
        (None, "", False),
        (True, True, True),
        (True, 1, False),
        (1, True, False),
        (True, "True", False),
        ("true", True, False),
        ([True], [1], False),
        ([1], [True], False),
        ({"a": [0]}, {"a": [False]}, False),
        ([1, 2], [1, 2], True),
        ([1, 2], [2, 1], False),
        ([1], [1, 2], False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ([1], ["1"], False),
        ([], {}, False),
        ("[1]", [1], False),
    ],
)
def test_equal_values_in_the_crm(found: Any, wanted: Any, same: bool) -> None:
    assert same_value(found, wanted) is same
    assert shows({"x": found, "more": 1}, {"x": wanted}) is same


def test_attribute_that_is_not_shown_is_missing() -> None:
    assert not shows({}, {"x": None})
    assert not shows("no attributes", {"x": 1})
    assert shows(None, None)
    assert shows(None, {})


# -- the client ----------------------------------------------------------------------------------------------


def dated(reply: Reply) -> Reply:
    return Reply(reply.status, reply.body, {**reply.headers, "date": NOON_HEADER})


def contact(attributes: dict[str, Any], *, age: float | None = None, **fields: Any) -> Reply:
    """A contact created this many seconds before noon. Our calls are sent one second before noon."""
    created = {} if age is None else {"createdAt": (NOON - timedelta(seconds=age)).isoformat()}
    return dated(data({"id": ID, "email": EMAIL, "attributes": attributes, **created, **fields}))


WANTED = {"name": "Ada", "phone": "+442079460958"}
PARTLY = {"name": "Ada", "phone": "+15550100", "city": "London"}
OLD, NOW = 86400.0, -30.0

Invoke = Callable[[CrmClient], Any]


def upsert(client: CrmClient) -> Any:
    return client.upsert_contact(EMAIL, attributes=WANTED)["outcome"]


def create(client: CrmClient) -> Any:
    try:
        client.create_contact(EMAIL, attributes=WANTED)
    except e.CrmContactAlreadyExistsError:
        return "exists"
    return "created"


def five_hundred(call: Call) -> Any:
    return error("INTERNAL_SERVER_ERROR")(call)


@pytest.mark.parametrize("no_response", [lost, five_hundred], ids=["lost", "500"])
@pytest.mark.parametrize(
    ("invoke", "found", "writes", "outcome"),
    [
        # an existing contact is treated like any contact that was read
        (upsert, contact(PARTLY, age=OLD), ["POST", "PUT"], "updated"),
        (upsert, contact(WANTED, age=OLD), ["POST"], "unchanged"),
        (upsert, contact({**WANTED, "city": "London"}, age=OLD, status="unsubscribed"), ["POST"], "unchanged"),
        (create, contact(PARTLY, age=OLD), ["POST"], "exists"),
        (create, contact(WANTED, age=OLD), ["POST"], "exists"),
        # created by our call
        (upsert, contact(WANTED, age=NOW), ["POST"], "created"),
        (create, contact(WANTED, age=NOW), ["POST"], "created"),
        (create, contact({**WANTED, "phone": "442079460958"}, age=NOW), ["POST"], "created"),
        # the CRM changed the form of a value: writing it once more does no harm
        (upsert, contact({**WANTED, "phone": "442079460958"}, age=NOW), ["POST", "PUT"], "created"),
        # no createdAt: the values decide
        (upsert, contact(PARTLY), ["POST", "PUT"], "updated"),
        (create, contact(PARTLY), ["POST"], "exists"),
        (create, contact(WANTED), ["POST"], "created"),
    ],
)
def test_contact_found_after_a_lost_creation(
    no_response: Step, invoke: Invoke, found: Reply, writes: list[str], outcome: str
) -> None:
    made = bench(no_response, found, *[data({"id": ID, "email": EMAIL})] * (len(writes) - 1))
    assert invoke(made.client) == outcome
    assert [call.method for call in made.http.calls if call.is_write] == writes
    assert not made.http.script
    if "PUT" in writes:
        assert made.http.calls[-1].body == WANTED


def deal(*, age: float | None = None, name: str = "x", id_: str = ID, stage: str = STAGE) -> dict[str, Any]:
    created = {} if age is None else {"createdAt": (NOON - timedelta(seconds=age)).isoformat()}
    ids = {"contactId": CONTACT_ID, "pipelineId": PIPELINE, "stageId": stage}
    return {"id": id_, **ids, "attributes": {"pb_name": name}, **created}


def deals(*items: dict[str, Any]) -> Reply:
    return dated(data({"page": 0, "total": len(items), "data": list(items)}))


def create_deal(made: Bench, attributes: dict[str, Any] | None) -> Any:
    ids: Any = {"contact_id": UUID(CONTACT_ID), "pipeline_id": UUID(PIPELINE), "stage_id": UUID(STAGE)}
    try:
        return made.client.create_deal(**ids, attributes=attributes)["id"]
    except e.CrmContactAssociatedWithADealError:
        return "associated"
    except e.CrmTransientError as error:
        assert not error.outcome_known
        assert "Reading back whether it happened failed too: PROTOCOL." in str(error)
        return "unknown"


TAKEN = error("CONTACT_ASSOCIATED_WITH_A_DEAL")
AMOUNT = {"pb_amount": Decimal("12.50"), "pb_closingDate": NOON, "pb_name": "x"}
SHOWN_AMOUNT = {"pb_amount": 12.5, "pb_closingDate": "2026-03-01T12:00:00.000Z", "pb_name": "x"}


@pytest.mark.parametrize(
    ("attributes", "steps", "result", "posts"),
    [
        # ours
        (None, [lost, deals(deal(age=NOW))], ID, 1),
        ({"pb_name": "x"}, [lost, deals(deal(age=NOW))], ID, 1),
        (None, [lost, deals(deal(age=OLD, id_=OTHER), deal(age=NOW))], ID, 1),
        ({"pb_name": "x"}, [lost, deals(deal())], ID, 1),
        # ours, moved meanwhile by an automation
        (None, [lost, deals(deal(age=NOW, stage=OTHER))], ID, 1),
        ({"pb_name": "x"}, [lost, deals(deal(age=NOW, stage=OTHER))], ID, 1),
        # another client's: the call is sent again, and the CRM reports the conflict
        (None, [lost, deals(deal(age=OLD)), TAKEN, deals(deal(age=OLD))], "associated", 2),
        ({"pb_name": "x"}, [lost, deals(deal(age=OLD)), TAKEN, deals(deal(age=OLD))], "associated", 2),
        # a CRM that allows a second deal: ours was not created yet
        (None, [lost, deals(deal(age=OLD, id_=OTHER)), data({"id": ID}, 201)], ID, 2),
        # the CRM shows an amount and a date in other forms than they were given
        (AMOUNT, [lost, deals({**deal(), "attributes": SHOWN_AMOUNT})], ID, 1),
        (AMOUNT, [lost, deals({**deal(age=NOW), "attributes": SHOWN_AMOUNT})], ID, 1),
        # unknown origin: never a second deal, never another client's
        (None, [lost, deals(deal())], "associated", 1),
        ({"pb_name": "x"}, [lost, deals(deal(name="y"))], "associated", 1),
        ({"pb_name": "x"}, [lost, deals(deal(age=NOW, name="y"))], "associated", 1),  # of another client
        ({"pb_name": "x"}, [lost, deals(deal(age=0.5, name="y"))], "associated", 1),
        (None, [lost, deals(deal(stage=OTHER))], "associated", 1),
        ({"pb_name": "x"}, [lost, deals(deal(stage=OTHER))], "associated", 1),
        ({"pb_name": "x"}, [lost, deals(deal(age=NOW, stage=OTHER, name="y"))], "associated", 1),
        # in another stage and with other values
        ({"pb_name": "x"}, [lost, deals(deal(stage=OTHER, name="y", id_=OTHER)), data({"id": ID}, 201)], ID, 2),
        # the listing does not show whose it is: never a second deal, unless it cannot be ours
        ({"pb_name": "x"}, [lost, *[deals({**deal(), "contactId": None})] * 4], "unknown", 1),
        (None, [lost, *[deals({**deal(age=NOW, stage=OTHER), "contactId": None})] * 4], "unknown", 1),
        (None, [lost, deals({**deal(age=OLD), "contactId": None}), data({"id": ID}, 201)], ID, 2),
        ({"pb_name": "x"}, [lost, deals({**deal(name="y"), "contactId": None}), data({"id": ID}, 201)], ID, 2),
        (None, [lost, deals({**deal(stage=OTHER), "contactId": None}), data({"id": ID}, 201)], ID, 2),
    ],
)
def test_deal_found_after_a_lost_creation(
    attributes: dict[str, Any] | None, steps: list[Step], result: str, posts: int
) -> None:
    made = bench(*steps)
    assert create_deal(made, attributes) == result
    assert [call.method for call in made.http.calls].count("POST") == posts
    assert not made.http.script


# -- a CRM without a clock -----------------------------------------------------------------------------------

WALL = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("age", "outcome"),
    [(timedelta(days=30), "unchanged"), (timedelta(hours=4), "unchanged"), (timedelta(seconds=0), "created")],
)
def test_own_clock_identifies_records_that_are_hours_old(age: timedelta, outcome: str) -> None:
    created = (NOON - age).isoformat()
    found = data({"id": ID, "email": EMAIL, "attributes": WANTED, "createdAt": created})
    made = bench(lost, found)
    made.transport._wall = lambda: WALL
    assert made.client.upsert_contact(EMAIL, attributes=WANTED)["outcome"] == outcome


def test_deal_that_moves_to_another_page_during_the_read_is_found() -> None:
    others = [{**deal(age=OLD, id_=f"{n:08}-1111-4111-8111-111111111111"), "contactId": OTHER} for n in range(10)]
    own = deal(age=NOW)

    def page(number: int, total: int, *items: dict[str, Any]) -> Reply:
        return dated(data({"page": number, "total": total, "data": list(items)}))

    made = bench(lost, page(0, 11, *others), page(1, 10), page(0, 10, *others[1:], own), page(1, 10))
    assert create_deal(made, None) == ID
    assert [call.method for call in made.http.calls].count("POST") == 1


def test_deal_of_unknown_age_is_not_treated_as_ours_without_a_date() -> None:
    made = bench(lost, data({"page": 0, "total": 1, "data": [deal(age=0.0)]}))
    made.transport._wall = lambda: WALL
    assert create_deal(made, None) == "associated"


# -- responses that prove nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response", [Reply(200, None), Reply(201, {}), Reply(200, {"page": 0}), Reply(200, {"x": "y"})]
)
def test_unconfirmed_creation_is_read_back(response: Reply) -> None:
    made = bench(response, contact(WANTED, age=NOW))
    assert made.client.create_or_find(EMAIL, attributes=WANTED).made
    nothing_there = bench(response, error("CONTACT_NOT_FOUND"))
    with pytest.raises(e.CrmProtocolError, match="neither id nor email") as raised:
        nothing_there.client.create_or_find(EMAIL, attributes=WANTED)
    assert not raised.value.outcome_known
    old = bench(response, contact(WANTED, age=OLD))
    assert not old.client.create_or_find(EMAIL, attributes=WANTED).made
    throttled = bench(response, error("TOO_MANY_REQUESTS"), contact(WANTED, age=NOW))
    assert throttled.client.create_or_find(EMAIL, attributes=WANTED).made
    unread = bench(response, *5 * [error("TOO_MANY_REQUESTS")])
    with pytest.raises(e.CrmTooManyRequestsError) as refused:
        unread.client.create_or_find(EMAIL, attributes=WANTED)
    assert not refused.value.outcome_known


def test_values_are_compared_in_the_form_in_which_they_are_sent() -> None:
    values, shown = {"since": NOON}, contact({"since": "2026-03-01T12:00:00Z"})
    assert bench(Reply(200, {"message": "ok"}), shown).client.send_update(EMAIL, attributes=values) == {}
    assert bench(lost, shown).client.create_or_find(EMAIL, attributes=values).made
    assert bench(lost, shown).client.upsert_contact(EMAIL, attributes=values)["outcome"] == "created"


def test_unconfirmed_update_is_read_back() -> None:
    made = bench(Reply(200, {"message": "Please log in"}), contact({"name": "old", "phone": "1"}))
    with pytest.raises(e.CrmProtocolError, match="shows none of the values"):
        made.client.send_update(EMAIL, attributes=WANTED)
    done = bench(Reply(200, {"message": "Contact updated."}), contact({**WANTED, "phone": "442079460958"}))
    assert done.client.send_update(EMAIL, attributes=WANTED) == {}
    silent = bench(Reply(204, None))
    assert silent.client.send_update(EMAIL, attributes=WANTED) == {}
    cleared = bench(Reply(200, {"message": "Contact updated."}), contact({"phone": "1"}))
    assert cleared.client.send_update(EMAIL, attributes={"name": None}) == {}
    unread = bench(Reply(200, {"message": "Contact updated."}), error("CONTACT_NOT_FOUND"))
    with pytest.raises(e.CrmContactNotFoundError) as missing:
        unread.client.send_update(EMAIL, attributes=WANTED)
    assert not missing.value.outcome_known


@pytest.mark.parametrize("change", [{"stage_id": STAGE.upper()}, {"attributes": {"pb_name": "x", "pb_amount": "1"}}])
def test_unconfirmed_change_of_a_deal_is_read_back(change: dict[str, Any]) -> None:
    answer = Reply(200, {"message": "Please log in"})
    unchanged = bench(answer, data(deal(name="old", stage=PIPELINE)))
    with pytest.raises(e.CrmProtocolError, match="does not show the change") as raised:
        unchanged.client.update_deal(ID, **change)
    assert not raised.value.outcome_known
    assert bench(answer, data(deal())).client.update_deal(ID, **change) == answer.body
    with pytest.raises(e.CrmDealNotFoundError) as missing:
        bench(answer, error("DEAL_NOT_FOUND")).client.update_deal(ID, **change)
    assert not missing.value.outcome_known
    assert bench(answer, data(deal())).client.update_deal(ID, attributes={"notes": None}) == answer.body  # not shown
    for confirmed in (Reply(204, None), data({"id": ID})):
        bench(confirmed).client.update_deal(ID, **change)  # without another call


def test_deal_with_other_values_is_not_the_created_one() -> None:
    made = bench(deals(deal(name="y", id_=OTHER), deal(stage=PIPELINE, id_=OTHER), deal(name="x")))
    found = made.client.find_deal(CONTACT_ID, PIPELINE, stage_id=STAGE, attributes={"pb_name": "x"})
    assert found is not None
    assert found["id"] == ID


def test_listing_without_contacts_does_not_show_that_there_is_no_deal() -> None:
    def found_in(*listed: dict[str, Any]) -> Any:
        return bench(deals(*listed)).client.find_deal(CONTACT_ID, PIPELINE)

    unnamed = {name: value for name, value in deal().items() if name != "contactId"}
    with pytest.raises(e.CrmProtocolError, match="no deal of the listing has a contactId"):
        found_in(unnamed)
    with pytest.raises(e.CrmProtocolError, match="the response has no id"):
        found_in({**deal(), "id": None})
    assert found_in({**unnamed, "contactId": None}) is None
    assert found_in(unnamed, {**deal(id_=OTHER), "contactId": ID}) is None
    assert found_in() is None


def test_moment_outside_of_all_calendars_is_unknown() -> None:
    clock = ServerClock()
    clock.note(NOON_HEADER, sent=0.0, received=0.0)
    assert clock.at(1e20) is None
