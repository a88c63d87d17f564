"""Magic emails: each row of the table behaves as documented."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crm_provider.sandbox import MAGIC_EMAILS, Fault
from crm_provider.sandbox.fault_rules import magic_email
from crm_provider.sandbox.faults import RequestOutcome
from crm_provider.sandbox.gateway import Gateway

Send = Callable[..., RequestOutcome]


def create(send: Send, email: str) -> RequestOutcome:
    return send("POST", "/contacts", {"email": email})


def update(send: Send, email: str) -> RequestOutcome:
    return send("PUT", f"/contacts/{email}", {"position": "Boss"})


def get(send: Send, email: str) -> RequestOutcome:
    return send("GET", f"/contacts/{email}")


def statuses(outcomes: list[RequestOutcome]) -> list[int | None]:
    return [outcome.response.status if outcome.response else None for outcome in outcomes]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("throttled", [429, 429, 201, 409]),
        ("quota", [429] * 3),
        ("outage", [503] * 7 + [201]),
        ("error", [500] * 10),
        ("forbidden", [403]),
        ("html", [200]),
    ],
)
def test_magic_email_sets_the_response_of_a_creation(tag: str, expected: list[int], send: Send) -> None:
    outcomes = [create(send, f"{tag}@sandbox.test") for _ in expected]
    assert statuses(outcomes) == expected
    response = outcomes[0].response
    assert response is not None
    if tag == "quota":
        assert (response.json, response.headers["Retry-After"]) == ({"message": "Limit Exceeded"}, "3600")
    assert (response.headers["content-type"] == "text/html; charset=utf-8") is (tag == "html")


def test_magic_invalid(send: Send, gateway: Gateway) -> None:
    gateway.store.create_contact("invalid@sandbox.test")
    assert create(send, "invalid@sandbox.test").error == "INVALID_INPUT"
    assert update(send, "invalid@sandbox.test").error == "INVALID_INPUT"
    assert get(send, "invalid@sandbox.test").applied


def test_magic_lost(send: Send) -> None:
    assert get(send, "lost@sandbox.test").error == "CONTACT_NOT_FOUND"
    lost = create(send, "lost@sandbox.test")
    assert (lost.response, lost.applied) == (None, True)
    assert get(send, "lost@sandbox.test").applied
    again = create(send, "lost@sandbox.test")
    assert (again.error, again.duplicate) == ("CONTACT_ALREADY_EXISTS", True)


def test_magic_slow(send: Send) -> None:
    outcome = create(send, "slow@sandbox.test")
    assert (outcome.delay, outcome.applied) == (2.0, True)


def test_magic_blocked(send: Send) -> None:
    assert get(send, "blocked@sandbox.test").error == "CONTACT_NOT_FOUND"
    assert create(send, "blocked@sandbox.test").applied
    response = get(send, "blocked@sandbox.test").response
    assert response is not None
    assert {"unsubscribedAt", "blacklistedAt"} < set(response.json["data"])


def test_each_tag_has_its_own_counters(send: Send) -> None:
    for tag in ("+1", "+2", ""):
        assert statuses([create(send, f"throttled{tag}@sandbox.test") for _ in range(3)]) == [429, 429, 201]


def test_magic_email_works_in_path_and_deal_body(send: Send, gateway: Gateway) -> None:
    (deal,) = gateway.store.deals
    owner = gateway.store.create_contact("error@sandbox.test")
    gateway.store.update_deal(deal, contact_id=owner.id)
    assert send("GET", f"/deals/{deal}").error == "INTERNAL_SERVER_ERROR"


@pytest.mark.parametrize("email", ["lost@example.com", "lost@sandbox.test.example.com", "find@sandbox.test", "", None])
def test_other_addresses_are_ordinary(email: str | None) -> None:
    assert magic_email(email) is None


def test_magic_email_works_in_any_case() -> None:
    row = magic_email("Lost+7@Sandbox.Test")
    assert row is not None
    assert row.name == "lost"


def test_magic_can_be_disabled(send: Send, gateway: Gateway) -> None:
    gateway.configure(magic=False)
    for row in MAGIC_EMAILS:
        outcome = create(send, row.email)
        assert outcome.applied
        assert outcome.fault is None
    assert gateway.store.contact("blocked@sandbox.test").blacklisted_at is None


def test_user_rule_takes_precedence_over_magic(send: Send, gateway: Gateway) -> None:
    gateway.faults.add(Fault(effect="drop", email="throttled@*", name="mine", count=1))
    assert create(send, "throttled@sandbox.test").fault == "mine"
    assert create(send, "throttled@sandbox.test").fault == "magic:throttled:1"
