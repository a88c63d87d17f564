"""The way of a call: the order of the steps, keys, settings, reset."""

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
def test_a_wrong_base_url_looks_like_the_real_gateway(send: Send, base: str) -> None:
    assert said(send("GET", ADA, base=base)) == (403, {"message": "Missing Authentication Token"})


def test_each_step_comes_before_the_next(send: Send, gateway: Gateway) -> None:
    """Route, key, faults in front, rate limit, faults behind it, the call itself."""
    gateway.configure(rate=5, burst=1)
    assert send("GET", "/contacts").applied  # the bucket is empty now
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


def test_keys(send: Send, gateway: Gateway) -> None:
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


def test_calls_that_are_refused_for_their_key_or_route_take_no_token(send: Send, gateway: Gateway) -> None:
    gateway.configure(rate=5, burst=1)
    for _ in range(3):
        send("GET", ADA, key="wrong")
        send("GET", "/nope")
    assert send("GET", ADA).applied


def test_only_a_change_of_the_limit_refills_the_bucket(send: Send, gateway: Gateway) -> None:
    gateway.configure(rate=5, burst=1)
    assert send("GET", ADA).applied
    gateway.configure(envelope="v2", api_key="sandbox-key")
    assert send("GET", ADA).error == "TOO_MANY_REQUESTS"
    gateway.configure(burst=1)
    assert send("GET", ADA).applied


def test_the_webhook_is_limited_as_well(send: Send, gateway: Gateway) -> None:
    gateway.configure(rate=5, burst=1)
    hook = "/webhook/a/c/b/w/c"
    assert send("POST", hook, {"email": "a@example.com"}, key=None).applied
    assert send("POST", hook, {"email": "a@example.com"}, key=None).error == "TOO_MANY_REQUESTS"


def test_the_chosen_envelope_is_used(send: Send, gateway: Gateway) -> None:
    gateway.configure(envelope="v2", success="flat")
    assert said(send("GET", "/contacts/no@example.com"))[1] == {
        "code": "CONTACT_NOT_FOUND",
        "message": "Contact not found.",
    }
    assert said(send("GET", ADA))[1]["email"] == "ada@example.com"


def test_request_ids_differ_and_are_in_header_body_and_journal(send: Send, gateway: Gateway) -> None:
    answers = [send("GET", ADA).response, send("GET", ADA).response]
    headers = [answer.headers["x-amzn-requestid"] for answer in answers if answer]
    assert len(set(headers)) == 2
    assert headers == [answer.json["requestId"] for answer in answers if answer]
    assert headers == [entry.request_id for entry in gateway.journal.entries()]


def test_the_same_calls_get_the_same_answers_in_every_sandbox() -> None:
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


def test_reset_brings_back_everything_as_it_was_at_the_start(send: Send, gateway: Gateway) -> None:
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


def test_reset_forgets_which_magic_addresses_have_struck(send: Send, gateway: Gateway) -> None:
    path = "/contacts/throttled@sandbox.test"
    expected = ["TOO_MANY_REQUESTS", "TOO_MANY_REQUESTS", "CONTACT_NOT_FOUND"]
    assert [send("GET", path).error for _ in range(3)] == expected
    gateway.reset()
    assert [send("GET", path).error for _ in range(3)] == expected


def test_a_reset_with_settings_keeps_them(gateway: Gateway) -> None:
    gateway.reset(SandboxSettings(seed="empty", envelope="gateway"))
    gateway.configure(envelope="v1")
    gateway.reset()
    assert gateway.settings == SandboxSettings(seed="empty", envelope="gateway")
    assert not gateway.store.contacts


def test_a_reset_to_a_bad_seed_changes_nothing(gateway: Gateway) -> None:
    with pytest.raises(SeedError):
        gateway.reset(SandboxSettings(seed={"deals": [{"contactId": "nobody"}]}))
    assert gateway.start_settings == SandboxSettings(rate=None)
    assert len(gateway.store.contacts) == 11


@pytest.mark.parametrize("change", [{"seed": "empty"}, {"journal_size": 5}])
def test_what_only_a_reset_can_change(gateway: Gateway, change: Any) -> None:
    with pytest.raises(ValueError, match="only be changed by a reset"):
        gateway.configure(**change)


def test_an_impossible_change_changes_nothing(gateway: Gateway) -> None:
    with pytest.raises(ValueError, match="burst"):
        gateway.configure(burst=0, envelope="v2")
    assert gateway.settings == SandboxSettings(rate=None)
