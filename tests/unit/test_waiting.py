"""What a waiting sensor decides after each check."""

from __future__ import annotations

import pytest

from crm_provider import errors as e
from crm_provider.catalogue import CATALOGUE
from crm_provider.policy import Action, ErrorPolicy, Work
from crm_provider.waiting import MAX_ERRORS_IN_A_ROW, QUOTA_DELAY, Waiting, server_delay

from .reference import OUTCOMES, TYPES

SENSOR = ErrorPolicy(work=Work.SENSOR)
NOW = 1_700_000_000.0

BROKEN = e.CrmInternalServerError("An unexpected error occurred.", status=500)
THROTTLED = e.CrmTooManyRequestsError("Too many requests.", status=429)
ABSENT = e.CrmContactNotFoundError("Contact not found.", status=404)


@pytest.mark.parametrize("type_", TYPES)
def test_first_error_is_decided_by_policy(type_: str) -> None:
    decision = Waiting().met(CATALOGUE[type_].error("x"), SENSOR, NOW)
    assert decision == SENSOR.decide(CATALOGUE[type_].error)
    assert decision.action.value == OUTCOMES[type_][1]


@pytest.mark.parametrize("limit", [0, 1, MAX_ERRORS_IN_A_ROW])
def test_so_many_server_errors_in_a_row_are_waited_through(limit: int) -> None:
    waiting = Waiting(limit=limit)
    for _ in range(limit):
        assert waiting.met(BROKEN, SENSOR, NOW).action is Action.WAIT
    end = waiting.met(BROKEN, SENSOR, NOW)
    assert (end.action, end.origin) == (Action.RETRY, f"max_errors_in_a_row={limit}")


def test_a_proper_answer_starts_the_count_anew() -> None:
    waiting = Waiting(limit=1)
    for _ in range(5):
        assert waiting.met(BROKEN, SENSOR, NOW).action is Action.WAIT
        waiting.answered()
    assert waiting.errors_in_a_row == 0


@pytest.mark.parametrize(
    ("between", "expected"),
    [(ABSENT, Action.WAIT), (THROTTLED, Action.RETRY)],
    ids=["not found: the server works again", "throttled: says nothing about the server"],
)
def test_an_error_between_two_server_errors(between: e.CrmError, expected: Action) -> None:
    waiting = Waiting(limit=1)
    waiting.met(BROKEN, SENSOR, NOW)
    assert waiting.met(between, SENSOR, NOW).action is Action.WAIT
    assert waiting.met(BROKEN, SENSOR, NOW).action is expected


def test_throttling_alone_never_ends_a_wait() -> None:
    waiting = Waiting(limit=1)
    assert {waiting.met(THROTTLED, SENSOR, NOW).action for _ in range(100)} == {Action.WAIT}


def test_the_server_says_when_to_come_back() -> None:
    waiting = Waiting()
    waiting.met(e.CrmTooManyRequestsError("x", retry_after=90.0), SENSOR, NOW)
    assert waiting.not_before == NOW + 90


def test_an_error_that_ends_the_wait_leaves_the_memory_alone() -> None:
    waiting = Waiting()
    waiting.met(BROKEN, SENSOR, NOW)
    assert waiting.met(e.CrmForbiddenError("x", retry_after=90.0), SENSOR, NOW).action is Action.FAIL
    assert waiting == Waiting(errors_in_a_row=1, last_answer=str(BROKEN))


@pytest.mark.parametrize("action", ["skip", "fail", "retry"])
def test_policy_may_end_the_wait_on_the_first_error(action: str) -> None:
    decision = Waiting().met(BROKEN, ErrorPolicy({"CrmTransientError": action}, work=Work.SENSOR), NOW)
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
    ids=["quota", "quota, told", "told: at once", "throttled", "broken"],
)
def test_when_to_come_back(error: e.CrmError, delay: float | None) -> None:
    assert server_delay(error) == delay
    waiting = Waiting()
    waiting.met(error, SENSOR, NOW)
    assert waiting.not_before == (0.0 if delay is None else NOW + delay)
