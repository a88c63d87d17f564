"""Developer mode: every call returns fake data and changes no state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crm_provider.sandbox import ids, seeds
from crm_provider.sandbox.faults import RequestOutcome
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.routes import ROUTES

Send = Callable[..., RequestOutcome]
DEVELOPER = {"x-developer-mode": "true"}
SOME_ID = "12345678-1234-5678-1234-567812345678"
BODIES: dict[str, Any] = {
    "POST /contacts": {"email": "ada@example.com", "attributes": {"phone": "+5531999999999"}},
    "PUT /contacts/{email}": {"phone": "+5531999999999"},
    "POST /deals": {"contactId": ids.contact_id("ada@example.com"), "pipelineId": SOME_ID, "stageId": SOME_ID},
    "PUT /deals/{dealId}": {"stageId": SOME_ID, "contactId": SOME_ID},
    "POST /segments/add-contact/{email}": {"segmentedListsIds": [SOME_ID]},
    "POST /webhook/{webhookId}/c/{channelUid}/w/{workflowId}": {"email": "ada@example.com"},
}


def filled(template: str) -> str:
    parts = [
        SOME_ID if part == "{dealId}" else "ada@example.com" if part[:1] == "{" else part
        for part in template.split("/")
    ]
    return "/".join(parts)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_call_succeeds_and_changes_no_state(send: Send, gateway: Gateway, route: Any) -> None:
    before = seeds.snapshot(gateway.store)
    outcome = send(route.method, filled(route.template), BODIES.get(route.name), headers=DEVELOPER)
    assert outcome.response is not None
    assert outcome.response.status in (200, 201), outcome.response.body
    assert not outcome.applied
    assert seeds.snapshot(gateway.store) == before
    assert not gateway.store.automations


def test_developer_mode_returns_fake_data(send: Send) -> None:
    response = send("GET", "/contacts/ada@example.com", headers=DEVELOPER).response
    assert response is not None
    assert response.json["data"]["email"] == "ada@example.com"
    assert response.json["data"]["attributes"]["name"] == "Developer Mode"


def test_key_and_body_are_validated_in_developer_mode(send: Send) -> None:
    assert send("POST", "/contacts", {"email": "x"}, headers=DEVELOPER).error == "INVALID_INPUT"
    assert send("GET", "/contacts", key="wrong", headers=DEVELOPER).error == "FORBIDDEN"


@pytest.mark.parametrize(("value", "developer"), [("true", True), ("TRUE", True), ("false", False), ("", False)])
def test_developer_header_must_be_true(send: Send, gateway: Gateway, value: str, developer: bool) -> None:
    send("POST", "/contacts", {"email": "n@example.com"}, headers={"x-developer-mode": value})
    assert ("n@example.com" in gateway.store.contacts) is not developer
    assert gateway.journal.entries()[0].developer_mode is developer
