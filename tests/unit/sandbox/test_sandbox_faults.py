"""Fault rules: matching, timing, and effects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest

from crm_provider.errors.catalog import CATALOGUE
from crm_provider.sandbox import EFFECTS, Fault, ManualClock, ids
from crm_provider.sandbox.fault_rules import FaultRules
from crm_provider.sandbox.faults import ELSEWHERE, Effect, RequestFacts, RequestOutcome
from crm_provider.sandbox.gateway import Gateway
from crm_provider.sandbox.responses import ERROR_NAMES
from crm_provider.sandbox.seeds import snapshot

Send = Callable[..., RequestOutcome]
ADA = "/contacts/ada@example.com"
NEW = {"email": "new@example.com"}


def facts_of(
    method: str = "GET", path: str = ADA, template: str = "/contacts/{email}", email: str | None = "ada@example.com"
) -> RequestFacts:
    return RequestFacts(method=method, path=path, template=template, email=email)


def applies(clock: ManualClock, calls: int, **rule: Any) -> list[int]:
    """The 1-based numbers of the calls that a rule applies to."""
    book = FaultRules(clock, [Fault(effect="drop", **rule)])
    return [number for number in range(1, calls + 1) if book.pick(facts_of(), in_front=True)]


# -- matching -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({}, True),
        ({"method": "get"}, True),
        ({"method": "POST"}, False),
        ({"path": "/contacts/*"}, True),
        ({"path": "/contacts/{email}"}, True),
        ({"path": ADA}, True),
        ({"path": "/contacts"}, False),
        ({"path": "/deals*"}, False),
        ({"email": "*@EXAMPLE.com"}, True),
        ({"email": "*@other.com"}, False),
        ({"method": "GET", "path": "/contacts/*", "email": "ada@*"}, True),
        ({"method": "GET", "path": "/contacts/*", "email": "alan@*"}, False),
    ],
)
def test_rule_matches_its_calls_only(rule: dict[str, Any], matches: bool) -> None:
    assert Fault(effect="drop", **rule).matches(facts_of()) is matches


def test_rule_matches_email_in_any_case() -> None:
    assert Fault(effect="drop", email="Ada@*").matches(facts_of(email="ADA@example.com"))


def test_email_pattern_matches_no_call_without_an_email() -> None:
    assert not Fault(effect="drop", email="*").matches(facts_of(email=None))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", ADA, None),
        ("POST", "/contacts", {"email": "ada@example.com"}),
        ("GET", "/deals/{deal}", None),
        ("POST", "/deals", {"contactId": "{contact}"}),
        ("POST", "/webhook/a/c/b/w/c", {"email": "ada@example.com"}),
    ],
)
def test_email_is_found_in_path_and_body(send: Send, gateway: Gateway, method: str, path: str, body: Any) -> None:
    (deal,) = gateway.store.deals.values()
    if body and "contactId" in body:
        body = {"contactId": deal.contact_id}
    gateway.faults.add(Fault(effect="drop", email="ada@*", name="mine"))
    assert send(method, path.replace("{deal}", deal.id), body).fault == "mine"
    assert send("GET", "/contacts/alan@example.com").fault is None


# -- timing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"count": 2}, [1, 2]),
        ({"nth": 3}, [3]),
        ({"after": 4}, [5, 6]),
        ({"after": 2, "count": 1}, [3]),
        ({"probability": 0.0}, []),
    ],
)
def test_rule_applies_to_the_expected_calls(clock: ManualClock, rule: dict[str, Any], expected: list[int]) -> None:
    assert applies(clock, 6, **rule) == expected


def test_rule_expires_after_its_time_to_live(clock: ManualClock) -> None:
    book = FaultRules(clock, [Fault(effect="drop", seconds=10)])
    clock.advance(9.9)
    assert book.pick(facts_of(), in_front=True)
    clock.advance(0.1)
    assert book.pick(facts_of(), in_front=True) is None
    assert not book.statuses()[0].active


def test_probability_is_repeatable_with_the_same_seed(clock: ManualClock) -> None:
    first = applies(clock, 200, probability=0.5, seed=1)
    assert first == applies(clock, 200, probability=0.5, seed=1)
    assert first != applies(clock, 200, probability=0.5, seed=2)
    assert 60 < len(first) < 140


def test_first_matching_rule_hides_the_call_from_later_rules(clock: ManualClock) -> None:
    rules = [Fault(effect="drop", name="second call", nth=2), Fault(effect="html", name="any")]
    book = FaultRules(clock, rules)
    names = [picked.name for _ in range(3) if (picked := book.pick(facts_of(), in_front=True))]
    assert names == ["any", "second call", "any"]
    assert [(status.matched, status.hits) for status in book.statuses()] == [(3, 1), (2, 2)]


def test_rules_get_unique_names(clock: ManualClock) -> None:
    book = FaultRules(clock)
    assert [book.add(Fault(effect="drop")).name, book.add(Fault(effect="lost")).name] == ["drop-1", "lost-2"]
    with pytest.raises(ValueError, match="named 'drop-1' already"):
        book.add(Fault(effect="drop", name="drop-1"))


def test_rules_can_be_removed(clock: ManualClock) -> None:
    book = FaultRules(clock, [Fault(effect="drop", name="a"), Fault(effect="drop", name="b")])
    assert book.remove("a")
    assert not book.remove("a")
    assert [status.fault.name for status in book.statuses()] == ["b"]
    book.clear()
    assert book.pick(facts_of(), in_front=True) is None


def test_throttled_call_is_not_counted_by_rules_behind_the_limit(send: Send, gateway: Gateway) -> None:
    gateway.configure(rate=5, burst=1)
    gateway.faults.add(Fault(effect="lost", nth=2))
    assert send("GET", ADA).applied
    assert send("GET", ADA).error == "TOO_MANY_REQUESTS"
    assert gateway.faults.statuses()[0].matched == 1


# -- effects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ERROR_NAMES)
def test_rule_can_return_every_catalogue_error(send: Send, gateway: Gateway, name: str) -> None:
    fault = gateway.faults.add(Fault(effect="error", error=name))
    outcome = send("POST", "/contacts", NEW)
    assert outcome.response is not None
    assert (outcome.response.status, outcome.error) == (fault.reply.status, fault.reply.type)
    assert not outcome.applied
    assert "new@example.com" not in gateway.store.contacts


ADA_ID, ALAN_ID = ids.contact_id("ada@example.com"), ids.contact_id("alan@example.com")
DEAL = f"/deals/{ids.deal_id(ADA_ID)}"
NEW_DEAL = {"contactId": ALAN_ID, "pipelineId": ids.pipeline_id("Sales"), "stageId": ids.stage_id("Sales", "New")}
WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/contacts", NEW),
    ("PUT", ADA, {"position": "Boss"}),
    ("DELETE", ADA, None),
    ("POST", "/deals", NEW_DEAL),
    ("PUT", DEAL, {"stageId": ids.stage_id("Sales", "Won")}),
    ("DELETE", DEAL, None),
    ("POST", "/segments/add-contact/alan@example.com", {"segmentedListsIds": [ids.list_id("Newsletter")]}),
    ("POST", "/webhook/a/c/b/w/c", {"email": "ada@example.com"}),
]


def state(gateway: Gateway) -> Any:
    return snapshot(gateway.store), gateway.store.automations


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("effect", ["error", "drop", "html", "redirect"])
def test_write_lost_before_processing_changes_nothing(
    send: Send, gateway: Gateway, effect: Effect, method: str, path: str, body: Any
) -> None:
    gateway.faults.add(Fault(effect=effect, error="FORBIDDEN" if effect == "error" else None))
    before = state(gateway)
    outcome = send(method, path, body)
    assert (outcome.response is None, outcome.applied) == (effect == "drop", False)
    assert state(gateway) == before


@pytest.mark.parametrize(("method", "path", "body"), WRITES, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("effect", ["latency", "drip", "large", "lost", "lost_error", "truncate", "garbage"])
def test_write_with_lost_response_is_applied(
    send: Send, gateway: Gateway, effect: Effect, method: str, path: str, body: Any
) -> None:
    gateway.faults.add(Fault(effect=effect, latency=1))
    before = state(gateway)
    outcome = send(method, path, body)
    assert (outcome.response is None, outcome.applied) == (effect == "lost", True)
    assert (outcome.delay, outcome.drip) == ((0, 1) if effect == "drip" else (1, 0))
    assert state(gateway) != before


def test_journal_records_a_lost_refusal(send: Send, gateway: Gateway) -> None:
    gateway.faults.add(Fault(effect="lost"))
    outcome = send("POST", "/contacts", {"email": "ada@example.com"})
    assert (outcome.response, outcome.error, outcome.applied) == (None, "CONTACT_ALREADY_EXISTS", False)


@pytest.mark.parametrize(("error", "status"), [(None, 500), ("GATEWAY_TIMEOUT", 504)])
def test_write_is_applied_and_returns_an_error(send: Send, gateway: Gateway, error: str | None, status: int) -> None:
    gateway.faults.add(Fault(effect="lost_error", error=error))
    outcome = send("POST", "/contacts", NEW)
    assert outcome.response is not None
    assert outcome.response.status == status
    assert outcome.applied


def test_html_and_redirect(send: Send, gateway: Gateway) -> None:
    gateway.faults.add(Fault(effect="html", status=503, count=1))
    gateway.faults.add(Fault(effect="redirect", count=1))
    gateway.faults.add(Fault(effect="redirect", location="http://127.0.0.1:1/", status=307))
    page, redirect, other = (send("GET", ADA).response for _ in range(3))
    assert page is not None
    assert redirect is not None
    assert other is not None
    assert (page.status, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert page.body.startswith(b"<!DOCTYPE html>")
    assert (redirect.status, redirect.headers["location"]) == (302, ELSEWHERE)
    assert (other.status, other.headers["location"]) == (307, "http://127.0.0.1:1/")


def test_truncated_json(send: Send, gateway: Gateway) -> None:
    whole = send("GET", ADA).response
    gateway.faults.add(Fault(effect="truncate", count=1))
    gateway.faults.add(Fault(effect="truncate", variant="closed"))
    unreadable, broken = send("GET", ADA), send("GET", ADA)
    assert whole is not None
    assert unreadable.response is not None
    assert broken.response is not None
    with pytest.raises(ValueError, match="line 1"):
        _ = unreadable.response.json
    assert unreadable.cut is None
    assert broken.cut is not None
    assert 0 < broken.cut < len(broken.response.body)
    assert broken.response.json["data"] == whole.json["data"]


@pytest.mark.parametrize(
    ("rule", "status", "body"),
    [
        ({}, 200, b"upstream said something"),
        ({"variant": "list"}, 200, b'["not", "an", "object"]'),
        ({"variant": "empty", "status": 204}, 204, b""),
        ({"body": '{"errorCode": "NEVER_SEEN"}', "status": 418}, 418, b'{"errorCode": "NEVER_SEEN"}'),
    ],
)
def test_garbage(send: Send, gateway: Gateway, rule: dict[str, Any], status: int, body: bytes) -> None:
    gateway.faults.add(Fault(effect="garbage", **rule))
    response = send("GET", ADA).response
    assert response is not None
    assert (response.status, response.body) == (status, body)


def test_latency_combines_with_every_effect(send: Send, gateway: Gateway) -> None:
    gateway.faults.add(Fault(effect="error", error="unavailable", latency=3, retry_after=9))
    outcome = send("GET", ADA)
    assert outcome.response is not None
    assert (outcome.delay, outcome.response.headers["Retry-After"]) == (3, "9")


# -- invalid rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"effect": "eror"}, "did you mean 'error'"),
        ({"effect": "error"}, "needs an error"),
        ({"effect": "error", "error": "DEAL_NOT_FOND"}, "did you mean 'DEAL_NOT_FOUND'"),
        ({"effect": "error", "error": "CONNECTION"}, "never a response"),
        ({"effect": "latency"}, "needs latency"),
        ({"effect": "drop", "error": "FORBIDDEN"}, "'drop' has no option 'error'"),
        ({"effect": "drop", "status": 500}, "'drop' has no option 'status'"),
        ({"effect": "error", "error": "FORBIDDEN", "status": 500}, "'error' has no option 'status'"),
        ({"effect": "truncate", "variant": "lenght"}, "did you mean 'length'"),
        ({"effect": "garbage", "variant": "closed"}, "variant 'closed' is not known"),
        ({"effect": "html", "status": 99}, "from 200 to 599"),
        ({"effect": "drop", "method": "PSOT"}, "did you mean 'POST'"),
        ({"effect": "drop", "path": "/v2/contacts"}, "what follows /v2"),
        ({"effect": "drop", "path": "contacts"}, "what follows /v2"),
        ({"effect": "drop", "nth": 0}, "nth counts from 1"),
        ({"effect": "drop", "count": 0}, "count counts from 1"),
        ({"effect": "drop", "after": -1}, "not be negative"),
        ({"effect": "drop", "latency": -1}, "not be negative"),
        ({"effect": "drop", "seconds": 0}, "above 0"),
        ({"effect": "drop", "probability": 1.1}, "between 0 and 1"),
        ({"effect": "latency", "latency": math.nan}, "latency must be finite"),
        ({"effect": "latency", "latency": math.inf}, "latency must be finite"),
        ({"effect": "drop", "seconds": math.inf}, "finite"),
        ({"effect": "error", "error": "FORBIDDEN", "retry_after": "1\r\nx: y"}, "one line of Latin-1"),
        ({"effect": "error", "error": "FORBIDDEN", "retry_after": "\u20ac"}, "one line of Latin-1"),
        ({"effect": "redirect", "location": "https://evil.example/\n"}, "one line of Latin-1"),
        ({"effect": "redirect", "location": "https://\u20ac.example/"}, "one line of Latin-1"),
        ({"effect": "drop", "name": "a/b"}, "without a slash"),
        ({"effect": "drop", "name": "a\nb"}, "one line"),
    ],
)
def test_invalid_rule_is_refused_with_a_reason(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fault(**rule)


def test_every_effect_has_a_description() -> None:
    assert set(get_args(Effect)) == set(EFFECTS)


def test_gateway_errors_apply_before_the_rate_limit() -> None:
    assert Fault(effect="error", error="SERVICE_UNAVAILABLE").in_front
    assert Fault(effect="error", error="throttled").in_front
    assert not Fault(effect="error", error="TOO_MANY_REQUESTS").in_front
    assert not Fault(effect="lost_error", error="GATEWAY_TIMEOUT").in_front
    assert CATALOGUE["TOO_MANY_REQUESTS"].type == Fault(effect="error", error="throttled").reply.type
