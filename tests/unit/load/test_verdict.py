"""Each error of the catalogue -> what happens to the row: design section 4's last column, written out."""

from __future__ import annotations

import pytest

from crm_provider.catalogue import CATALOGUE
from crm_provider.errors import CrmTooManyRequestsError
from crm_provider.load.verdict import SENDS_OF_A_ROW, Step, is_retryable, judge, judge_run
from crm_provider.policy import ErrorPolicy, Work

STEPS = {
    "MISSING_BODY": Step.REJECT,
    "INVALID_PARAMS": Step.REJECT,
    "INVALID_REQUEST": Step.REJECT,
    "INVALID_INPUT": Step.REJECT,
    "INVALID_VALUE": Step.REJECT,
    "UNKNOWN_ROUTE": Step.REJECT,
    "FORBIDDEN": Step.STOP,
    "UNAUTHORIZED": Step.STOP,
    "TLS": Step.STOP,
    "CONFIGURATION": Step.STOP,
    "CONTACT_NOT_FOUND": Step.REJECT,
    "DEAL_NOT_FOUND": Step.REJECT,
    "SEGMENTATION_LIST_NOT_FOUND": Step.STOP,
    "PIPELINE_NOT_FOUND": Step.STOP,
    "STAGE_NOT_FOUND": Step.STOP,
    "CONTACT_ALREADY_EXISTS": Step.REJECT,
    "CONTACT_ASSOCIATED_WITH_A_DEAL": Step.REJECT,
    "TOO_MANY_REQUESTS": Step.AGAIN,
    "LIMIT_EXCEEDED": Step.STOP,
    "INTERNAL_SERVER_ERROR": Step.HOLD,
    "BAD_GATEWAY": Step.HOLD,
    "SERVICE_UNAVAILABLE": Step.HOLD,
    "GATEWAY_TIMEOUT": Step.HOLD,
    "CONNECTION": Step.HOLD,
    "TIMEOUT": Step.HOLD,
    "PROTOCOL": Step.STOP,
}

LOAD = ErrorPolicy(work=Work.LOAD)


def test_the_table_names_every_error() -> None:
    assert set(STEPS) == set(CATALOGUE)


@pytest.mark.parametrize("type_", CATALOGUE)
def test_by_default(type_: str) -> None:
    assert judge(CATALOGUE[type_].error("trouble"), LOAD, mode="upsert", sends=1).step is STEPS[type_]


def test_create_only_counts_an_existing_contact_as_unchanged_unless_told_otherwise() -> None:
    error = CATALOGUE["CONTACT_ALREADY_EXISTS"].error("exists")
    assert judge(error, LOAD, mode="create", sends=1).step is Step.UNCHANGED
    for action, step in {"skip": Step.SKIP, "reject": Step.REJECT, "fail": Step.STOP}.items():
        policy = ErrorPolicy({"CONTACT_ALREADY_EXISTS": action}, work=Work.LOAD)
        assert judge(error, policy, mode="create", sends=1).step is step


@pytest.mark.parametrize(("seconds", "step"), [(None, Step.AGAIN), (1, Step.AGAIN), (59, Step.AGAIN), (60, Step.STOP)])
def test_a_long_wait_is_not_sat_out(seconds: float | None, step: Step) -> None:
    error = CrmTooManyRequestsError("slow down", status=429, retry_after=seconds)
    assert judge(error, LOAD, mode="upsert", sends=1).step is step


def test_a_row_whose_error_is_to_be_retried_is_sent_a_few_times_and_then_rejected() -> None:
    policy = ErrorPolicy({"CONTACT_NOT_FOUND": "retry"}, work=Work.LOAD)
    error = CATALOGUE["CONTACT_NOT_FOUND"].error("gone")
    steps = [judge(error, policy, mode="update", sends=n).step for n in range(1, SENDS_OF_A_ROW + 1)]
    assert steps == [Step.AGAIN] * (SENDS_OF_A_ROW - 1) + [Step.REJECT]


def test_a_user_may_end_the_run_on_a_server_error_or_skip_its_row() -> None:
    error = CATALOGUE["SERVICE_UNAVAILABLE"].error("down")
    for action, step in {"fail": Step.STOP, "skip": Step.SKIP, "reject": Step.HOLD}.items():
        policy = ErrorPolicy({"CrmTransientError": action}, work=Work.LOAD)
        assert judge(error, policy, mode="upsert", sends=1).step is step


def test_what_may_succeed_later() -> None:
    later = {type_ for type_, spec in CATALOGUE.items() if is_retryable(spec.error("x"))}
    assert later == {t for t, s in STEPS.items() if s is Step.HOLD} | {"TOO_MANY_REQUESTS", "LIMIT_EXCEEDED"}


# -- calls that are no row's --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "on_error", "action", "origin"),
    [
        ("FORBIDDEN", {}, "fail", "default[CrmAccessError]"),
        ("SERVICE_UNAVAILABLE", {}, "retry", "default[CrmTransientError]"),
        ("SERVICE_UNAVAILABLE", {"CrmTransientError": "fail"}, "fail", "on_error[CrmTransientError]"),
        ("SERVICE_UNAVAILABLE", {"CrmTransientError": "skip"}, "retry", "a call for the whole load"),
        ("SERVICE_UNAVAILABLE", {"CrmTransientError": "reject"}, "retry", "a call for the whole load"),
        ("TOO_MANY_REQUESTS", {"CrmThrottledError": "skip"}, "retry", "a call for the whole load"),
        ("INVALID_INPUT", {}, "fail", "a call for the whole load"),
        ("CONTACT_NOT_FOUND", {"CONTACT_NOT_FOUND": "skip"}, "fail", "a call for the whole load"),
        ("CONTACT_NOT_FOUND", {"CONTACT_NOT_FOUND": "retry"}, "retry", "on_error[CONTACT_NOT_FOUND]"),
    ],
)
def test_skip_and_reject_are_for_rows(type_: str, on_error: dict[str, str], action: str, origin: str) -> None:
    decision = judge_run(CATALOGUE[type_].error("trouble"), ErrorPolicy(on_error, work=Work.LOAD))
    assert (decision.action.value, decision.origin) == (action, origin)
