"""The decision of a waiting sensor after each check."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import QUOTA_DELAY, ErrorPolicy, server_delay
from crm_provider.waiting.backoff import LONGEST_BACK_OFF, MAX_ERRORS_IN_A_ROW, WaitState, back_off, to_steady, to_wall

from .reference import OUTCOMES, TYPES

SENSOR = ErrorPolicy(work=Work.SENSOR)
NOW = 1_700_000_000.0

BROKEN = e.CrmInternalServerError("An unexpected error occurred.", status=500)
THROTTLED = e.CrmTooManyRequestsError("Too many requests.", status=429)
ABSENT = e.CrmContactNotFoundError("Contact not found.", status=404)


@pytest.mark.parametrize("type_", TYPES)
def test_first_error_is_decided_by_policy(type_: str) -> None:
    decision = WaitState().record_error(CATALOGUE[type_].error("x"), SENSOR, NOW, interval=60.0)
    assert decision == SENSOR.decide(CATALOGUE[type_].error)
    assert decision.action.value == OUTCOMES[type_][1]


@pytest.mark.parametrize("limit", [0, 1, MAX_ERRORS_IN_A_ROW])
def test_limited_number_of_server_errors_in_a_row_is_tolerated(limit: int) -> None:
    waiting = WaitState(limit=limit)
    for _ in range(limit):
        assert waiting.record_error(BROKEN, SENSOR, NOW, interval=60.0).action is Action.WAIT
    end = waiting.record_error(BROKEN, SENSOR, NOW, interval=60.0)
    assert (end.action, end.origin) == (Action.RETRY, f"max_errors_in_a_row={limit}")


def test_valid_response_resets_the_count() -> None:
    waiting = WaitState(limit=1)
    for _ in range(5):
        assert waiting.record_error(BROKEN, SENSOR, NOW, interval=60.0).action is Action.WAIT
        waiting.record_result()
    assert waiting.errors_in_a_row == 0


@pytest.mark.parametrize(
    ("between", "expected"),
    [(ABSENT, Action.WAIT), (THROTTLED, Action.RETRY)],
    ids=["not found: the server works again", "throttled: says nothing about the server"],
)
def test_error_between_two_server_errors(between: e.CrmError, expected: Action) -> None:
    waiting = WaitState(limit=1)
    waiting.record_error(BROKEN, SENSOR, NOW, interval=60.0)
    assert waiting.record_error(between, SENSOR, NOW, interval=60.0).action is Action.WAIT
    assert waiting.record_error(BROKEN, SENSOR, NOW, interval=60.0).action is expected


def test_throttling_alone_never_ends_a_wait() -> None:
    waiting = WaitState(limit=1)
    assert {waiting.record_error(THROTTLED, SENSOR, NOW, interval=60.0).action for _ in range(100)} == {Action.WAIT}


def test_error_that_ends_the_wait_leaves_the_state_unchanged() -> None:
    waiting = WaitState()
    waiting.record_error(BROKEN, SENSOR, NOW, interval=60.0)
    assert (
        waiting.record_error(e.CrmForbiddenError("x", retry_after=90.0), SENSOR, NOW, interval=60.0).action
        is Action.FAIL
    )
    assert waiting == WaitState(errors_in_a_row=1, failed_in_a_row=1, last_result=BROKEN.happened)


@pytest.mark.parametrize("action", ["skip", "fail", "retry"])
def test_policy_may_end_the_wait_on_the_first_error(action: str) -> None:
    decision = WaitState().record_error(
        BROKEN, ErrorPolicy({"CrmTransientError": action}, work=Work.SENSOR), NOW, interval=60.0
    )
    assert (decision.action.value, decision.origin) == (action, "on_error[CrmTransientError]")


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (e.CrmLimitExceededError("x"), QUOTA_DELAY),
        (e.CrmLimitExceededError("x", retry_after=60.0), 60.0),
        (e.CrmInternalServerError("x", retry_after=0.0), 0.0),
        (THROTTLED, None),
        (BROKEN, None),
    ],
    ids=["quota", "quota, delay", "delay: none", "throttled", "broken"],
)
def test_time_of_the_next_check(error: e.CrmError, delay: float | None) -> None:
    assert server_delay(error) == delay
    waiting = WaitState()
    waiting.record_error(error, SENSOR, NOW, interval=60.0)
    assert waiting.not_before == (0.0 if delay is None else NOW + delay)


# -- failures in a row --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "delays"),
    [(60.0, [60, 120, 240, 300, 300]), (1.0, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]), (3600.0, [3600, 3600])],
)
def test_each_failed_check_doubles_the_delay(interval: float, delays: list[float]) -> None:
    found = [back_off(n + 1, interval=interval, jitter=1.0) for n in range(len(delays))]
    assert found == delays


@given(st.integers(1, 10_000), st.floats(0.001, 1e6), st.floats(0, 1))
def test_back_off_is_between_the_interval_and_its_maximum(failed: int, interval: float, jitter: float) -> None:
    assert interval <= back_off(failed, interval=interval, jitter=jitter) <= max(interval, LONGEST_BACK_OFF)


def test_jitter_removes_up_to_half() -> None:
    assert back_off(4, interval=60.0, jitter=0.0) == 0.5 * back_off(4, interval=60.0, jitter=1.0)


@pytest.mark.parametrize("error", [BROKEN, THROTTLED], ids=["broken", "throttled"])
def test_failures_in_a_row_space_out_the_checks_until_a_response(error: e.CrmError) -> None:
    waiting = WaitState(limit=100)

    def delays(count: int) -> list[float]:
        found = []
        for _ in range(count):
            waiting.record_error(error, SENSOR, NOW, interval=60.0)
            found.append(max(waiting.not_before - NOW, 0.0))
        return found

    assert delays(5) == [0.0, 120.0, 240.0, 300.0, 300.0], "the first failure: the interval is enough"
    waiting.record_result()
    assert delays(2) == [0.0, 120.0]
    waiting.record_error(ABSENT, SENSOR, NOW, interval=60.0)
    assert delays(2) == [0.0, 120.0], "not found is a response"


def test_throttled_and_failed_checks_are_counted_together() -> None:
    waiting = WaitState()
    for error in (BROKEN, THROTTLED, BROKEN):
        waiting.record_error(error, SENSOR, NOW, interval=60.0)
    assert (waiting.failed_in_a_row, waiting.errors_in_a_row, waiting.not_before) == (3, 2, NOW + 240)


def test_servers_delay_takes_precedence_over_the_back_off() -> None:
    waiting = WaitState(failed_in_a_row=5)
    waiting.record_error(e.CrmTooManyRequestsError("x", retry_after=7.0), SENSOR, NOW, interval=60.0)
    assert waiting.not_before == NOW + 7


def test_timeout_message_describes_the_last_check() -> None:
    waiting = WaitState()
    assert waiting.last_result == "none yet."
    waiting.record_error(BROKEN, SENSOR, NOW, interval=60.0)
    assert waiting.last_result == "INTERNAL_SERVER_ERROR (500): An unexpected error occurred."
    waiting.record_error(e.CrmDealNotFoundError("gone", status=404, request_id="r-1"), SENSOR, NOW, interval=60.0)
    assert waiting.last_result == "DEAL_NOT_FOUND (404): gone. Request id: r-1.", "without advice: it waits"
    waiting.record_result()
    assert waiting.last_result == "not yet."
    waiting.record_error(e.CrmForbiddenError("no", status=403), SENSOR, NOW, interval=60.0)
    assert waiting.last_result == "not yet.", "the error that ends the wait is reported itself"
    waiting.record_result("the deal is in another stage")
    assert waiting.last_result == "not yet: the deal is in another stage."


def test_steady_time_is_shared_as_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crm_provider.waiting.backoff.time", SimpleNamespace(time=lambda: NOW, monotonic=lambda: 50.0))
    assert to_wall(60.0) == NOW + 10.0
    assert to_steady(NOW + 10.0) == 60.0
