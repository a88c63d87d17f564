"""Every endpoint of the API reference: accepted requests, responses, and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crm_provider.sandbox import ids
from crm_provider.sandbox.faults import RequestOutcome
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.routes import ROUTES, BodyRule

Send = Callable[..., RequestOutcome]

ADA = "/contacts/ada@example.com"
ADA_ID = ids.contact_id("ada@example.com")
ALAN_ID = ids.contact_id("alan@example.com")
SALES, NEW, WON = ids.pipeline_id("Sales"), ids.stage_id("Sales", "New"), ids.stage_id("Sales", "Won")
DEAL = f"/deals/{ids.deal_id(ADA_ID)}"
NEWSLETTER = ids.list_id("Newsletter")
WEBHOOK = "/webhook/hook-1/c/channel-1/w/flow-1"
NEW_DEAL = {"contactId": ALAN_ID, "pipelineId": SALES, "stageId": NEW}


def data(outcome: RequestOutcome, status: int = 200) -> Any:
    assert outcome.response is not None
    assert outcome.response.status == status, outcome.response.body
    return outcome.response.json["data"]


def test_contacts(send: Send) -> None:
    created = data(
        send("POST", "/contacts", {"email": "n@example.com", "attributes": {"phone": "+5531999999999"}}), 201
    )
    assert created == {"id": ids.contact_id("n@example.com"), "email": "n@example.com"}
    assert data(send("PUT", "/contacts/n@example.com", {"position": "Boss"})) == created
    shown = data(send("GET", "/contacts/n@example.com"))
    assert shown["attributes"] == {"phone": "+5531999999999", "position": "Boss"}
    assert data(send("DELETE", "/contacts/n@example.com")) == created
    assert send("GET", "/contacts/n@example.com").error == "CONTACT_NOT_FOUND"


def test_deals(send: Send) -> None:
    created = data(send("POST", "/deals", {**NEW_DEAL, "attributes": {"pb_amount": "9.90"}}), 201)
    assert created == {"id": ids.deal_id(ALAN_ID), "contactId": ALAN_ID, "email": "alan@example.com"}
    path = f"/deals/{created['id']}"
    assert data(send("PUT", path, {"stageId": WON})) == {"id": created["id"]}
    shown = data(send("GET", path))
    assert shown | {"createdAt": ""} == {
        "id": created["id"],
        "contactId": ALAN_ID,
        "pipelineId": SALES,
        "stageId": WON,
        "createdAt": "",
        "attributes": {"pb_amount": "9.90"},
    }
    assert data(send("DELETE", path)) == {"id": created["id"]}
    assert send("GET", path).error == "DEAL_NOT_FOUND"


def test_lists_and_membership(send: Send) -> None:
    assert data(send("GET", "/segments")) == {
        "page": 0,
        "total": 2,
        "data": [{"id": ids.list_id(name), "name": name} for name in ("Newsletter", "Trial users")],
    }
    added = data(send("POST", "/segments/add-contact/alan@example.com", {"segmentedListsIds": [NEWSLETTER]}))
    assert added == {"id": ALAN_ID, "email": "alan@example.com"}
    assert data(send("GET", "/contacts/alan@example.com"))["segmentedListsIds"] == [NEWSLETTER]


@pytest.mark.parametrize("body", [None, {"port": 25}])
@pytest.mark.parametrize(
    ("email", "status"), [("a@example.com", "valid"), ("a@b.invalid", "invalid"), ("nonsense", "invalid")]
)
def test_email_verification(send: Send, email: str, status: str, body: Any) -> None:
    assert data(send("POST", f"/email-verification/{email}", body)) == {"email": email, "status": status}


def test_automation_starts_without_an_api_key(send: Send, gateway: Gateway) -> None:
    fields = [{"fieldName": "plan", "fieldValue": "pro"}]
    data(send("POST", WEBHOOK, {"email": "a@example.com", "customFields": fields}, key=None))
    (started,) = gateway.store.automations
    assert (started.webhook_id, started.channel_uid, started.workflow_id) == ("hook-1", "channel-1", "flow-1")
    assert (started.email, started.custom_fields) == ("a@example.com", tuple(fields))


def test_pages_start_at_0_and_hold_10_records(send: Send, gateway: Gateway) -> None:
    def page(query: str) -> Any:
        return data(send("GET", f"/contacts{query}"))

    emails = list(gateway.store.contacts)
    assert page("") == page("?page=0")
    assert [contact["email"] for contact in page("?page=0")["data"]] == emails[:10]
    assert page("?page=1")["total"] == len(emails) == 11
    assert [contact["email"] for contact in page("?page=1")["data"]] == emails[10:]
    assert page("?page=2") == {"page": 2, "total": 11, "data": []}
    assert data(send("GET", "/deals"))["total"] == 1


UNREPEATABLE = [
    b"\xff",
    b"9" * 5000,
    b"[" * 100_000,
    b'{"email": "a@example.com", "attributes": {"n": NaN}}',
    b'{"email": "a@example.com", "attributes": {"n": 1e999}}',
    b'{"email": "a@example.com", "attributes": {"n": ' + b"[" * 99 + b"]" * 99 + b"}}",
    b'{"email": "a\\ud800@example.com"}',
    b'{"email": "\xed\xa0\x80@example.com"}',
    '{"email": "\ud800@example.com"}'.encode("utf-16-le", "surrogatepass"),
]
"""Bodies that no response can repeat, or that break a parser."""


REFUSALS: list[tuple[str, str, Any, str]] = [
    # bodies
    *[(route.method, route.template, None, "MISSING_BODY") for route in ROUTES if route.body is BodyRule.REQUIRED],
    *[(route.method, route.template, b" \n", "MISSING_BODY") for route in ROUTES if route.body is BodyRule.REQUIRED],
    *[(route.method, route.template, b"{", "INVALID_INPUT") for route in ROUTES if route.body is BodyRule.REQUIRED],
    *[(route.method, route.template, b"[]", "INVALID_INPUT") for route in ROUTES if route.body is BodyRule.REQUIRED],
    *[("POST", "/contacts", body, "INVALID_INPUT") for body in UNREPEATABLE],
    ("POST", "/email-verification/a@b.co", b"{", "INVALID_INPUT"),
    # contacts
    ("POST", "/contacts", {}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "nonsense"}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "a b@example.com"}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": 5}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": f"{'a' * 250}@b.co"}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "a@example.com", "attributes": []}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "a@example.com", "origin": "x"}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "a@example.com", "attributes": {"phone": "5531999999999"}}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "a@example.com", "attributes": {"phone": "+0155"}}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "a@example.com", "attributes": {"phone": 5}}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "a@example.com", "attributes": {"name": 5}}, "INVALID_INPUT"),
    ("POST", "/contacts", {"email": "ada@example.com"}, "CONTACT_ALREADY_EXISTS"),
    ("PUT", ADA, {"phone": ""}, "INVALID_INPUT"),
    ("PUT", ADA, {"attributes": {"phone": "+5531999999999"}}, "INVALID_INPUT"),
    ("PUT", "/contacts/nobody@example.com", {"phone": "+5531999999999"}, "CONTACT_NOT_FOUND"),
    ("GET", "/contacts/nobody@example.com", None, "CONTACT_NOT_FOUND"),
    ("DELETE", "/contacts/nobody@example.com", None, "CONTACT_NOT_FOUND"),
    ("GET", "/contacts?page=-1", None, "INVALID_INPUT"),
    ("GET", "/contacts?page=x", None, "INVALID_INPUT"),
    ("GET", "/contacts?page=", None, "INVALID_INPUT"),
    # deals
    ("POST", "/deals", {}, "INVALID_INPUT"),
    ("POST", "/deals", {**NEW_DEAL, "contactId": "x"}, "INVALID_INPUT"),
    ("POST", "/deals", {**NEW_DEAL, "stageId": None}, "INVALID_INPUT"),
    ("POST", "/deals", {**NEW_DEAL, "attributes": {"pb_amount": 9.9}}, "INVALID_INPUT"),
    ("POST", "/deals", {**NEW_DEAL, "attributes": {"pb_closingDate": "soon"}}, "INVALID_INPUT"),
    ("POST", "/deals", {**NEW_DEAL, "attributes": {"pb_closingDate": "2025-13-01T00:00:00Z"}}, "INVALID_INPUT"),
    ("POST", "/deals", {**NEW_DEAL, "contactId": ADA_ID}, "CONTACT_ASSOCIATED_WITH_A_DEAL"),
    ("POST", "/deals", {**NEW_DEAL, "contactId": NEW}, "CONTACT_NOT_FOUND"),
    ("POST", "/deals", {**NEW_DEAL, "pipelineId": NEW}, "PIPELINE_NOT_FOUND"),
    ("POST", "/deals", {**NEW_DEAL, "stageId": SALES}, "STAGE_NOT_FOUND"),
    ("PUT", DEAL, {"stageId": ids.stage_id("Partners", "New")}, "STAGE_NOT_FOUND"),
    ("PUT", DEAL, {"pipelineId": SALES}, "INVALID_INPUT"),
    ("PUT", DEAL, {"stageId": "x"}, "INVALID_INPUT"),
    ("PUT", f"/deals/{SALES}", {"stageId": NEW}, "DEAL_NOT_FOUND"),
    ("GET", "/deals/not-a-uuid", None, "DEAL_NOT_FOUND"),
    ("DELETE", f"/deals/{SALES}", None, "DEAL_NOT_FOUND"),
    # lists, automations
    ("POST", "/segments/add-contact/ada@example.com", {"segmentedListsIds": []}, "INVALID_INPUT"),
    ("POST", "/segments/add-contact/ada@example.com", {"segmentedListsIds": ["x"]}, "INVALID_INPUT"),
    ("POST", "/segments/add-contact/ada@example.com", {"segmentedListsIds": [NEW]}, "SEGMENTATION_LIST_NOT_FOUND"),
    ("POST", "/segments/add-contact/no@example.com", {"segmentedListsIds": [NEWSLETTER]}, "CONTACT_NOT_FOUND"),
    ("POST", WEBHOOK, {"customFields": []}, "INVALID_INPUT"),
    ("POST", WEBHOOK, {"email": "a@example.com", "customFields": ["x"]}, "INVALID_INPUT"),
]


@pytest.mark.parametrize(("method", "path", "body", "error"), REFUSALS)
def test_invalid_calls_are_refused(send: Send, method: str, path: str, body: Any, error: str) -> None:
    outcome = send(method, path, body)
    assert outcome.error == error
    assert not outcome.applied


def test_refused_call_changes_nothing(send: Send, gateway: Gateway) -> None:
    before = dict(gateway.store.contacts), dict(gateway.store.deals)
    for method, path, body, _ in REFUSALS:
        send(method, path, body)
    assert (dict(gateway.store.contacts), dict(gateway.store.deals)) == before
    assert not gateway.store.automations


@pytest.mark.parametrize("blank", ["", "%20"])
@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", "/contacts/", "CONTACT_EMAIL_IS_NECESSARY"),
        ("PUT", "/contacts/", "CONTACT_EMAIL_IS_NECESSARY"),
        ("POST", "/segments/add-contact/", "CONTACT_EMAIL_IS_NECESSARY"),
        ("GET", "/deals/", "DEAL_ID_IS_NECESSARY"),
        ("DELETE", "/deals/", "DEAL_ID_IS_NECESSARY"),
        ("POST", "/email-verification/", "EMAIL_IS_NECESSARY"),
    ],
)
def test_blank_id_or_email_in_path_is_refused(send: Send, method: str, path: str, text: str, blank: str) -> None:
    outcome = send(method, path + blank, {"x": 1})
    assert outcome.error == "INVALID_PARAMS"
    assert outcome.response is not None
    assert outcome.response.json["error"] == text


@pytest.mark.parametrize(
    "closing", ["2025-12-22T18:11:43Z", "2025-12-22T18:11:43.719Z", "2025-12-22T18:11:43.7+02:00", None]
)
def test_closing_dates(send: Send, closing: str | None) -> None:
    data(send("PUT", DEAL, {"attributes": {"pb_closingDate": closing}}))


def test_body_may_be_nested_a_hundred_levels_deep(send: Send) -> None:
    body = b'{"email": "a@example.com", "attributes": {"n": ' + b"[" * 98 + b"]" * 98 + b"}}"
    data(send("POST", "/contacts", body), 201)


def test_amount_keeps_its_digits(send: Send) -> None:
    data(send("PUT", DEAL, {"attributes": {"pb_amount": "0001.10"}}))
    assert data(send("GET", DEAL))["attributes"]["pb_amount"] == "0001.10"


def test_error_details_contain_no_values(send: Send) -> None:
    secret = "s3cret"
    bodies = [
        {"email": secret},
        {"email": "a@example.com", "attributes": {"phone": secret}},
        {"email": "a@example.com", "origin": secret},
    ]
    for body in bodies:
        detail = send("POST", "/contacts", body).detail
        assert detail
        assert secret not in detail
