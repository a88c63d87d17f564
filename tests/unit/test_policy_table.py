"""The printed table shows the effects that apply to each operator and mode, and no others."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider._compat import AirflowFailException, AirflowRescheduleException, AirflowSkipException
from crm_provider.errors import ERROR_CLASSES
from crm_provider.errors.catalog import CATALOGUE
from crm_provider.errors.on_error import Action, Work
from crm_provider.errors.policy import OPERATORS, DecidedBy, ErrorPolicy
from crm_provider.errors.policy_table import CALL_NOTES, REPEATS, PolicyLine, explain
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator, CrmVerifyEmailOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator, CrmExtractDealsOperator, CrmExtractListsOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.operators.load import (
    CrmDeleteContactsOperator,
    CrmLoadContactsOperator,
    CrmLoadDealsOperator,
    CrmRetryRejectsOperator,
)
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.tasks import outcome
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator, SqlToCrmDealsOperator
from crm_provider.waiting.backoff import WaitState

from .reference import OUTCOMES, REPEATED, TYPES

TASKS = [name for name, work in OPERATORS.items() if work is Work.TASK]
SENSORS = [name for name, work in OPERATORS.items() if work is Work.SENSOR]


def table(operator: str | None, on_error: dict[str, str] | None = None) -> dict[str, PolicyLine]:
    work = OPERATORS[operator] if operator else Work.TASK
    return {line.type: line for line in explain(ErrorPolicy(on_error or {}, work=work, operator=operator))}


@pytest.mark.parametrize("operator", [None, *OPERATORS])
def test_one_line_for_each_type(operator: str | None) -> None:
    work = OPERATORS[operator] if operator else Work.TASK
    policy = ErrorPolicy({"CrmTransientError": "fail", "DEAL_NOT_FOUND": "skip"}, work=work, operator=operator)
    lines = explain(policy)
    assert [line.type for line in lines] == list(CATALOGUE)
    for line in lines:
        decision = policy.decide(ERROR_CLASSES[line.error])
        assert (line.action, line.decided_by, line.origin) == (
            decision.action.value,
            decision.decided_by,
            decision.origin,
        )
        assert (line.error, line.status) == (TYPES[line.type], CATALOGUE[line.type].status)
        assert line.advice == CATALOGUE[line.type].advice


# -- tasks and sensors follow the table ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CrmLoadContactsOperator", "CrmRetryRejectsOperator", "SqlToCrmContactsOperator"])
def test_create_only_load_counts_an_existing_record_as_unchanged_unless_on_error_differs(name: str) -> None:
    name = f"{name}(mode='create')"
    line = table(name)["CONTACT_ALREADY_EXISTS"]
    assert (line.action, line.effect) == ("unchanged", "count the row as unchanged")
    assert (line.decided_by, line.origin) == (DecidedBy.OPERATOR, f"{name}[CONTACT_ALREADY_EXISTS]")
    line = table(name, {"CrmConflictError": "reject"})["CONTACT_ALREADY_EXISTS"]
    assert (line.action, line.effect, line.origin) == ("reject", "reject the row", "on_error[CrmConflictError]")


class TaskInstance:
    """On its first try of three."""

    try_number, max_tries = 1, 2

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return None

    def xcom_push(self, *, key: str, value: Any) -> None:
        """Stores nothing."""


def ended(error: e.CrmError, policy: ErrorPolicy) -> type[BaseException]:
    """The result in Airflow of a task without a retry policy."""
    context: Any = {"ti": TaskInstance(), "task": SimpleNamespace()}
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - Airflow's exceptions have no common base
        outcome.raise_for_decision(error, policy.decide(error), context)
    return e.CrmError if caught.value is error else type(caught.value)


RETRY = e.CrmError
"""The typed error itself: Airflow's retries apply."""

THROTTLED = "retry after the server's delay; 60 s or more: reschedule, keep the try"

TASK_ENDS = {
    "retry, if the task has tries left": RETRY,
    "skip the task": AirflowSkipException,
    "fail the task, no further try": AirflowFailException,
    "fail the task, no further try; if the call was certainly not carried out: retry": AirflowFailException,
}

TASK_LINES: list[dict[str, str]] = [
    {},
    {"CrmNotFoundError": "retry", "CrmTransientError": "skip", "CrmThrottledError": "fail"},
    {"CrmDataError": "skip", "CrmAccessError": "retry", "CrmThrottledError": "skip"},
]


@pytest.mark.parametrize("operator", TASKS)
@pytest.mark.parametrize("on_error", TASK_LINES, ids=range(len(TASK_LINES)))
def test_task_ends_as_the_table_prints(operator: str, on_error: dict[str, str]) -> None:
    policy = ErrorPolicy(on_error, operator=operator)
    for line in explain(policy):
        cls = ERROR_CLASSES[line.error]
        if line.effect == THROTTLED:
            assert ended(cls("x", retry_after=59.0), policy) is RETRY
            assert ended(cls("x", retry_after=60.0), policy) is AirflowRescheduleException
        else:
            assert ended(cls("x", outcome_known=False), policy) is TASK_ENDS[line.effect], line.type


def test_automation_that_certainly_did_not_start_is_retried() -> None:
    name = "CrmTriggerAutomationOperator"
    assert ended(e.CrmConnectionError("x", outcome_known=True), ErrorPolicy(operator=name)) is RETRY
    assert table(name)["CONNECTION"].effect.endswith("; if the call was certainly not carried out: retry")
    assert table(name, {"CrmTransientError": "fail"})["CONNECTION"].effect == "fail the task, no further try"
    assert table(name)["INVALID_INPUT"].effect == "fail the task, no further try"


SENSOR_LINES: list[dict[str, str]] = [
    {},
    {"CrmNotFoundError": "wait", "CrmTransientError": "fail", "CrmThrottledError": "retry"},
    {"CrmNotFoundError": "skip", "CrmAccessError": "retry", "CrmTransientError": "retry"},
]


@pytest.mark.parametrize("operator", SENSORS)
@pytest.mark.parametrize("on_error", SENSOR_LINES, ids=range(len(SENSOR_LINES)))
def test_sensor_follows_the_printed_table(operator: str, on_error: dict[str, str]) -> None:
    policy = ErrorPolicy(on_error, work=Work.SENSOR, operator=operator)
    for line in explain(policy):
        error = ERROR_CLASSES[line.error]("x")
        waiting = WaitState(limit=2)
        first, _, third = (waiting.record_error(error, policy, 0.0, interval=60.0).action for _ in range(3))
        if not line.effect.startswith("check again"):
            assert first is Action(line.action)
            continue
        assert (first, line.action) == (Action.WAIT, "wait")
        ends = line.effect == "check again; after more than max_errors_in_a_row in a row: as retry"
        assert third is (Action.RETRY if ends else Action.WAIT), line.type


def test_throttled_sensor_waits_for_the_server() -> None:
    line = table("CrmContactSensor")["TOO_MANY_REQUESTS"]
    assert line.effect == "check again, not before the time that the server asks for"
    policy, waiting = ErrorPolicy(work=Work.SENSOR), WaitState()
    waiting.record_error(e.CrmTooManyRequestsError("x", retry_after=500.0), policy, 1000.0, interval=60.0)
    assert waiting.not_before == 1500.0


# -- actions of the client ----------------------------------------------------------------------------------

LOST_POST = "success if the response to our earlier POST was lost"
LOST_DELETE = "success if the response to our earlier DELETE was lost"
POST = "send again; a POST only after reading that it did not happen"

NOTES = {
    # operator -> (CONTACT_NOT_FOUND, CONTACT_ALREADY_EXISTS, DEAL_NOT_FOUND, CONTACT_ASSOCIATED..., TIMEOUT)
    "CrmUpsertContactOperator": ("create the contact instead", "update the contact instead", "-", "-", POST),
    "CrmUpsertContactOperator(mode='create')": ("-", f"{LOST_POST}, in this try or an earlier one", "-", "-", POST),
    "CrmUpsertContactOperator(mode='update')": ("-", "-", "-", "-", "send again"),
    "CrmCreateDealOperator": ("-", "-", "-", LOST_POST, POST),
    "CrmMoveDealStageOperator": ("-", "-", "-", "-", "send again"),
    "CrmAddContactToListsOperator": ("-", "-", "-", "-", POST),
    "CrmDeleteContactOperator": (f"{LOST_DELETE}; in a later try success instead of skip", "-", "-", "-", "send again"),
    "CrmVerifyEmailOperator": ("-", "-", "-", "-", "send again only if it was certainly not carried out"),
    "CrmTriggerAutomationOperator": ("-", "-", "-", "-", "send again only if it was certainly not carried out"),
    "CrmExtractContactsOperator": ("-", "-", "-", "-", "send again"),
    "CrmExtractDealsOperator": ("-", "-", "-", "-", "send again"),
    "CrmExtractListsOperator": ("-", "-", "-", "-", "send again"),
    "CrmToSqlOperator": ("-", "-", "-", "-", "send again"),
    **{
        f"{name}{mode}": (found, exists, "-", "-", POST)
        for name in ("CrmLoadContactsOperator", "CrmRetryRejectsOperator", "SqlToCrmContactsOperator")
        for mode, found, exists in (
            ("", "create the contact instead", "update the contact instead"),
            ("(mode='create')", "-", LOST_POST),
            ("(mode='update')", "-", "-"),
        )
    },
    **{
        f"{name}{mode}": ("-", "-", "-", conflict, repeat)
        for name in ("CrmLoadDealsOperator", "SqlToCrmDealsOperator")
        for mode, conflict, repeat in (
            ("", LOST_POST, POST),
            ("(mode='create')", LOST_POST, POST),
            ("(mode='move')", "-", "send again"),
            ("(mode='update')", "-", "send again"),
        )
    },
    "CrmDeleteContactsOperator": (LOST_DELETE, "-", "-", "-", "send again"),
    **dict.fromkeys(SENSORS, ("-", "-", "-", "-", "send again")),
}

NOTED = ("CONTACT_NOT_FOUND", "CONTACT_ALREADY_EXISTS", "DEAL_NOT_FOUND", "CONTACT_ASSOCIATED_WITH_A_DEAL", "TIMEOUT")


def test_every_operator_has_expected_notes() -> None:
    assert set(NOTES) == set(OPERATORS)
    assert set(CALL_NOTES) <= {*OPERATORS, "task", "load"}
    assert set(REPEATS) <= set(OPERATORS)


@pytest.mark.parametrize("operator", OPERATORS)
def test_only_the_notes_that_apply_to_the_operator(operator: str) -> None:
    lines = table(operator)
    assert tuple(lines[type_].in_call for type_ in NOTED) == NOTES[operator]
    for type_ in set(CATALOGUE) - set(NOTED):
        expected = {0: "-", 3: NOTES[operator][-1], 4: "wait, send again"}[len(REPEATED.get(type_, ()))]
        assert lines[type_].in_call == expected


@pytest.mark.parametrize("type_", TYPES)
def test_notes_for_a_custom_task_name_the_call(type_: str) -> None:
    notes = {
        "CONTACT_NOT_FOUND": "upsert: create instead; delete: success after a lost response",
        "CONTACT_ALREADY_EXISTS": "upsert: update instead; create: success after a lost response",
        "DEAL_NOT_FOUND": "delete: success after a lost response",
        "CONTACT_ASSOCIATED_WITH_A_DEAL": "create: success after a lost response",
    }
    repeated = {0: "-", 3: POST, 4: "wait, send again"}[len(REPEATED.get(type_, ()))]
    assert table(None)[type_].in_call == notes.get(type_, repeated)
    assert table(None)[type_].action == OUTCOMES[type_][0]


@pytest.mark.parametrize("type_", ["STAGE_NOT_FOUND", "PIPELINE_NOT_FOUND"])
def test_deal_load_shows_the_effect_of_a_constant(type_: str) -> None:
    line = table("CrmLoadDealsOperator(mode='move')")[type_]
    assert line.effect == "reject the row; if it is a constant of the mapping: end the run"
    assert table("CrmLoadDealsOperator", {type_: "reject"})[type_].effect == "reject the row"


@pytest.mark.parametrize(
    ("kind", "mode", "printed"),
    [
        ("deals", "move", "CrmLoadDealsOperator(mode='move')"),
        ("deals", "upsert", "CrmLoadDealsOperator"),
        ("deletions", "upsert", "CrmDeleteContactsOperator"),
    ],
)
def test_resent_rejects_use_the_policy_of_their_load(kind: Any, mode: Any, printed: str) -> None:
    mode = mode if kind == "deals" else "delete"
    made = CrmRetryRejectsOperator(task_id="t", rejects="rejects.jsonl", kind=kind, mode=mode)
    assert made.error_policy == ErrorPolicy(work=Work.LOAD, operator=printed)


# -- every operator uses its own table ----------------------------------------------------------------------

EMAIL: dict[str, Any] = {"contact_email": "ada@example.com"}
DEAL: dict[str, Any] = {"contact_id": "c", "pipeline_id": "p", "stage_id": "s"}

MADE: dict[str, tuple[type, dict[str, Any]]] = {
    "CrmUpsertContactOperator": (CrmUpsertContactOperator, EMAIL),
    "CrmCreateDealOperator": (CrmCreateDealOperator, DEAL),
    "CrmMoveDealStageOperator": (CrmMoveDealStageOperator, {"deal_id": "d", "stage_id": "s"}),
    "CrmAddContactToListsOperator": (CrmAddContactToListsOperator, {**EMAIL, "list_ids": "l"}),
    "CrmDeleteContactOperator": (CrmDeleteContactOperator, EMAIL),
    "CrmVerifyEmailOperator": (CrmVerifyEmailOperator, EMAIL),
    "CrmTriggerAutomationOperator": (
        CrmTriggerAutomationOperator,
        {**EMAIL, "webhook_id": "w", "channel_uid": "c", "workflow_id": "f"},
    ),
    "CrmExtractContactsOperator": (CrmExtractContactsOperator, {"target": "out.jsonl"}),
    "CrmExtractDealsOperator": (CrmExtractDealsOperator, {"target": "out.jsonl"}),
    "CrmExtractListsOperator": (CrmExtractListsOperator, {"target": "out.jsonl"}),
    "CrmToSqlOperator": (CrmToSqlOperator, {"listing": "lists", "sql_conn_id": "db", "table": "t", "mode": "merge"}),
    "CrmLoadContactsOperator": (CrmLoadContactsOperator, {"source": "in.csv"}),
    "CrmRetryRejectsOperator": (CrmRetryRejectsOperator, {"rejects": "rejects.jsonl"}),
    "SqlToCrmContactsOperator": (SqlToCrmContactsOperator, {"sql": "SELECT 1", "sql_conn_id": "db"}),
    "CrmLoadDealsOperator": (CrmLoadDealsOperator, {"source": "in.csv"}),
    "SqlToCrmDealsOperator": (SqlToCrmDealsOperator, {"sql": "SELECT 1", "sql_conn_id": "db"}),
    "CrmDeleteContactsOperator": (CrmDeleteContactsOperator, {"source": "in.csv", "max_deletes": 1}),
    "CrmListSensor": (CrmListSensor, {"list_id": "l"}),
    "CrmListMembershipSensor": (CrmListMembershipSensor, {"emails": "ada@example.com", "list_id": "l"}),
    "CrmContactSensor": (CrmContactSensor, EMAIL),
    "CrmDealStageSensor": (CrmDealStageSensor, {"deal_id": "d", "stage_ids": "s"}),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_has_the_policy_printed_for_it(name: str) -> None:
    base, _, mode = name.partition("(mode='")
    operator, arguments = MADE[base]
    made = operator(task_id="t", **arguments, **({"mode": mode.removesuffix("')")} if mode else {}))
    assert made.error_policy == ErrorPolicy(work=OPERATORS[name], operator=name)
