"""One call: which attempts are repeated and when, how a lost POST is verified, and the text of the final error."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.client.request import Call
from crm_provider.client.responses import CrmResponse
from crm_provider.client.retry import ONE_TRY, RetryBudget, RetryLoop, VerifyWrite
from crm_provider.errors.catalog import CATALOGUE

from .fakes import Bench, FakeRateLimiter, Step, bench, data, error, logged, lost, refused
from .reference import REPEATED, TYPES

GET = Call(method="GET", route="/contacts/{email}", path_params={"email": "ada@example.com"})
PUT = Call(method="PUT", route="/contacts/{email}", path_params={"email": "ada@example.com"}, body={"name": "Ada"})
DELETE = Call(
    method="DELETE",
    route="/contacts/{email}",
    path_params={"email": "ada@example.com"},
    success_errors=(e.CrmContactNotFoundError,),
)
POST = Call(
    method="POST",
    route="/contacts",
    body={"email": "ada@example.com"},
    success_errors=(e.CrmContactAlreadyExistsError,),
)
CALLS = {call.method: call for call in (GET, PUT, DELETE, POST)}

OK = data({"id": "c-1"})


def failed(made: Bench, call: Call, **options: Any) -> e.CrmError:
    """The final error of a call."""
    with pytest.raises(e.CrmError) as raised:
        made.send(call, **options)
    return raised.value


def always(step: Step) -> list[Step]:
    return [step] * 20


def raising(type_: str) -> Step:
    """A step that raises an error of a type. A write may have been processed if the type allows it."""

    def step(call: Call) -> CrmResponse:
        cls = CATALOGUE[type_].error
        unsure = call.is_write and issubclass(cls, (e.CrmTransientError, e.CrmProtocolError))
        raise cls("it broke", status=CATALOGUE[type_].status, outcome_known=not unsure)

    return step


# -- repeated attempts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("type_", TYPES)
def test_repeated_errors_by_method(type_: str, method: str) -> None:
    made = bench(*always(raising(type_)))
    remaining = failed(made, Call(method=method, route="/deals"))
    expected = 5 if method in REPEATED.get(type_, ()) else 1
    assert (len(made.http.calls), remaining.attempts) == (expected, expected)
    assert remaining.type == type_


@pytest.mark.parametrize("family", [e.CrmTransientError, e.CrmThrottledError, e.CrmProtocolError, e.CrmNotFoundError])
def test_unknown_type_is_repeated_like_its_family(family: type[e.CrmError]) -> None:
    def step(call: Call) -> CrmResponse:
        raise family("x", type="HTTP_599", status=599)

    made = bench(*always(step))
    failed(made, GET)
    assert len(made.http.calls) == (5 if family in (e.CrmTransientError, e.CrmThrottledError) else 1)


@pytest.mark.parametrize("method", [*CALLS, "PATCH"])
def test_refused_connection_is_retried_with_any_method(method: str) -> None:
    made = bench(refused, refused, OK)
    assert made.send(Call(method=method, route="/deals")) == {"id": "c-1"}


def test_patch_with_unknown_outcome_is_not_repeated() -> None:
    made = bench(lost)
    assert failed(made, Call(method="PATCH", route="/deals")).outcome_known is False


def test_success_after_errors_of_all_kinds() -> None:
    made = bench(error("TOO_MANY_REQUESTS"), lost, error("INTERNAL_SERVER_ERROR"), refused, OK)
    assert made.send(GET) == {"id": "c-1"}
    assert made.http.sent == ["GET /contacts/ada%40example.com"] * 5


def test_immediate_success_skips_the_retry_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryLoop, "_retrying", lambda loop: pytest.fail("the loop for further attempts was made"))
    assert bench(OK).send(GET) == {"id": "c-1"}


def test_bug_is_not_a_crm_error() -> None:
    def bug(call: Call) -> CrmResponse:
        raise ZeroDivisionError

    made = bench(bug)
    with pytest.raises(ZeroDivisionError):
        made.send(GET)


# -- delays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jitter", "delays"), [(0.0, [0.25, 0.5, 1.0, 2.0]), (1.0, [0.5, 1.0, 2.0, 4.0])])
def test_delays_double_with_jitter(jitter: float, delays: list[float]) -> None:
    made = bench(*always(lost), jitter=jitter)
    failed(made, GET)
    assert made.clock.slept == delays


def test_delays_are_bounded() -> None:
    made = bench(*always(lost), budget=RetryBudget(tries=8, seconds=999))
    failed(made, GET)
    assert made.clock.slept == [0.5, 1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize("type_", ["TOO_MANY_REQUESTS", "INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE"])
def test_servers_delay_is_respected(type_: str) -> None:
    made = bench(error(type_, **{"Retry-After": "7"}), OK)
    made.send(GET)
    assert made.clock.slept == [7.0 + 0.5]  # jitter: callers with the same Retry-After do not return at the same moment


def test_delay_longer_than_the_budget_ends_the_call_at_once() -> None:
    made = bench(error("TOO_MANY_REQUESTS", **{"Retry-After": "61"}))
    remaining = failed(made, GET)
    assert (remaining.retry_after, remaining.attempts, made.clock.slept) == (61.0, 1, [])


def test_used_up_quota_is_not_retried() -> None:
    made = bench(error("LIMIT_EXCEEDED"))
    assert isinstance(failed(made, GET), e.CrmLimitExceededError)


@given(
    seconds=st.floats(0.1, 100),
    tries=st.integers(1, 9),
    after=st.lists(st.integers(0, 40), min_size=9, max_size=9),
    jitter=st.floats(0, 1),
    each=st.floats(0, 20),
)
def test_time_budget_is_kept(seconds: float, tries: int, after: list[int], jitter: float, each: float) -> None:
    starts = []

    def slow(step: Step) -> Step:
        def wrapped(call: Call) -> CrmResponse:
            starts.append(made.clock.now)
            made.clock.now += each
            return step(call)

        return wrapped

    steps = [slow(error("TOO_MANY_REQUESTS", **({"Retry-After": str(n)} if n > 20 else {}))) for n in after]
    made = bench(*steps, budget=RetryBudget(tries=tries, seconds=seconds), jitter=jitter)
    remaining = failed(made, GET)
    assert remaining.attempts == len(starts) <= tries
    assert all(start - starts[0] <= seconds + 1e-6 for start in starts)
    assert remaining.elapsed == pytest.approx(made.clock.now - starts[0])


def test_single_attempt() -> None:
    made = bench(lost)
    assert failed(made, GET, budget=ONE_TRY).attempts == 1


# -- the final error -----------------------------------------------------------------------------------------


def test_original_error_says_how_often_and_how_long() -> None:
    made = bench(*always(error("INTERNAL_SERVER_ERROR")))
    remaining = failed(made, GET)
    assert isinstance(remaining, e.CrmInternalServerError)
    assert (remaining.status, remaining.request_id, remaining.attempts, remaining.elapsed) == (500, "req-1", 5, 7.5)
    assert "Tried 5 times in 7.5 s." in str(remaining)


def test_error_on_the_first_attempt_mentions_no_attempts() -> None:
    assert "Tried" not in str(failed(bench(error("DEAL_NOT_FOUND")), GET))


@pytest.mark.parametrize(
    ("steps", "known"),
    [
        ([error("INVALID_INPUT")], True),
        ([refused, error("INVALID_INPUT")], True),
        ([error("TOO_MANY_REQUESTS"), error("INVALID_INPUT")], True),
        ([lost, error("INVALID_INPUT")], False),
        ([lost, *[refused] * 4], False),
        ([error("INTERNAL_SERVER_ERROR"), error("FORBIDDEN")], False),
    ],
    ids=["refused value", "after no connection", "after throttling", "after a lost try", "lost, then no connection",
         "after a 500"],
)  # fmt: skip
def test_write_may_have_happened(steps: list[Step], known: bool) -> None:
    remaining = failed(bench(*steps), PUT)
    assert remaining.outcome_known is known
    assert ("The write may or may not have happened." in str(remaining)) is not known


def test_lost_read_has_no_unknown_outcome() -> None:
    assert failed(bench(*always(lost)), GET).outcome_known is True


# -- a lost DELETE -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [refused, error("TOO_MANY_REQUESTS")], ids=["no connection", "throttled"])
def test_not_found_after_an_unsent_delete_is_an_error(first: Step) -> None:
    assert isinstance(failed(bench(first, error("CONTACT_NOT_FOUND")), DELETE), e.CrmContactNotFoundError)


# -- a lost POST ---------------------------------------------------------------------------------------------


def finding(*found: Any) -> VerifyWrite:
    """A ``verify_write`` that returns these, one after the other. An exception is raised."""
    queue = list(found)

    def verify_write(first_sent: float) -> Any:
        assert queue, "verified once too often"
        result = queue.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return verify_write


UNREAD = e.CrmServiceUnavailableError("Service Unavailable", status=503)


@pytest.mark.parametrize("first", [refused, error("TOO_MANY_REQUESTS")], ids=["no connection", "throttled"])
def test_post_that_was_never_processed_needs_no_verification(first: Step) -> None:
    made = bench(first, OK)
    assert made.send(POST, verify_write=finding()) == {"id": "c-1"}


def test_conflict_after_throttling_is_an_error() -> None:
    made = bench(error("TOO_MANY_REQUESTS"), error("CONTACT_ALREADY_EXISTS"))
    assert isinstance(failed(made, POST, verify_write=finding()), e.CrmContactAlreadyExistsError)


def test_nothing_is_sent_while_verification_fails() -> None:
    made = bench(lost, OK)
    assert made.send(POST, verify_write=finding(UNREAD, UNREAD, None)) == {"id": "c-1"}
    assert len(made.http.calls) == 2


def test_failed_verification_raises_the_original_error() -> None:
    made = bench(lost)
    remaining = failed(made, POST, verify_write=finding(*[UNREAD] * 9))
    assert isinstance(remaining, e.CrmTimeoutError)
    assert remaining.outcome_known is False
    assert len(made.http.calls) == 1
    assert "Reading back whether it happened failed too: SERVICE_UNAVAILABLE." in str(remaining)


def test_refused_key_during_verification_ends_the_call_at_once() -> None:
    remaining = failed(bench(lost), POST, verify_write=finding(e.CrmForbiddenError("no", status=403)))
    assert isinstance(remaining, e.CrmForbiddenError)
    assert remaining.outcome_known is False


def test_repeatedly_lost_post_is_verified_each_time() -> None:
    made = bench(*always(lost))
    remaining = failed(made, POST, verify_write=finding(None, None, None, None))
    assert isinstance(remaining, e.CrmTimeoutError)
    assert remaining.outcome_known is False
    assert len(made.http.calls) == 5


def test_final_refusal_after_verification_is_certain() -> None:
    remaining = failed(bench(lost, error("INVALID_INPUT")), POST, verify_write=finding(None))
    assert isinstance(remaining, e.CrmInvalidInputError)
    assert "Tried 2 times" in str(remaining)


# -- the rate budget -----------------------------------------------------------------------------------------


def test_every_attempt_takes_a_slot_of_the_rate_budget() -> None:
    made = bench(lost, error("TOO_MANY_REQUESTS"), OK)
    made.send(GET)
    assert len(made.limiter.asked) == 3


def test_caller_waits_no_longer_for_a_slot_than_its_budget() -> None:
    made = bench(*always(lost))
    failed(made, GET)
    assert made.limiter.asked == [60.0, 59.5, 58.5, 56.5, 52.5]


def test_missing_slot_is_reported_and_nothing_is_sent() -> None:
    made = bench(limiter=FakeRateLimiter(away={0: 90.0}))
    remaining = failed(made, GET)
    assert isinstance(remaining, e.CrmTooManyRequestsError)
    assert (remaining.status, remaining.retry_after, made.http.calls, made.clock.slept) == (None, 90.0, [], [])
    assert "not sent: the next free slot of this key's rate budget is 90 s away." in str(remaining)
    assert remaining.outcome_known is True


def test_missing_slot_for_a_retry_raises_the_original_error() -> None:
    made = bench(error("INTERNAL_SERVER_ERROR"), limiter=FakeRateLimiter(away={1: 90.0}))
    remaining = failed(made, GET)
    assert isinstance(remaining, e.CrmInternalServerError), "design, section 4: the original typed error is raised"
    assert len(made.http.calls) == remaining.attempts == 1


def test_budget_spent_on_verification_raises_the_original_error() -> None:
    made = bench(lost, lost)

    def slow_verify(first_sent: float) -> None:
        made.clock.now += 100.0

    remaining = failed(made, POST, verify_write=slow_verify)
    assert isinstance(remaining, e.CrmTimeoutError)
    assert len(made.http.calls) == 2, "an unprocessed call is sent once more, however slow the verification"
    assert "0 s away" not in str(remaining)


@pytest.mark.parametrize(
    ("type_", "headers", "paused"),
    [
        ("TOO_MANY_REQUESTS", {"Retry-After": "3"}, [3.0]),
        ("TOO_MANY_REQUESTS", {}, [0.0]),
        ("LIMIT_EXCEEDED", {"Retry-After": "3600"}, [3600.0]),
        ("INTERNAL_SERVER_ERROR", {"Retry-After": "3"}, []),
        ("FORBIDDEN", {}, []),
    ],
)
def test_rate_refusal_pauses_the_other_callers(type_: str, headers: dict[str, str], paused: list[float]) -> None:
    made = bench(error(type_, **headers))
    failed(made, GET, budget=ONE_TRY)
    assert made.limiter.paused == paused


# -- paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "path"),
    [
        ("ada@example.com", "/contacts/ada%40example.com"),
        ("a+b/c%d#e?f@x.y", "/contacts/a%2Bb%2Fc%25d%23e%3Ff%40x.y"),
        ("../../deals@x", "/contacts/..%2F..%2Fdeals%40x"),
        ("jörg@x.y", "/contacts/j%C3%B6rg%40x.y"),
    ],
)
def test_path(email: str, path: str) -> None:
    assert Call(method="GET", route="/contacts/{email}", path_params={"email": email}).path == path


@pytest.mark.parametrize("part", ["", ".", "..", "a\nb"])
def test_value_that_would_change_the_path_is_refused(part: str) -> None:
    with pytest.raises(e.CrmInvalidValueError):
        assert Call(method="GET", route="/contacts/{email}", path_params={"email": part}).path


@pytest.mark.parametrize(
    ("route", "parts", "shown"),
    [
        ("/contacts/{email}", {"email": "ada@example.com"}, "/contacts/{email}"),
        ("/deals/{deal_id}", {"deal_id": "d-1"}, "/deals/d-1"),
        ("/w/{webhookId}/{channelUid}", {"webhookId": "1", "channelUid": "2"}, "/w/{webhookId}/{channelUid}"),
    ],
)  # fmt: skip
def test_shown_path(route: str, parts: dict[str, str], shown: str) -> None:
    assert Call(method="GET", route=route, path_params=parts).log_path == shown


@pytest.mark.parametrize("name", ["contact", "address", "email_address", "who"])
def test_email_in_any_parameter_is_not_shown(name: str) -> None:
    call = Call(method="GET", route=f"/contacts/{{{name}}}/notes", path_params={name: "ada@example.com"})
    assert "ada" not in call.log_path


def test_values_to_redact() -> None:
    call = Call(
        method="POST",
        route="/x/{email}/{deal_id}",
        path_params={"email": "a b@c", "deal_id": "d-1"},
        query={"filter": "queried"},
        body={"name": "Ada", "n": [7, {"deep": 1.5}], "none": None, "flag": True},
    )
    assert {"a b@c", "a%20b%40c", "Ada", "7", "1.5", "queried"} <= set(call.sensitive_values)
    assert not {"None", "True", "name", "d-1"} & set(call.sensitive_values)


def test_logged_lines_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench(error("TOO_MANY_REQUESTS"), OK).send(GET)
    assert [record.getMessage() for record in logged(caplog)] == [
        "GET /contacts/{email} -> 429 in 0.000 s, waited 0.000 s for the rate budget",
        "TOO_MANY_REQUESTS on GET /contacts/{email}: attempt 1 of 5, next in 0.5 s",
        "GET /contacts/{email} -> 200 in 0.000 s, waited 0.000 s for the rate budget",
    ]
