"""The action for each catalogue error in every load operator and mode, and its agreement with the printed table."""

from __future__ import annotations

import pytest

from crm_provider.errors import CrmError, CrmThrottledError, CrmTooManyRequestsError
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS, ErrorPolicy
from crm_provider.errors.policy_table import explain
from crm_provider.load.row_results import OF_NO_ROW, SENDS_OF_A_ROW, RowAction, decide_row, decide_run, is_retryable

ACTIONS = {
    # the last column of the table in section 4 of the design
    "MISSING_BODY": RowAction.REJECT,
    "INVALID_PARAMS": RowAction.REJECT,
    "INVALID_REQUEST": RowAction.REJECT,
    "INVALID_INPUT": RowAction.REJECT,
    "INVALID_VALUE": RowAction.REJECT,
    "UNKNOWN_ROUTE": RowAction.REJECT,
    "FORBIDDEN": RowAction.STOP,
    "UNAUTHORIZED": RowAction.STOP,
    "TLS": RowAction.STOP,
    "CONFIGURATION": RowAction.STOP,
    "CONTACT_NOT_FOUND": RowAction.REJECT,
    "DEAL_NOT_FOUND": RowAction.REJECT,
    "SEGMENTATION_LIST_NOT_FOUND": RowAction.STOP,
    "PIPELINE_NOT_FOUND": RowAction.STOP,
    "STAGE_NOT_FOUND": RowAction.STOP,
    "CONTACT_ALREADY_EXISTS": RowAction.REJECT,
    "CONTACT_ASSOCIATED_WITH_A_DEAL": RowAction.REJECT,
    "TOO_MANY_REQUESTS": RowAction.RESEND,
    "LIMIT_EXCEEDED": RowAction.STOP,
    "INTERNAL_SERVER_ERROR": RowAction.HOLD,
    "BAD_GATEWAY": RowAction.HOLD,
    "SERVICE_UNAVAILABLE": RowAction.HOLD,
    "GATEWAY_TIMEOUT": RowAction.HOLD,
    "CONNECTION": RowAction.HOLD,
    "TIMEOUT": RowAction.HOLD,
    "PROTOCOL": RowAction.STOP,
}

DEALS = ("CrmLoadDealsOperator", "SqlToCrmDealsOperator")

CONTACTS = ("CrmLoadContactsOperator", "SqlToCrmContactsOperator", "CrmRetryRejectsOperator")

DIFFERENT = {
    **{(f"{load}(mode='create')", "CONTACT_ALREADY_EXISTS"): RowAction.UNCHANGED for load in CONTACTS},
    **{(f"{load}(mode='create')", "CONTACT_ASSOCIATED_WITH_A_DEAL"): RowAction.UNCHANGED for load in DEALS},
    # the next row may name another stage: it is a column of the source
    **{
        (f"{load}{mode}", type_): RowAction.REJECT
        for load in DEALS
        for mode in ("", "(mode='move')", "(mode='update')", "(mode='create')")
        for type_ in ("STAGE_NOT_FOUND", "PIPELINE_NOT_FOUND")
    },
    ("CrmDeleteContactsOperator", "CONTACT_NOT_FOUND"): RowAction.UNCHANGED,
}
"""Differences of an operator from the column of all loads."""

LOADS = [name for name, work in OPERATORS.items() if work is Work.LOAD]
LOAD = ErrorPolicy(work=Work.LOAD)
CREATE = "CrmLoadContactsOperator(mode='create')"


def error_of(type_: str) -> CrmError:
    return CATALOGUE[type_].error("trouble")


def action_of(type_: str, policy: ErrorPolicy, *, sends: int = 1) -> RowAction:
    return decide_row(error_of(type_), policy, sends=sends).action


def test_action_table_names_every_error() -> None:
    assert set(ACTIONS) == set(CATALOGUE)


@pytest.mark.parametrize("operator", [None, *LOADS])
@pytest.mark.parametrize("type_", CATALOGUE)
def test_default_action_of_each_error(type_: str, operator: str | None) -> None:
    expected = DIFFERENT.get((operator or "", type_), ACTIONS[type_])
    assert action_of(type_, ErrorPolicy(work=Work.LOAD, operator=operator)) is expected


@pytest.mark.parametrize(
    ("on_error", "action", "origin"),
    [
        ({}, RowAction.STOP, "the stage is a constant of the mapping"),
        ({"STAGE_NOT_FOUND": "reject"}, RowAction.REJECT, "on_error[STAGE_NOT_FOUND]"),
    ],
)
def test_error_of_a_constant_value_ends_the_run(on_error: dict[str, str], action: RowAction, origin: str) -> None:
    policy = ErrorPolicy(on_error, work=Work.LOAD, operator="CrmLoadDealsOperator")
    why = "the stage is a constant of the mapping"
    decided = decide_row(error_of("STAGE_NOT_FOUND"), policy, sends=1, of_the_run=why)
    assert (decided.action, decided.decision.origin) == (action, origin)


# -- the printed table --------------------------------------------------------------------------------------

PRINTED = {
    # text of the table -> action for the first, second, and third attempt of a row, after a short delay
    "count the row as unchanged": [RowAction.UNCHANGED] * 3,
    "count the row as skipped": [RowAction.SKIP] * 3,
    "reject the row": [RowAction.REJECT] * 3,
    "reject the row; if it is a constant of the mapping: end the run": [RowAction.REJECT] * 3,
    "reject the row as retryable; errors_in_a_row in a row: end the run": [RowAction.HOLD] * 3,
    "send the row again, 3 times in all, then reject it": [RowAction.RESEND, RowAction.RESEND, RowAction.REJECT],
    "send the row again; a wait of 60 s or more, or errors_in_a_row in a row: end the run": [RowAction.RESEND] * 3,
    "end the run": [RowAction.STOP] * 3,
}

ON_ERROR: list[dict[str, str]] = [
    {},
    {"CONTACT_ALREADY_EXISTS": "reject", "CrmTransientError": "reject", "CONTACT_NOT_FOUND": "retry"},
    {"CrmConflictError": "retry", "CrmTransientError": "fail", "CrmDataError": "skip", "CrmThrottledError": "skip"},
    {"CrmConflictError": "fail", "CrmNotFoundError": "skip", "CrmAccessError": "retry", "CrmThrottledError": "fail"},
]


@pytest.mark.parametrize("operator", LOADS)
@pytest.mark.parametrize("on_error", ON_ERROR, ids=range(len(ON_ERROR)))
@pytest.mark.parametrize("place", ["on_error", "site"])
def test_load_follows_the_printed_table(operator: str, on_error: dict[str, str], place: str) -> None:
    policy = ErrorPolicy(work=Work.LOAD, operator=operator, **{place: on_error})  # type: ignore[arg-type]
    for line in explain(policy):
        error = error_of(line.type)
        if isinstance(error, CrmThrottledError):
            error.retry_after = 1.0
        decided = [decide_row(error, policy, sends=n) for n in (1, 2, 3)]
        assert [one.action for one in decided] == PRINTED[line.effect], line.type
        assert {one.decision.origin for one in decided} == {line.origin}
        assert {one.decision.action.value for one in decided} == {line.action}


def test_cases_above_cover_every_effect() -> None:
    met = {
        line.effect
        for operator in LOADS
        for on_error in ON_ERROR
        for line in explain(ErrorPolicy(on_error, work=Work.LOAD, operator=operator))
    }
    assert met == set(PRINTED)


# -- beyond the table ----------------------------------------------------------------------------------------


def test_create_only_counts_an_existing_contact_as_unchanged_unless_on_error_differs() -> None:
    for action, expected in {"skip": RowAction.SKIP, "reject": RowAction.REJECT, "fail": RowAction.STOP}.items():
        policy = ErrorPolicy({"CONTACT_ALREADY_EXISTS": action}, work=Work.LOAD, operator=CREATE)
        assert action_of("CONTACT_ALREADY_EXISTS", policy) is expected


@pytest.mark.parametrize(
    ("seconds", "action"),
    [(None, RowAction.RESEND), (1, RowAction.RESEND), (59, RowAction.RESEND), (60, RowAction.STOP)],
)
def test_long_wait_ends_the_run(seconds: float | None, action: RowAction) -> None:
    error = CrmTooManyRequestsError("slow down", status=429, retry_after=seconds)
    assert decide_row(error, LOAD, sends=1).action is action


def test_row_with_a_retried_error_is_sent_a_few_times_then_rejected() -> None:
    policy = ErrorPolicy({"CONTACT_NOT_FOUND": "retry"}, work=Work.LOAD)
    actions = [action_of("CONTACT_NOT_FOUND", policy, sends=n) for n in range(1, SENDS_OF_A_ROW + 1)]
    assert actions == [RowAction.RESEND] * (SENDS_OF_A_ROW - 1) + [RowAction.REJECT]
    assert SENDS_OF_A_ROW == 3, "the printed table must agree"


def test_errors_that_may_succeed_later() -> None:
    later = {type_ for type_ in CATALOGUE if is_retryable(error_of(type_))}
    held = {type_ for type_, action in ACTIONS.items() if action is RowAction.HOLD}
    assert later == held | {"TOO_MANY_REQUESTS", "LIMIT_EXCEEDED"}


# -- calls that belong to no row ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "on_error", "action", "origin"),
    [
        ("FORBIDDEN", {}, "fail", "default[CrmAccessError]"),
        ("SERVICE_UNAVAILABLE", {}, "retry", "default[CrmTransientError]"),
        ("SERVICE_UNAVAILABLE", {"CrmTransientError": "fail"}, "fail", "on_error[CrmTransientError]"),
        ("SERVICE_UNAVAILABLE", {"CrmTransientError": "skip"}, "retry", OF_NO_ROW),
        ("SERVICE_UNAVAILABLE", {"CrmTransientError": "reject"}, "retry", OF_NO_ROW),
        ("TOO_MANY_REQUESTS", {"CrmThrottledError": "skip"}, "retry", OF_NO_ROW),
        ("INVALID_INPUT", {}, "fail", OF_NO_ROW),
        ("CONTACT_NOT_FOUND", {"CONTACT_NOT_FOUND": "skip"}, "fail", OF_NO_ROW),
        ("CONTACT_NOT_FOUND", {"CONTACT_NOT_FOUND": "retry"}, "retry", "on_error[CONTACT_NOT_FOUND]"),
    ],
)
def test_skip_and_reject_apply_to_rows_only(type_: str, on_error: dict[str, str], action: str, origin: str) -> None:
    decision = decide_run(error_of(type_), ErrorPolicy(on_error, work=Work.LOAD))
    assert (decision.action.value, decision.origin) == (action, origin)
