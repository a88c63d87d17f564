"""Each client call: its request, its result, and values refused before anything is sent."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.client import CrmClient
from crm_provider.client.pagination import LATER_PAGE_TRIES, ListedPage, Page
from crm_provider.client.remote_contact import list_ids_of, list_name
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse
from crm_provider.client.retry import RetryBudget

from .fakes import Bench, Reply, Step, bench, data, error, lost

EMAIL = "Ada+x@example.com"
AT = "/contacts/Ada%2Bx%40example.com"
CONTACT = "cccccccc-1111-4111-8111-111111111111"
DEAL = "dddddddd-2222-4222-8222-222222222222"
PIPELINE = "eeeeeeee-3333-4333-8333-333333333333"
STAGE = "ffffffff-4444-4444-8444-444444444444"
LIST = "aaaaaaaa-5555-4555-8555-555555555555"
OTHER = "bbbbbbbb-6666-4666-8666-666666666666"

REF = {"id": CONTACT, "email": EMAIL}
RECORD = {
    **REF,
    "status": "active",
    "segmentedListsIds": [LIST],
    "attributes": {"name": "Ada", "phone": "+5531999999999"},
}
DEAL_RECORD = {
    "id": DEAL,
    "contactId": CONTACT,
    "pipelineId": PIPELINE,
    "stageId": STAGE,
    "attributes": {"pb_name": "x"},
}

Invoke = Callable[[CrmClient], Any]
CREATE_DEAL: dict[str, Any] = {"contact_id": CONTACT, "pipeline_id": PIPELINE, "stage_id": STAGE}


def page(items: list[dict[str, Any]], total: int | None = None) -> Reply:
    return data({"page": 0, "total": len(items) if total is None else total, "data": items})


def failed(made: Bench, invoke: Invoke) -> e.CrmError:
    """The error that a call raises."""
    with pytest.raises(e.CrmError) as raised:
        invoke(made.client)
    return raised.value


def bodies(made: Bench) -> list[Any]:
    return [call.body for call in made.http.calls]


# -- one call, one request -----------------------------------------------------------------------------------

# name: the call, the request, its body, the response, the result
SIMPLE: dict[str, tuple[Invoke, str, Any, Reply, Any]] = {
    "get_contact": (lambda c: c.get_contact(EMAIL), f"GET {AT}", None, data(RECORD), RECORD),
    "get_contact, no envelope": (lambda c: c.get_contact(EMAIL), f"GET {AT}", None, Reply(200, RECORD), RECORD),
    "create_contact": (lambda c: c.create_contact(EMAIL), "POST /contacts", {"email": EMAIL}, data(REF, 201), REF),
    "create_contact, all": (
        lambda c: c.create_contact(EMAIL, attributes={"name": "Ada"}, origin={"url": "https://x", "email": "y"}),
        "POST /contacts",
        {"email": EMAIL, "attributes": {"name": "Ada"}, "origin": {"url": "https://x", "email": "y"}},
        data(REF, 201),
        REF,
    ),
    "update_contact, flat": (
        lambda c: c.update_contact(EMAIL, attributes={"phone": "+55", "name": None}),
        f"PUT {AT}",
        {"phone": "+55", "name": None},
        data(REF),
        REF,
    ),
    "update_contact, no envelope": (
        lambda c: c.update_contact(EMAIL, attributes={"n": 1}), f"PUT {AT}", {"n": 1}, Reply(200, REF), REF,
    ),
    "delete_contact": (lambda c: c.delete_contact(EMAIL), f"DELETE {AT}", None, Reply(204), None),
    "delete_listed": (
        lambda c: c.delete_listed("Al <jose\u0301@x.co>"), "DELETE /contacts/Al%20%3Cjose%CC%81%40x.co%3E", None,
        Reply(204), None,
    ),
    "list_contacts": (lambda c: list(c.list_contacts()), "GET /contacts?page=0", None, page([RECORD]), [RECORD]),
    "count_contacts": (lambda c: c.count_contacts(), "GET /contacts?page=0", None, page([RECORD]), 1),
    "count_deals": (lambda c: c.count_deals(), "GET /deals?page=0", None, page([DEAL_RECORD]), 1),
    "list_pages": (
        lambda c: list(c.list_pages("contacts")),
        "GET /contacts?page=0",
        None,
        page([RECORD]),
        [ListedPage(number=0, page=Page([RECORD], 1), fresh=[RECORD])],
    ),
    "create_deal": (
        lambda c: c.create_deal(**CREATE_DEAL),
        "POST /deals",
        {"contactId": CONTACT, "pipelineId": PIPELINE, "stageId": STAGE},
        data({"id": DEAL, "contactId": CONTACT, "email": EMAIL}, 201),
        {"id": DEAL, "contactId": CONTACT, "email": EMAIL},
    ),
    "create_deal, attributes": (
        lambda c: c.create_deal(**CREATE_DEAL, attributes={"pb_name": "x", "pb_amount": "0010.50"}),
        "POST /deals",
        {"contactId": CONTACT, "pipelineId": PIPELINE, "stageId": STAGE,
         "attributes": {"pb_name": "x", "pb_amount": "0010.50"}},
        data({"id": DEAL}, 201),
        {"id": DEAL},
    ),
    "get_deal": (lambda c: c.get_deal(DEAL), f"GET /deals/{DEAL}", None, data(DEAL_RECORD), DEAL_RECORD),
    "update_deal": (
        lambda c: c.update_deal(DEAL, contact_id=CONTACT, attributes={"pb_amount": 7}),
        f"PUT /deals/{DEAL}",
        {"contactId": CONTACT, "attributes": {"pb_amount": "7"}},
        data({"id": DEAL}),
        {"id": DEAL},
    ),
    "move_deal": (
        lambda c: c.move_deal(DEAL, stage_id=STAGE),
        f"PUT /deals/{DEAL}",
        {"stageId": STAGE},
        data({"id": DEAL}),
        {"id": DEAL},
    ),
    "delete_deal": (lambda c: c.delete_deal(DEAL), f"DELETE /deals/{DEAL}", None, Reply(200), None),
    "list_deals": (lambda c: list(c.list_deals()), "GET /deals?page=0", None, page([DEAL_RECORD]), [DEAL_RECORD]),
    "find_deal": (
        lambda c: c.find_deal(CONTACT, PIPELINE), "GET /deals?page=0", None, page([DEAL_RECORD]), DEAL_RECORD,
    ),
    "find_deal, none": (lambda c: c.find_deal(OTHER, PIPELINE), "GET /deals?page=0", None, page([DEAL_RECORD]), None),
    "list_segmentation_lists": (
        lambda c: list(c.list_segmentation_lists()), "GET /segments?page=0", None, page([{"id": LIST}]), [{"id": LIST}],
    ),
    "find_segmentation_list": (
        lambda c: c.find_segmentation_list("VIP"),
        "GET /segments?page=0",
        None,
        page([{"id": OTHER, "name": "vip"}, {"id": LIST, "name": "VIP"}]),
        {"id": LIST, "name": "VIP"},
    ),
    "find_segmentation_list, by title": (
        lambda c: c.find_segmentation_list("VIP"), "GET /segments?page=0", None, page([{"id": LIST, "title": "VIP"}]),
        {"id": LIST, "title": "VIP"},
    ),
    "find_segmentation_list, by id": (
        lambda c: c.find_segmentation_list(list_id=LIST),
        "GET /segments?page=0",
        None,
        page([{"id": OTHER}, {"id": LIST}]),
        {"id": LIST},
    ),
    "add_contact_to_lists": (
        lambda c: c.add_contact_to_lists(EMAIL, [LIST, OTHER, LIST]),
        "POST /segments/add-contact/Ada%2Bx%40example.com",
        {"segmentedListsIds": [LIST, OTHER]},
        data({"done": 2}),
        {"done": 2},
    ),
    "add_contact_to_lists, odd response": (
        lambda c: c.add_contact_to_lists(EMAIL, [LIST]),
        "POST /segments/add-contact/Ada%2Bx%40example.com", {"segmentedListsIds": [LIST]}, Reply(200, ["ok"]), {},
    ),
    "verify_email": (
        lambda c: c.verify_email(EMAIL), "POST /email-verification/Ada%2Bx%40example.com", None, data({"valid": True}),
        {"valid": True},
    ),
    "trigger_automation": (
        lambda c: c.trigger_automation("w/1", "c-2", "f-3", email=EMAIL, fields={"a": 1, "email": "b"}),
        "POST /webhook/w%2F1/c/c-2/w/f-3",
        {
            "email": EMAIL,
            "customFields": [{"fieldName": "a", "fieldValue": 1}, {"fieldName": "email", "fieldValue": "b"}],
        },
        data({"ok": True}),
        {"ok": True},
    ),
    "trigger_automation, no fields": (
        lambda c: c.trigger_automation("w", "c", "f", email=EMAIL),
        "POST /webhook/w/c/c/w/f",
        {"email": EMAIL},
        Reply(200),
        {},
    ),
    "request": (
        lambda c: c.request("get", "/contacts/{email}/notes", path_params={"email": EMAIL}, params={"page": 1}),
        f"GET {AT}/notes?page=1", None, data([1, 2]), {"message": "ok", "data": [1, 2]},
    ),
    "request, body": (
        lambda c: c.request("POST", "/notes", json=["x"]), "POST /notes", ["x"], data({"id": "n"}), {"id": "n"},
    ),
    "ping": (lambda c: c.ping(), "GET /segments?page=0", None, page([]), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SIMPLE)
def test_each_call_sends_its_request_and_returns_its_result(name: str) -> None:
    invoke, request, body, reply, result = SIMPLE[name]
    made = bench(reply)
    assert invoke(made.client) == result
    assert (made.http.sent, bodies(made)) == ([request], [body])
    assert made.http.calls[0].authenticated is not name.startswith("trigger_automation")


def test_every_client_call_is_in_the_table() -> None:
    calls = {name for name, _ in inspect.getmembers(CrmClient, inspect.isfunction) if not name.startswith("_")}
    halves = {"upsert_contact", "create_or_find", "send_update", "find_own_deal"}  # tested separately
    assert calls - {"close", "start_of_writes"} == {name.split(",")[0] for name in SIMPLE} | halves


@pytest.mark.parametrize("name", [name for name in SIMPLE if "," not in name])
@pytest.mark.parametrize("type_", ["FORBIDDEN", "UNKNOWN_ROUTE", "INVALID_INPUT", "LIMIT_EXCEEDED"])
def test_error_is_raised_unchanged(name: str, type_: str) -> None:
    made = bench(error(type_))
    raised = failed(made, SIMPLE[name][0])
    assert (raised.type, raised.request_id, len(made.http.calls)) == (type_, "req-1", 1)
    assert raised.method == made.http.calls[0].method
    assert raised.path == made.http.calls[0].log_path


MANY = [f"{n:08d}-5555-4555-8555-555555555555" for n in range(7)]

# the call, the error, and the remark, which names ids only
MISSING: list[tuple[Invoke, str, str | None]] = [
    (
        lambda c: c.move_deal(DEAL, stage_id=STAGE), "STAGE_NOT_FOUND",
        f"The call named stageId {STAGE}; the stage may belong to another pipeline than the deal's",
    ),
    (
        lambda c: c.create_deal(**CREATE_DEAL), "STAGE_NOT_FOUND",
        (f"The call named stageId {STAGE} and pipelineId {PIPELINE}; "
         "the stage may belong to another pipeline than the deal's"),
    ),
    (
        lambda c: c.create_deal(**CREATE_DEAL), "PIPELINE_NOT_FOUND",
        f"The call named pipelineId {PIPELINE}; it may be of another account",
    ),
    (lambda c: c.create_deal(**CREATE_DEAL), "CONTACT_NOT_FOUND", f"The call named contactId {CONTACT}"),
    (
        lambda c: c.add_contact_to_lists(EMAIL, MANY), "SEGMENTATION_LIST_NOT_FOUND",
        f"The call named segmentedListsIds {', '.join(MANY[:5])} and 2 more",
    ),
    (lambda c: c.update_contact(EMAIL, attributes={"contactId": "Ada"}), "CONTACT_NOT_FOUND", None),
    (lambda c: c.request("POST", "/deals", json=[STAGE]), "STAGE_NOT_FOUND", None),
]  # fmt: skip


@pytest.mark.parametrize(("invoke", "type_", "remark"), MISSING)
def test_missing_record_is_named_by_its_id(invoke: Invoke, type_: str, remark: str | None) -> None:
    assert failed(bench(error(type_)), invoke).remark == remark


PAGED: dict[str, tuple[Invoke, str]] = {
    "list_contacts": (lambda c: list(c.list_contacts()), "/contacts"),
    "list_deals": (lambda c: list(c.list_deals()), "/deals"),
    "list_segmentation_lists": (lambda c: list(c.list_segmentation_lists()), "/segments"),
}


@pytest.mark.parametrize("name", PAGED)
def test_listing_reads_page_by_page(name: str) -> None:
    invoke, route = PAGED[name]
    records = [{"id": f"r-{n}"} for n in range(25)]
    made = bench(page(records[:10], 25), error("TOO_MANY_REQUESTS"), page(records[10:20], 25), page(records[20:], 25))
    assert invoke(made.client) == records
    assert made.http.sent == [f"GET {route}?page={n}" for n in (0, 1, 1, 2)]


@pytest.mark.parametrize("name", PAGED)
def test_listing_sends_nothing_until_it_is_read(name: str) -> None:
    made = bench(page([]))
    listing: Iterator[Any] = getattr(made.client, name)()
    assert made.http.sent == []
    assert list(listing) == []


# -- unexpected responses ------------------------------------------------------------------------------------

NO_RECORD: list[Any] = [["x"], "ok", 7, [], None, {}, {"message": "ok"}, {"message": "ok", "data": None}]


@pytest.mark.parametrize("response", NO_RECORD, ids=str)
@pytest.mark.parametrize("name", ["get_contact", "get_deal"])
def test_response_without_the_record_is_an_error(name: str, response: Any) -> None:
    raised = failed(bench(Reply(200, response)), SIMPLE[name][0])
    assert isinstance(raised, e.CrmProtocolError)


UNDOCUMENTED = ("add_contact_to_lists", "delete_contact", "delete_deal", "trigger_automation")
"""Calls whose response has no documented form."""


@pytest.mark.parametrize(
    ("name", "response"),
    [(name, odd) for name in ("create_contact", "create_deal") for odd in (["x"], "ok", 7, True)]
    + [(name, odd) for name in ("update_contact, flat", "update_deal") for odd in (["x"], False)]
    + [
        (name, odd) for name in UNDOCUMENTED for odd in (False, {"success": False}, {"error": "no"}, {"errors": ["no"]})
    ],
    ids=str,
)
def test_write_with_an_odd_response_has_an_unknown_outcome(name: str, response: Any) -> None:
    raised = failed(bench(Reply(200, response)), SIMPLE[name][0])
    assert isinstance(raised, e.CrmProtocolError)
    assert raised.outcome_known is False
    assert (raised.method, raised.path) != (None, None)


@pytest.mark.parametrize("response", [True, "ok", 7], ids=str)
def test_update_confirmed_by_a_json_scalar(response: Any) -> None:
    assert bench(Reply(200, response)).client.send_update(EMAIL, attributes={"n": 1}) == {}
    assert bench(Reply(200, response)).client.update_deal(DEAL, attributes={"n": 1}) == {}


@pytest.mark.parametrize("response", [["x"], "ok", 7, False, {"success": True, "errors": []}], ids=str)
def test_response_of_undocumented_form_is_a_success(response: Any) -> None:
    for name in UNDOCUMENTED if response is not False else ():
        SIMPLE[name][0](bench(Reply(200, response)).client)
    shown = response if isinstance(response, dict) else {"result": response}
    assert bench(Reply(200, response)).client.verify_email("ann@x.io") == shown


def test_numeric_id_is_converted_to_text() -> None:
    made = bench(data({"id": 7, "email": "ann@x.io"}, 201))
    assert made.client.create_contact("ann@x.io") == {"id": "7", "email": "ann@x.io"}


def test_created_deal_without_an_id_has_an_unknown_outcome() -> None:
    raised = failed(bench(data({"contactId": CONTACT}, 201)), lambda c: c.create_deal(**CREATE_DEAL))
    assert isinstance(raised, e.CrmProtocolError)
    assert raised.outcome_known is False
    assert raised.method == "POST"


@pytest.mark.parametrize("response", [Reply(201), data({"email": EMAIL}), Reply(200, {"message": "created"})], ids=str)
def test_id_missing_in_a_write_response_is_read(response: Reply) -> None:
    made = bench(response, data(RECORD))
    assert made.client.create_contact(EMAIL) == REF
    assert made.http.sent == ["POST /contacts", f"GET {AT}"]


@pytest.mark.parametrize("response", [["x"], {"x": 1}, {"data": {"id": "1"}}, "x"], ids=str)
@pytest.mark.parametrize("name", PAGED)
def test_listing_without_a_list_is_an_error(name: str, response: Any) -> None:
    assert isinstance(failed(bench(Reply(200, response)), PAGED[name][0]), e.CrmProtocolError)


# -- nothing is sent with a wrong value ----------------------------------------------------------------------

WRONG: dict[str, Invoke] = {
    "get_contact": lambda c: c.get_contact(" "),
    "create_contact: email": lambda c: c.create_contact("ada"),
    "create_contact: attributes": lambda c: c.create_contact(EMAIL, attributes={"x": {1}}),
    "create_contact: no attributes": lambda c: c.create_contact(EMAIL, attributes={}),
    "create_contact: email as attribute": lambda c: c.create_contact(EMAIL, attributes={"email": "x"}),
    "create_contact: origin": lambda c: c.create_contact(EMAIL, origin={"x": {1}}),
    "update_contact: email": lambda c: c.update_contact("", attributes={"x": 1}),
    "update_contact: attributes": lambda c: c.update_contact(EMAIL, attributes={"": 1}),
    "update_contact: nothing": lambda c: c.update_contact(EMAIL, attributes={}),
    "upsert_contact: email": lambda c: c.upsert_contact("ada@", attributes={"x": 1}),
    "upsert_contact: attributes": lambda c: c.upsert_contact(EMAIL, attributes={"x": float("nan")}),
    "upsert_contact: origin": lambda c: c.upsert_contact(EMAIL, attributes={"x": 1}, origin={"x": {1}}),
    "upsert_contact: origin only": lambda c: c.upsert_contact(EMAIL, origin={}),
    "delete_contact": lambda c: c.delete_contact("@"),
    "create_deal: contact": lambda c: c.create_deal(contact_id=EMAIL, pipeline_id=PIPELINE, stage_id=STAGE),
    "create_deal: pipeline": lambda c: c.create_deal(contact_id=CONTACT, pipeline_id="x", stage_id=STAGE),
    "create_deal: stage": lambda c: c.create_deal(contact_id=CONTACT, pipeline_id=PIPELINE, stage_id=""),
    "create_deal: amount": lambda c: c.create_deal(**CREATE_DEAL, attributes={"pb_amount": 10.5}),
    "create_deal: list of amounts": lambda c: c.create_deal(**CREATE_DEAL, attributes={"pb_amount": ["10"]}),
    "create_deal: boolean amount": lambda c: c.create_deal(**CREATE_DEAL, attributes={"pb_amount": True}),
    "create_deal: nested attributes": lambda c: c.create_deal(**CREATE_DEAL, attributes={"stageId": STAGE}),
    "get_deal": lambda c: c.get_deal("../contacts"),
    "update_deal: id": lambda c: c.update_deal("x", stage_id=STAGE),
    "update_deal: nothing": lambda c: c.update_deal(DEAL),
    "update_deal: stage": lambda c: c.update_deal(DEAL, stage_id="won"),
    "update_deal: amount": lambda c: c.update_deal(DEAL, attributes={"pb_amount": float("nan")}),
    "move_deal": lambda c: c.move_deal(DEAL, stage_id="won"),
    "delete_deal": lambda c: c.delete_deal(""),
    "find_deal: contact": lambda c: c.find_deal(EMAIL, PIPELINE),
    "find_deal: pipeline": lambda c: c.find_deal(CONTACT, "sales"),
    "find_segmentation_list: none": lambda c: c.find_segmentation_list(),
    "find_segmentation_list: both": lambda c: c.find_segmentation_list("VIP", list_id=LIST),
    "find_segmentation_list: id": lambda c: c.find_segmentation_list(list_id="VIP"),
    "find_segmentation_list: empty name": lambda c: c.find_segmentation_list(" "),
    "add_contact_to_lists: email": lambda c: c.add_contact_to_lists("x", [LIST]),
    "add_contact_to_lists: no list": lambda c: c.add_contact_to_lists(EMAIL, []),
    "add_contact_to_lists: list": lambda c: c.add_contact_to_lists(EMAIL, [LIST, "VIP"]),
    "verify_email": lambda c: c.verify_email("ada example.com"),
    "trigger_automation: email": lambda c: c.trigger_automation("w", "c", "f", email="x"),
    "trigger_automation: fields": lambda c: c.trigger_automation("w", "c", "f", email=EMAIL, fields={"x": {1}}),
    "trigger_automation: webhook": lambda c: c.trigger_automation("", "c", "f", email=EMAIL),
    "trigger_automation: channel": lambda c: c.trigger_automation("w", "..", "f", email=EMAIL),
    "request: method": lambda c: c.request("HEAD", "/contacts"),
    "request: path": lambda c: c.request("GET", "contacts"),
    "request: other host": lambda c: c.request("GET", "//evil.example/v2"),
    "request: query in path": lambda c: c.request("GET", "/contacts?page=1"),
    "request: fragment": lambda c: c.request("GET", "/contacts#x"),
    "request: dots": lambda c: c.request("GET", "/contacts/../deals"),
    "request: encoded dots": lambda c: c.request("GET", "/contacts/%2e%2E/deals"),
    "request: missing part": lambda c: c.request("GET", "/contacts/{email}"),
    "request: part with an odd name": lambda c: c.request("GET", "/contacts/{e-mail}", path_params={"e-mail": EMAIL}),
    "request: brace": lambda c: c.request("GET", "/contacts/{email", path_params={"email": EMAIL}),
    "request: closing brace": lambda c: c.request("GET", "/contacts/email}"),
    "request: part that is not in the path": lambda c: c.request("GET", "/contacts", path_params={"email": EMAIL}),
    "request: empty part": lambda c: c.request("GET", "/contacts/{email}", path_params={"email": ""}),
    "request: dots as a part": lambda c: c.request("GET", "/contacts/{email}", path_params={"email": ".."}),
    "request: part that is not text": lambda c: c.request("GET", "/n/{id}", path_params={"id": 7}),  # type: ignore[dict-item]
    "request: body": lambda c: c.request("POST", "/notes", json={"x": {1}}),
}


@pytest.mark.parametrize("order", ["create first", "update first"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_value_is_refused_before_anything_is_sent(name: str, order: str) -> None:
    made = bench()
    for _ in range(20):
        made.client._writer._order.learn(existed=order == "update first")
    raised = failed(made, WRONG[name])
    assert isinstance(raised, e.CrmInvalidValueError)
    assert (made.http.sent, made.limiter.asked) == ([], []), "no slot of the rate budget is taken"
    assert EMAIL not in f"{raised} {raised!r}"


def test_float_amount_is_refused_with_the_fix() -> None:
    raised = failed(bench(), WRONG["create_deal: amount"])
    assert "give the exact digits as text" in str(raised)
    assert "10.5" not in str(raised)


@pytest.mark.parametrize("part", [".", "..", "%2e%2e", "a/../b", "é", "a b"])
def test_no_value_changes_the_path(part: str) -> None:
    made = bench(data({}))
    try:
        made.client.request("GET", "/x/{part}/y", path_params={"part": part})
    except e.CrmInvalidValueError:
        assert part in (".", "..")
    else:
        assert made.http.calls[0].path.count("/") == 3


@pytest.mark.parametrize(
    ("path", "path_params"),
    [
        ("/contacts/ada@example.com/notes", {}),
        ("/contacts/ada%40example.com/notes", {}),
        ("/contacts/{who}/notes", {"who": "ada@example.com"}),
    ],
    ids=["literal", "literal, encoded", "part of any name"],
)
def test_email_in_a_request_path_is_not_shown(
    path: str, path_params: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    raised = failed(bench(error("CONTACT_NOT_FOUND")), lambda c: c.request("GET", path, path_params=path_params))
    text = f"{raised} {raised!r} {raised.as_dict()} {caplog.text}"
    assert "ada" not in text


# -- upsert --------------------------------------------------------------------------------------------------

NO_PAGE = Reply(404, b"<html><title>404 Not Found</title></html>")

UPSERTS: dict[str, tuple[list[Step], list[str], str]] = {
    # name: (responses, requests, outcome), with create first
    "new": ([data(REF, 201)], ["POST /contacts"], "created"),
    "existing": ([error("CONTACT_ALREADY_EXISTS"), data(REF)], ["POST /contacts", f"PUT {AT}"], "updated"),
    "lost, happened": ([lost, data(RECORD)], ["POST /contacts", f"GET {AT}"], "created"),
    "lost, not processed": (
        [lost, error("CONTACT_NOT_FOUND"), data(REF, 201)],
        ["POST /contacts", f"GET {AT}", "POST /contacts"],
        "created",
    ),
    "lost, not processed, known only by the status": (
        [lost, NO_PAGE, data(REF, 201)],
        ["POST /contacts", f"GET {AT}", "POST /contacts"],
        "created",
    ),
    "lost, existed before without attributes": (
        [lost, data({**RECORD, "attributes": None}), data(REF)],
        ["POST /contacts", f"GET {AT}", f"PUT {AT}"],
        "updated",
    ),
    "lost, arrived late": (
        [lost, error("CONTACT_NOT_FOUND"), error("CONTACT_ALREADY_EXISTS"), data(RECORD)],
        ["POST /contacts", f"GET {AT}", "POST /contacts", f"GET {AT}"],
        "created",
    ),
    "existing, update lost": (
        [error("CONTACT_ALREADY_EXISTS"), lost, data(REF)], ["POST /contacts", f"PUT {AT}", f"PUT {AT}"], "updated",
    ),
    "no id in the response": ([Reply(201), data(RECORD)], ["POST /contacts", f"GET {AT}"], "created"),
    "existing, known only by the status": (
        [Reply(409), data(RECORD), data(REF)], ["POST /contacts", f"GET {AT}", f"PUT {AT}"], "updated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UPSERTS)
def test_upsert_create_first(name: str) -> None:
    steps, requests, outcome = UPSERTS[name]
    made = bench(*steps)
    result = made.client.upsert_contact(EMAIL, attributes={"name": "Ada"}, origin={"url": "https://x"})
    assert result == {**REF, "outcome": outcome}
    assert made.http.sent == requests
    full = {"email": EMAIL, "attributes": {"name": "Ada"}, "origin": {"url": "https://x"}}
    assert bodies(made) == [
        {"POST": full, "PUT": {"name": "Ada"}, "GET": None}[call.method] for call in made.http.calls
    ]


"""Possible responses of a wrong base URL or a proxy."""

UPDATES_FIRST: dict[str, tuple[list[Step], list[str], str]] = {
    "existing": ([data(REF)], [f"PUT {AT}"], "updated"),
    "new": ([error("CONTACT_NOT_FOUND"), data(REF, 201)], [f"PUT {AT}", "POST /contacts"], "created"),
    "lost": ([lost, data(REF)], [f"PUT {AT}", f"PUT {AT}"], "updated"),
    "new, create lost": (
        [error("CONTACT_NOT_FOUND"), lost, data(RECORD)], [f"PUT {AT}", "POST /contacts", f"GET {AT}"], "created",
    ),
    "created by another client in between": (
        [error("CONTACT_NOT_FOUND"), error("CONTACT_ALREADY_EXISTS"), data(REF)],
        [f"PUT {AT}", "POST /contacts", f"PUT {AT}"],
        "updated",
    ),
    "new, known only by the status": ([NO_PAGE, data(REF, 201)], [f"PUT {AT}", "POST /contacts"], "created"),
    "existing, but not found": (
        [Reply(404), Reply(409), data(RECORD), data(REF)],
        [f"PUT {AT}", "POST /contacts", f"GET {AT}", f"PUT {AT}"],
        "updated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UPDATES_FIRST)
def test_upsert_update_first(name: str) -> None:
    steps, requests, outcome = UPDATES_FIRST[name]
    made = bench(*steps)
    for _ in range(20):
        made.client._writer._order.learn(existed=True)
    assert made.client.upsert_contact(EMAIL, attributes={"name": "Ada"}) == {**REF, "outcome": outcome}
    assert made.http.sent == requests


# name: the call, the responses, the number of calls, and the error: a bare status proves nothing
NOT_PROVEN: dict[str, tuple[Invoke, list[Step], str]] = {
    "upsert: wrong URL": (lambda c: c.upsert_contact(EMAIL), [Reply(409), NO_PAGE], "HTTP_409"),
    "create: something else is in the way": (
        lambda c: c.create_contact(EMAIL), [Reply(409), error("CONTACT_NOT_FOUND")], "HTTP_409",
    ),
    "create: the read shows a refused key": (
        lambda c: c.create_contact(EMAIL), [Reply(409), error("FORBIDDEN")], "FORBIDDEN",
    ),
    "create: it exists": (lambda c: c.create_contact(EMAIL), [Reply(409), data(RECORD)], "CONTACT_ALREADY_EXISTS"),
    "create: the CRM names the conflict": (
        lambda c: c.create_contact(EMAIL), [error("CONTACT_ASSOCIATED_WITH_A_DEAL")], "CONTACT_ASSOCIATED_WITH_A_DEAL",
    ),
    "read": (lambda c: c.get_contact(EMAIL), [NO_PAGE], "HTTP_404"),
    "update": (lambda c: c.update_contact(EMAIL, attributes={"n": 1}), [NO_PAGE], "HTTP_404"),
    "delete": (lambda c: c.delete_contact(EMAIL), [NO_PAGE], "HTTP_404"),
    "delete, and its response was lost": (lambda c: c.delete_contact(EMAIL), [lost, NO_PAGE], "HTTP_404"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_PROVEN)
def test_bare_status_proves_nothing(name: str) -> None:
    invoke, steps, type_ = NOT_PROVEN[name]
    made = bench(*steps)
    assert failed(made, invoke).type == type_
    assert len(made.http.sent) == len(steps)


@pytest.mark.parametrize(
    ("steps", "type_", "route"),
    [
        ([NO_PAGE, NO_PAGE], "HTTP_404", "/contacts"),
        ([NO_PAGE, error("CONTACT_ALREADY_EXISTS"), NO_PAGE], "HTTP_404", "/contacts/{email}"),
        ([error("DEAL_NOT_FOUND")], "DEAL_NOT_FOUND", "/contacts/{email}"),
    ],
    ids=["wrong base URL", "the CRM contradicts itself", "something else is missing"],
)
def test_update_that_finds_nothing_is_an_error_unless_the_creation_proves_it(
    steps: list[Step], type_: str, route: str
) -> None:
    made = bench(*steps)
    for _ in range(20):
        made.client._writer._order.learn(existed=True)
    raised = failed(made, lambda c: c.upsert_contact(EMAIL, attributes={"name": "Ada"}))
    assert (raised.type, raised.path, len(made.http.sent)) == (type_, route, len(steps))


def test_creation_is_not_repeated_while_a_read_shows_another_record() -> None:
    made = bench(lost, *[error("DEAL_NOT_FOUND")] * 4)
    raised = failed(made, lambda c: c.create_contact(EMAIL))
    assert (raised.type, raised.outcome_known) == ("TIMEOUT", False)
    assert made.http.sent == ["POST /contacts", *[f"GET {AT}"] * 4]


def test_order_is_learned_from_the_last_upserts() -> None:
    existing: list[Step] = [error("CONTACT_ALREADY_EXISTS"), data(REF)]
    made = bench(*existing, *[data(REF)] * 3, *[error("CONTACT_NOT_FOUND"), data(REF, 201)] * 4, data(REF, 201))
    outcomes = [made.client.upsert_contact(EMAIL, attributes={"name": "Ada"})["outcome"] for _ in range(9)]
    assert outcomes == ["updated"] * 4 + ["created"] * 5
    methods = [line.split()[0] for line in made.http.sent]
    assert methods == ["POST", "PUT", *["PUT"] * 3, *["PUT", "POST"] * 4, "POST"]


def test_failed_upsert_teaches_nothing() -> None:
    made = bench(*[error("INVALID_INPUT")] * 20)
    for _ in range(20):
        failed(made, lambda c: c.upsert_contact(EMAIL, attributes={"name": "Ada"}))
    assert not made.client._writer._order.update_first


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([error("CONTACT_ALREADY_EXISTS"), data(RECORD)], {**REF, "outcome": "unchanged"}),
        ([data(REF, 201)], {**REF, "outcome": "created"}),
        ([lost, data(RECORD)], {**REF, "outcome": "created"}),
    ],
    ids=["existing", "new", "lost"],
)
def test_upsert_without_attributes_changes_nothing(steps: list[Step], expected: dict[str, str]) -> None:
    made = bench(*steps)
    for _ in range(20):
        made.client._writer._order.learn(existed=True)
    assert made.client.upsert_contact(EMAIL) == expected
    assert "PUT" not in "".join(made.http.sent)


def test_existing_contact_without_an_id_is_a_protocol_error() -> None:
    made = bench(error("CONTACT_ALREADY_EXISTS"), data({"email": EMAIL}))
    assert isinstance(failed(made, lambda c: c.upsert_contact(EMAIL)), e.CrmProtocolError)


def test_error_of_the_second_call_is_raised() -> None:
    made = bench(error("CONTACT_ALREADY_EXISTS"), error("INVALID_INPUT"))
    assert isinstance(failed(made, lambda c: c.upsert_contact(EMAIL, attributes={"n": 1})), e.CrmInvalidInputError)


# -- lost writes, verified by a read -------------------------------------------------------------------------

CREATE: Invoke = lambda c: c.create_contact(EMAIL, attributes={"name": "Ada"})  # noqa: E731 - a name for a table
CREATE_A_DEAL: Invoke = lambda c: c.create_deal(**CREATE_DEAL, attributes={"pb_name": "x"})  # noqa: E731
ADD: Invoke = lambda c: c.add_contact_to_lists(EMAIL, [LIST])  # noqa: E731

LISTS_OF = "GET /deals?page=0"
ADDING = "POST /segments/add-contact/Ada%2Bx%40example.com"

# name: the call, the responses, the requests, the result
VERIFY_FIRST: dict[str, tuple[Invoke, list[Step], list[str], Any]] = {
    "contact: happened": (CREATE, [lost, data(RECORD)], ["POST /contacts", f"GET {AT}"], REF),
    "contact: not processed": (
        CREATE,
        [lost, error("CONTACT_NOT_FOUND"), data(REF, 201)],
        ["POST /contacts", f"GET {AT}", "POST /contacts"],
        REF,
    ),
    "contact: arrived late": (
        CREATE,
        [lost, error("CONTACT_NOT_FOUND"), error("CONTACT_ALREADY_EXISTS"), data(RECORD)],
        ["POST /contacts", f"GET {AT}", "POST /contacts", f"GET {AT}"],
        REF,
    ),
    "deal: happened": (CREATE_A_DEAL, [lost, page([DEAL_RECORD])], ["POST /deals", LISTS_OF], DEAL_RECORD),
    "deal: processed, ids in capitals": (
        CREATE_A_DEAL,
        [lost, page([{**DEAL_RECORD, "contactId": CONTACT.upper(), "pipelineId": PIPELINE.upper()}])],
        ["POST /deals", LISTS_OF],
        {**DEAL_RECORD, "contactId": CONTACT.upper(), "pipelineId": PIPELINE.upper()},
    ),
    "deal: not processed": (
        CREATE_A_DEAL,
        [lost, page([]), data({"id": DEAL}, 201)],
        ["POST /deals", LISTS_OF, "POST /deals"],
        {"id": DEAL},
    ),
    "deal: another contact's, another pipeline's": (
        CREATE_A_DEAL,
        [lost, page([{**DEAL_RECORD, "contactId": OTHER}, {**DEAL_RECORD, "id": "d", "pipelineId": OTHER}]),
         data({"id": DEAL}, 201)],
        ["POST /deals", LISTS_OF, "POST /deals"],
        {"id": DEAL},
    ),
    "deal: arrived late": (
        CREATE_A_DEAL,
        [lost, page([]), error("CONTACT_ASSOCIATED_WITH_A_DEAL"), page([DEAL_RECORD])],
        ["POST /deals", LISTS_OF, "POST /deals", LISTS_OF],
        DEAL_RECORD,
    ),
    "list: happened": (ADD, [lost, data(RECORD)], [ADDING, f"GET {AT}"], {}),
    "list: processed, ids in capitals": (
        lambda c: c.add_contact_to_lists(EMAIL, [LIST.upper()]), [lost, data(RECORD)], [ADDING, f"GET {AT}"], {},
    ),
    "list: not processed": (
        ADD, [lost, data({**RECORD, "segmentedListsIds": [OTHER]}), data({})], [ADDING, f"GET {AT}", ADDING], {},
    ),
    "list: lists are not shown": (ADD, [lost, data(REF), data({})], [ADDING, f"GET {AT}", ADDING], {}),
    "delete: happened": (
        lambda c: c.delete_contact(EMAIL), [lost, error("CONTACT_NOT_FOUND")], [f"DELETE {AT}"] * 2, None,
    ),
    "delete deal: processed": (
        lambda c: c.delete_deal(DEAL), [lost, error("DEAL_NOT_FOUND")], [f"DELETE /deals/{DEAL}"] * 2, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VERIFY_FIRST)
def test_lost_write_is_verified(name: str) -> None:
    invoke, steps, requests, result = VERIFY_FIRST[name]
    made = bench(*steps)
    assert invoke(made.client) == result
    assert made.http.sent == requests


@pytest.mark.parametrize(
    ("invoke", "type_"),
    [(CREATE, "CONTACT_ALREADY_EXISTS"), (CREATE_A_DEAL, "CONTACT_ASSOCIATED_WITH_A_DEAL"), (ADD, "CONTACT_NOT_FOUND"),
     (lambda c: c.delete_contact(EMAIL), "CONTACT_NOT_FOUND"), (lambda c: c.delete_deal(DEAL), "DEAL_NOT_FOUND")],
    ids=["contact", "deal", "list", "delete", "delete deal"],
)  # fmt: skip
def test_same_response_without_a_lost_attempt_is_an_error(invoke: Invoke, type_: str) -> None:
    assert failed(bench(error(type_)), invoke).type == type_


@pytest.mark.parametrize("invoke", [lambda c: c.delete_contact(EMAIL), lambda c: c.delete_deal(DEAL)])
def test_a_proxys_404_does_not_show_that_a_lost_deletion_happened(invoke: Invoke) -> None:
    raised = failed(bench(lost, Reply(404, b"<html>nginx</html>")), invoke)
    assert (raised.type, raised.outcome_known) == ("HTTP_404", False)


@pytest.mark.parametrize(
    "invoke",
    [lambda c: c.verify_email(EMAIL), lambda c: c.trigger_automation("w", "c", "f", email=EMAIL),
     lambda c: c.request("POST", "/notes", json={})],
    ids=["verify_email", "trigger_automation", "request"],
)  # fmt: skip
def test_unverifiable_post_is_not_repeated(invoke: Invoke) -> None:
    raised = failed(bench(lost), invoke)
    assert isinstance(raised, e.CrmTimeoutError)
    assert raised.outcome_known is False


def test_verification_is_tried_once_per_attempt() -> None:
    made = bench(lost, *[error("SERVICE_UNAVAILABLE")] * 4)
    raised = failed(made, CREATE)
    assert (raised.type, raised.outcome_known) == ("TIMEOUT", False)
    assert made.http.sent == ["POST /contacts", *[f"GET {AT}"] * 4]


# -- lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "name"),
    [({"name": "a", "title": "b"}, "a"), ({"title": "b"}, "b"), ({"name": None, "title": "b"}, "b"), ({}, None)],
)
def test_name_of_a_list(item: dict[str, Any], name: str | None) -> None:
    assert list_name(item) == name


@pytest.mark.parametrize(
    ("contact", "ids"),
    [
        ({"segmentedListsIds": [LIST]}, [LIST]),
        ({"segmentedListsIds": None}, []),
        ({}, []),
        ({"segmentedListsIds": "x"}, []),
        ({"segmentedListsIds": [{"id": LIST, "name": "Trial"}, OTHER]}, [LIST, OTHER]),
    ],
)
def test_lists_of_a_contact(contact: dict[str, Any], ids: list[str]) -> None:
    assert list_ids_of(contact) == ids


def test_missing_list_is_named() -> None:
    raised = failed(bench(page([])), lambda c: c.find_segmentation_list(list_id=LIST))
    assert isinstance(raised, e.CrmSegmentationListNotFoundError)
    assert LIST in str(raised), "style: a message names its object"


def test_list_is_found_by_its_id_in_capitals() -> None:
    made = bench(page([{"id": LIST, "name": "VIP"}]))
    assert made.client.find_segmentation_list(list_id=LIST.upper())["id"] == LIST


def test_two_lists_with_one_name_are_an_error_that_names_both() -> None:
    made = bench(page([{"id": LIST, "name": "VIP"}, {"id": OTHER, "name": "VIP"}]))
    raised = failed(made, lambda c: c.find_segmentation_list("VIP"))
    assert isinstance(raised, e.CrmInvalidValueError)
    assert LIST in str(raised)
    assert OTHER in str(raised)
    assert "nothing was sent" not in str(raised), "two pages were read"


# -- nothing leaks -------------------------------------------------------------------------------------------

SECRET = {
    "email": "zq.planted@example.com",
    "name": "Zq Planted Name",
    "phone": "+5531988887777",
    "note": "Zq note, O'B",
}
WEBHOOK = ("zq-hook-0001", "zq-channel-2", "zq-flow-3333")
QUERY = "Zq queried value"
ALL_SECRETS = [*SECRET.values(), *WEBHOOK, QUERY]
REST = {key: value for key, value in SECRET.items() if key != "email"}

PUT_THERE: dict[str, Invoke] = {
    "get_contact": lambda c: c.get_contact(SECRET["email"]),
    "create_contact": lambda c: c.create_contact(SECRET["email"], attributes=REST, origin=REST),
    "update_contact": lambda c: c.update_contact(SECRET["email"], attributes=REST),
    "upsert_contact": lambda c: c.upsert_contact(SECRET["email"], attributes=REST),
    "delete_contact": lambda c: c.delete_contact(SECRET["email"]),
    "create_deal": lambda c: c.create_deal(**CREATE_DEAL, attributes={"pb_name": SECRET["name"], **REST}),
    "update_deal": lambda c: c.update_deal(DEAL, attributes={"pb_name": SECRET["name"], **REST}),
    "add_contact_to_lists": lambda c: c.add_contact_to_lists(SECRET["email"], [LIST]),
    "verify_email": lambda c: c.verify_email(SECRET["email"]),
    "trigger_automation": lambda c: c.trigger_automation(*WEBHOOK, email=SECRET["email"], fields=REST),
    "request": lambda c: c.request(
        "POST", "/contacts/{email}/notes", path_params={"email": SECRET["email"]}, params={"by": QUERY}, json=REST
    ),
}


def echo(status: int, form: str) -> Step:
    """A response that repeats every value that the call sent."""

    def step(call: Call) -> CrmResponse:
        queried = [str(value) for value in call.query.values()]
        if form == "text only":
            body: Any = {"message": " / ".join([*queried, *call.sensitive_values])}
        else:
            text = " ".join(
                [*queried, json.dumps(call.body, ensure_ascii=False), call.path, *call.path_params.values()]
            )
            body = {"error": text, "errorCode": "INVALID_INPUT"} if form == "v1" else text.encode()
        return Reply(status, body, {"Location": f"https://crm.example/{call.path}"})(call)

    return step


ECHOES = [(200, "plain"), *((status, form) for status in (302, 404, 422, 500) for form in ("v1", "text only", "plain"))]


@pytest.mark.parametrize(("status", "form"), ECHOES)
@pytest.mark.parametrize("name", PUT_THERE)
def test_no_sent_value_is_shown(name: str, status: int, form: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = bench(*[echo(status, form)] * 40)
    raised = failed(made, PUT_THERE[name])
    text = f"{raised} {raised!r} {raised.args} {json.dumps(raised.as_dict(), ensure_ascii=False)} {caplog.text}"
    assert [value for value in ALL_SECRETS if value.lower() in text.lower()] == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"method": None, "path": "/x"}, "method must be text but is of type NoneType"),
        ({"method": "GET", "path": 5}, "path must be text but is of type int"),
        (
            {"method": "GET", "path": "/x", "params": "page=0"},
            "params must be a mapping of name to value but is of type str",
        ),
        ({"method": "GET", "path": "/x", "path_params": ["a"]}, "path_params must be a mapping of name to value"),
    ],
)
def test_request_with_a_value_of_another_type_names_the_argument(arguments: dict[str, Any], problem: str) -> None:
    made = bench()
    with pytest.raises(e.CrmInvalidValueError, match=problem):
        made.client.request(**arguments)
    assert made.http.calls == []


def test_later_page_of_a_listing_is_tried_more_often_than_the_first() -> None:
    """An error discards the pages before it."""
    record = [{"id": f"c-{n}"} for n in range(12)]
    first, rest = Reply(200, {"data": record[:10], "total": 12}), Reply(200, {"data": record[10:], "total": 12})
    it = bench(first, *[Reply(503)] * (LATER_PAGE_TRIES - 1), rest, budget=RetryBudget(tries=2))
    assert len(list(it.client.list_contacts())) == 12
    it = bench(*[Reply(503)] * 2, first, budget=RetryBudget(tries=2))
    with pytest.raises(e.CrmServiceUnavailableError):
        list(it.client.list_contacts())


OTHERS = [{"id": f"{n:08}-0000-4000-8000-000000000000", "contactId": OTHER} for n in range(14)]


def deals_page(*deals: Any, total: int) -> Reply:
    return Reply(200, {"data": deals, "total": total})


def created_after_a_lost_response(*pages: Reply) -> tuple[str, list[str]]:
    """The id that ``create_deal`` returns if the response to the first attempt is lost, and the calls after it."""
    it = bench(lost, *pages, data({"id": OTHER}, 201))
    made = it.client.create_deal(contact_id=CONTACT, pipeline_id=PIPELINE, stage_id=STAGE, attributes={"pb_name": "x"})
    return made["id"], it.http.sent[1:]


def test_deal_that_a_changing_listing_hides_is_not_created_again() -> None:
    """It moves from page 1 to page 0 between both requests. A third deal is created meanwhile."""
    first, second = deals_page(*OTHERS[:10], total=12), deals_page(*OTHERS[11:13], total=13)
    hidden = [first, second, deals_page(total=13)]
    found = deals_page(*OTHERS[1:10], DEAL_RECORD, total=13)
    assert created_after_a_lost_response(*hidden, found) == (DEAL, [f"GET /deals?page={n}" for n in (0, 1, 2, 0)])


def test_deal_is_created_again_if_three_readings_of_a_changing_listing_lack_it() -> None:
    readings = [deals_page(*OTHERS[:10], total=11), deals_page(*OTHERS[10:12], total=12)] * 3
    made, sent = created_after_a_lost_response(*readings)
    assert made == OTHER
    assert sent == ["GET /deals?page=0", "GET /deals?page=1"] * 3 + ["POST /deals"]


def test_deal_is_created_again_if_one_reading_of_a_quiet_listing_lacks_it() -> None:
    made, sent = created_after_a_lost_response(deals_page(*OTHERS[:3], total=3))
    assert (made, sent) == (OTHER, ["GET /deals?page=0", "POST /deals"])
