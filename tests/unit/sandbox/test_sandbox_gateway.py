"""The path of a call: order of the steps, API keys, settings, and reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crm_provider.sandbox import Fault, ManualClock, SandboxSettings, SeedError
from crm_provider.sandbox.faults import RequestOutcome
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.routes import RawRequest

Send = Callable[..., RequestOutcome]
ADA = "/contacts/ada@example.com"


def said(outcome: RequestOutcome) -> tuple[int, Any]:
    assert outcome.response is not None
    return outcome.response.status, outcome.response.json


@pytest.mark.parametrize("base", ["", "/v1"])
def test_wrong_base_url_gets_the_response_of_the_real_gateway(send: Send, base: str) -> None:
    assert said(send("GET", ADA, base=base)) == (403, {"message": "Missing Authentication Token"})


def test_steps_run_in_order(send: Send, gateway: Gateway) -> None:
    """Route, key, faults before the limit, rate limit, faults behind it, the call itself."""
    gateway.configure(rate=5, burst=1)
    assert send("GET", "/contacts").applied  # the bucket is now empty
    gateway.faults.add(Fault(effect="error", error="firewall", name="front"))
    gateway.faults.add(Fault(effect="error", error="INTERNAL_SERVER_ERROR", name="back"))
    assert send("GET", "/nope", key=None).error == "UNKNOWN_ROUTE"
    assert send("GET", "/contacts", key=None).error == "UNAUTHORIZED"
    assert send("GET", "/contacts").fault == "front"
    gateway.faults.remove("front")
    assert said(send("GET", "/contacts")) == (429, {"message": "Too Many Requests"})
    gateway.configure(rate=None)
    assert send("POST", "/contacts").fault == "back"
    gateway.faults.remove("back")
    assert send("POST", "/contacts").error == "MISSING_BODY"


def test_api_keys_are_checked(send: Send, gateway: Gateway) -> None:
    assert said(send("GET", ADA, key=None)) == (401, {"message": "Unauthorized"})
    assert said(send("GET", ADA, key="")) == (401, {"message": "Unauthorized"})
    status, body = said(send("GET", ADA, key="wröng"))
    assert status == 403
    assert body["Message"].startswith("User is not authorized")
    gateway.configure(api_key="new")
    assert send("GET", ADA).error == "FORBIDDEN"
    assert send("GET", ADA, key="new").applied
    gateway.configure(api_key=None)
    assert send("GET", ADA, key="new").error == "FORBIDDEN"


def test_call_refused_for_key_or_route_takes_no_token(send: Send, gateway: Gateway) -> None:
    gateway.configure(rate=5, burst=1)
    for _ in range(3):
        send("GET", ADA, key="wrong")
        send("GET", "/nope")
    assert send("GET", ADA).applied


def test_only_a_new_rate_limit_refills_the_bucket(send: Send, gateway: Gateway) -> None:
    gateway.configure(rate=5, burst=1)
    assert send("GET", ADA).applied
    gateway.configure(envelope="v2", api_key="sandbox-key")
    assert send("GET", ADA).error == "TOO_MANY_REQUESTS"
    gateway.configure(burst=1)
    assert send("GET", ADA).applied


def test_webhook_is_rate_limited(send: Send, gateway: Gateway) -> None:
    gateway.configure(rate=5, burst=1)
    hook = "/webhook/a/c/b/w/c"
    assert send("POST", hook, {"email": "a@example.com"}, key=None).applied
    assert send("POST", hook, {"email": "a@example.com"}, key=None).error == "TOO_MANY_REQUESTS"


def test_configured_envelope_is_used(send: Send, gateway: Gateway) -> None:
    gateway.configure(envelope="v2", success="flat")
    assert said(send("GET", "/contacts/no@example.com"))[1] == {
        "code": "CONTACT_NOT_FOUND",
        "message": "Contact not found.",
    }
    assert said(send("GET", ADA))[1]["email"] == "ada@example.com"


def test_request_id_is_unique_and_in_header_body_and_journal(send: Send, gateway: Gateway) -> None:
    responses = [send("GET", ADA).response, send("GET", ADA).response]
    headers = [response.headers["x-amzn-requestid"] for response in responses if response]
    assert len(set(headers)) == 2
    assert headers == [response.json["requestId"] for response in responses if response]
    assert headers == [entry.request_id for entry in gateway.journal.entries()]


def test_same_calls_get_the_same_responses_in_every_sandbox() -> None:
    def run() -> list[bytes]:
        gateway = Gateway(SandboxSettings(rate=None), clock=ManualClock())
        headers = {"x-api-key": "sandbox-key"}
        calls = [
            RawRequest(method="POST", raw_path="/v2/contacts", headers=headers, body=b'{"email": "n@example.com"}'),
            RawRequest(method="GET", raw_path="/v2/contacts", headers=headers),
            RawRequest(method="GET", raw_path="/v2/contacts/x", headers=headers),
        ]
        return [outcome.response.body for outcome in map(gateway.handle, calls) if outcome.response]

    assert run() == run()
    assert len(run()) == 3


def test_reset_restores_the_initial_state(send: Send, gateway: Gateway) -> None:
    store = gateway.store
    contacts, first = dict(store.contacts), send("GET", ADA).response
    gateway.configure(envelope="v2", membership_delay=5, api_key="other")
    gateway.faults.add(Fault(effect="drop"))
    store.delete_contact("ada@example.com")
    store.add_list("More")
    send("POST", "/webhook/a/c/b/w/c", {"email": "a@example.com"}, key=None)
    gateway.reset()
    assert gateway.settings == SandboxSettings(rate=None)
    assert store is gateway.store
    assert (dict(store.contacts), len(store.deals), len(store.lists)) == (contacts, 1, 2)
    assert (store.membership_delay, store.automations, gateway.faults.statuses()) == (0, (), [])
    assert gateway.journal.counters().total == 0
    assert send("GET", ADA).response == first


def test_reset_refills_the_bucket(clock: ManualClock) -> None:
    gateway = Gateway(SandboxSettings(rate=1, burst=1), clock=clock)
    call = RawRequest(method="GET", raw_path="/v2/contacts", headers={"x-api-key": "sandbox-key"})
    for _ in range(2):
        assert gateway.handle(call).applied
        assert gateway.handle(call).error == "TOO_MANY_REQUESTS"
        gateway.reset()


def test_reset_forgets_used_magic_addresses(send: Send, gateway: Gateway) -> None:
    path = "/contacts/throttled@sandbox.test"
    expected = ["TOO_MANY_REQUESTS", "TOO_MANY_REQUESTS", "CONTACT_NOT_FOUND"]
    assert [send("GET", path).error for _ in range(3)] == expected
    gateway.reset()
    assert [send("GET", path).error for _ in range(3)] == expected


def test_reset_with_settings_keeps_them(gateway: Gateway) -> None:
    gateway.reset(SandboxSettings(seed="empty", envelope="gateway"))
    gateway.configure(envelope="v1")
    gateway.reset()
    assert gateway.settings == SandboxSettings(seed="empty", envelope="gateway")
    assert not gateway.store.contacts


def test_reset_with_a_bad_seed_changes_nothing(gateway: Gateway) -> None:
    with pytest.raises(SeedError):
        gateway.reset(SandboxSettings(seed={"deals": [{"contactId": "nobody"}]}))
    assert gateway.start_settings == SandboxSettings(rate=None)
    assert len(gateway.store.contacts) == 11


@pytest.mark.parametrize("change", [{"seed": "empty"}, {"journal_size": 5}])
def test_some_settings_change_only_on_reset(gateway: Gateway, change: Any) -> None:
    with pytest.raises(ValueError, match="only be changed by a reset"):
        gateway.configure(**change)


def test_invalid_settings_change_nothing(gateway: Gateway) -> None:
    with pytest.raises(ValueError, match="burst"):
        gateway.configure(burst=0, envelope="v2")
    assert gateway.settings == SandboxSettings(rate=None)
