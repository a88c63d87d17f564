"""Final states of tasks: every outcome of an error, with every operator and sensor.

The expected results are written by hand from the table of default outcomes in the design. Real tasks (``dag.test``)
run against the real sandbox. Each task has one fault, which is set just before it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from airflow.sdk import DAG, Connection
from table_scenes import TargetHook

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors import policy as waiting
from crm_provider.errors.on_error import Work
from crm_provider.errors.policy import OPERATORS
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator, CrmVerifyEmailOperator
from crm_provider.operators.deals import CrmCreateDealOperator, CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator, CrmExtractDealsOperator, CrmExtractListsOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.sandbox import Sandbox, SandboxSettings, ids
from crm_provider.sensors.base import CrmSensor
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor
from crm_provider.testing import assert_no_duplicates, assert_rate_kept
from crm_provider.transfers.crm_to_sql import CrmToSqlOperator

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]
RunCases = Callable[..., dict[str, Any]]
Waits = dict[str, list[float]]

FAIL, RETRY, SKIP, WAIT, RESCHEDULE = "fail", "retry", "skip", "wait", "reschedule"


class Case(NamedTuple):
    """A fault, its error and its outcomes.

    :param error: class and type of the error
    :param task: outcome in an operator
    :param sensor: outcome in a sensor
    """

    fault: Mapping[str, Any]
    error: tuple[str, str]
    task: str
    sensor: str


def error_response(name: str) -> dict[str, Any]:
    return {"effect": "error", "error": name}


CASES = {
    "CONTACT_NOT_FOUND": Case(
        error_response("CONTACT_NOT_FOUND"), ("CrmContactNotFoundError", "CONTACT_NOT_FOUND"), FAIL, WAIT
    ),
    "SEGMENTATION_LIST_NOT_FOUND": Case(
        error_response("SEGMENTATION_LIST_NOT_FOUND"),
        ("CrmSegmentationListNotFoundError", "SEGMENTATION_LIST_NOT_FOUND"),
        FAIL,
        FAIL,
    ),
    "CONTACT_ALREADY_EXISTS": Case(
        error_response("CONTACT_ALREADY_EXISTS"), ("CrmContactAlreadyExistsError", "CONTACT_ALREADY_EXISTS"), FAIL, FAIL
    ),
    "CONTACT_ASSOCIATED_WITH_A_DEAL": Case(
        error_response("CONTACT_ASSOCIATED_WITH_A_DEAL"),
        ("CrmContactAssociatedWithADealError", "CONTACT_ASSOCIATED_WITH_A_DEAL"),
        FAIL,
        FAIL,
    ),
    "quota used up": Case(
        error_response("quota used up"), ("CrmLimitExceededError", "LIMIT_EXCEEDED"), RESCHEDULE, WAIT
    ),
    "no response in time": Case({"effect": "drip", "latency": 0.02}, ("CrmTimeoutError", "TIMEOUT"), RETRY, WAIT),
}
"""One case per outcome. ``tests/unit/test_policy.py`` maps all other errors to these outcomes, and
``tests/unit/test_responses.py`` maps responses to errors."""

DIFFERENT = {
    ("upsert, mode create", "CONTACT_ALREADY_EXISTS"): SKIP,
    ("delete", "CONTACT_NOT_FOUND"): SKIP,
    # not repeated: after a lost response the automation may have been started
    **{
        ("automation", name): FAIL
        for name, case in CASES.items()
        if case.task == RETRY and "TOO_MANY" not in case.error[1]
    },
    ("create deal", "CONTACT_ASSOCIATED_WITH_A_DEAL"): SKIP,
    **{(f"{sensor} sensor", "SEGMENTATION_LIST_NOT_FOUND"): WAIT for sensor in ("list", "membership")},
}
"""Outcomes of operators that differ from their column of the table."""

NEWSLETTER_ID = ids.list_id("Newsletter")
MEMBER = "contact-0000001@example.com"
DEAL_ID = ids.deal_id(ids.contact_id(MEMBER))
STAGE_NEW_ID, STAGE_WON_ID = ids.stage_id("Sales", "New"), ids.stage_id("Sales", "Won")
SALES = {"pipeline_id": ids.pipeline_id("Sales"), "stage_id": STAGE_NEW_ID}
POKE = {"mode": "poke", "poke_interval": 0.01, "timeout": 300}
RESCHEDULED = {"mode": "reschedule", "poke_interval": 60, "timeout": 600}


class Kind(NamedTuple):
    """An operator or sensor, and its arguments for the n-th case."""

    operator: type
    arguments: Callable[[int], dict[str, Any]]


def contact_id(number: int) -> str:
    return ids.contact_id(f"contact-{number:07}@example.com")


ANN = {"attributes": {"name": "Ann"}}
EXTRACTS = f"{os.environ['AIRFLOW_HOME']}/extracts"
KINDS = {
    "upsert": Kind(CrmUpsertContactOperator, lambda n: {"contact_email": f"new-{n}@example.com", **ANN}),
    "upsert, mode create": Kind(
        CrmUpsertContactOperator, lambda n: {"contact_email": f"new-{n}@example.com", "mode": "create", **ANN}
    ),
    "upsert, mode update": Kind(CrmUpsertContactOperator, lambda _: {"contact_email": MEMBER, "mode": "update", **ANN}),
    "create deal": Kind(CrmCreateDealOperator, lambda n: {"contact_id": contact_id(n + 2), **SALES}),
    "move deal": Kind(CrmMoveDealStageOperator, lambda _: {"deal_id": DEAL_ID, "stage_id": STAGE_WON_ID}),
    "add to lists": Kind(
        CrmAddContactToListsOperator, lambda _: {"contact_email": MEMBER, "list_ids": [NEWSLETTER_ID]}
    ),
    "delete": Kind(CrmDeleteContactOperator, lambda n: {"contact_email": f"contact-{n + 2:07}@example.com"}),
    "verify": Kind(CrmVerifyEmailOperator, lambda _: {"contact_email": MEMBER}),
    "automation": Kind(
        CrmTriggerAutomationOperator,
        lambda _: {"webhook_id": "w", "channel_uid": "c", "workflow_id": "f", "contact_email": MEMBER},
    ),
    "extract contacts": Kind(CrmExtractContactsOperator, lambda n: {"target": f"{EXTRACTS}/contacts-{n}.jsonl"}),
    "extract deals": Kind(CrmExtractDealsOperator, lambda n: {"target": f"{EXTRACTS}/deals-{n}.csv"}),
    "extract lists": Kind(CrmExtractListsOperator, lambda n: {"target": f"{EXTRACTS}/lists-{n}.parquet"}),
    "listing to table": Kind(
        CrmToSqlOperator,
        lambda n: {
            "listing": "contacts",
            "sql_conn_id": "db",
            "table": f"t{n}",
            "mode": "replace",
            "create_table": True,
        },
    ),
    "list sensor": Kind(CrmListSensor, lambda _: {"list_name": "Newsletter", **POKE}),
    "list sensor, rescheduled": Kind(CrmListSensor, lambda _: {"list_id": NEWSLETTER_ID, **RESCHEDULED}),
    "membership sensor": Kind(CrmListMembershipSensor, lambda _: {"emails": MEMBER, "list_id": NEWSLETTER_ID, **POKE}),
    "membership sensor, rescheduled": Kind(
        CrmListMembershipSensor, lambda _: {"emails": [MEMBER], "list_name": "Newsletter", **RESCHEDULED}
    ),
    "contact sensor": Kind(CrmContactSensor, lambda _: {"contact_email": MEMBER, **POKE}),
    "deal stage sensor, rescheduled": Kind(
        CrmDealStageSensor, lambda _: {"deal_id": DEAL_ID, "stage_ids": [STAGE_NEW_ID, STAGE_WON_ID], **RESCHEDULED}
    ),
}


def outcome_of(kind: str, case: str) -> str:
    """The outcome in the table of the design."""
    column = CASES[case].sensor if issubclass(KINDS[kind].operator, CrmSensor) else CASES[case].task
    return DIFFERENT.get((kind.removesuffix(", rescheduled"), case), column)


EVERY_OUTCOME = ("upsert", "list sensor", "list sensor, rescheduled")
"""One operator, and one sensor in each mode, are tested with every outcome. All others share the same code, so each
is tested with the outcomes that differ, or else with one."""


def cases_of(kind: str) -> list[str]:
    """One case per outcome of a kind of task, preferably one with an outcome of its own."""
    differs = {case for of, case in DIFFERENT if of == kind.removesuffix(", rescheduled")}
    names = sorted(CASES, key=lambda case: case not in differs)
    found = list({outcome_of(kind, case): case for case in reversed(names)}.values())
    return found if kind in EVERY_OUTCOME else [case for case in found if case in differs] or found[-1:]


@dataclass
class TaskFaults:
    """Sets the fault of a task just before it runs.

    A fault that ends the task affects every call of every try. A fault that the task waits for affects the first call
    only.
    """

    crm: Sandbox
    planned: set[str] = field(default_factory=set)

    def callback(self, case: Case, outcome: str) -> Callable[[Any], None]:
        def set_fault(context: Any) -> None:
            name = f"{context['ti'].task_id}, try {context['ti'].try_number}"
            self.crm.clear_faults()
            if outcome not in (WAIT, RESCHEDULE):
                self.crm.add_fault(**case.fault, name=name)
            elif name not in self.planned:
                self.crm.add_fault(**case.fault, name=name, count=1)
            self.planned.add(name)

        return set_fault

    def affected(self) -> set[str]:
        """Tries with at least one faulty response."""
        return {entry.fault for entry in self.crm.journal() if entry.fault}


@pytest.fixture
def crm_of_tables(crm: Sandbox, fast_clock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A contact per case, of which one has a list and a deal, and a database."""
    get_hook = Connection.get_hook
    monkeypatch.setenv("AIRFLOW_CONN_DB", '{"conn_type": "generic"}')
    database = TargetHook(str(tmp_path / "warehouse.db"))
    monkeypatch.setattr(
        Connection, "get_hook", lambda self, **given: database if self.conn_id == "db" else get_hook(self, **given)
    )
    crm.reset(SandboxSettings(seed=f"contacts:{len(CASES) + 1}", rate=None))
    crm.store.add_to_lists(MEMBER, [NEWSLETTER_ID])
    crm.store.create_deal(contact_id=ids.contact_id(MEMBER), **SALES)
    return crm


def expected_end(kind: str, case: str, *, policy: bool) -> tuple[Any, ...]:
    """States after each run, the exception, and the error XCom, with ``retries=1``."""
    error, error_type = CASES[case].error
    outcome = outcome_of(kind, case)
    if outcome == FAIL:
        raised = error if policy else f"AirflowFailException from {error}"
        return ["failed"], raised, (error, error_type, "fail")
    if outcome == RETRY:
        return ["up_for_retry", "failed"], error, (error, error_type, "retry")
    if outcome == SKIP:
        return ["skipped"], None, (error, error_type, "skip")
    waits = outcome == RESCHEDULE or kind.endswith("rescheduled")
    return ["up_for_reschedule", "success"] if waits else ["success"], None, None


def actual_end(task: Any) -> tuple[Any, ...]:
    """The same fields of a finished task."""
    raised = None
    if task.error is not None:
        cause = task.error.__cause__
        raised = type(task.error).__name__ + (f" from {type(cause).__name__}" if cause else "")
    xcom = task.xcoms.get("crm_error")
    return task.states, raised, xcom and (xcom["error"], xcom["type"], xcom["action"])


def differences(run: Any, expected: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Cases with an unexpected end, with both ends. The n-th task belongs to the n-th case."""
    actual = {case: actual_end(run[f"task_{number}"]) for number, case in enumerate(expected)}
    return {case: {"is": actual[case], "should be": end} for case, end in expected.items() if actual[case] != end}


def dag_of_cases(kind: str, task_faults: TaskFaults, **arguments: Any) -> DAG:
    with DAG("outcomes", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for number, name in enumerate(cases_of(kind)):
            KINDS[kind].operator(
                task_id=f"task_{number}",
                crm_conn_id="crm_fast_clock" if name == "no response in time" else "crm_default",
                on_execute_callback=task_faults.callback(CASES[name], outcome_of(kind, name)),
                **KINDS[kind].arguments(number),
                **arguments,
            )
    return dag


@pytest.fixture
def run_cases(crm_of_tables: Sandbox, run_dag: RunDag, waits: Waits, monkeypatch: pytest.MonkeyPatch) -> RunCases:
    """Run all cases with ``run_cases(kind, **arguments)`` and return the differences from the table."""

    def run(kind: str, *, policy: bool, **arguments: Any) -> dict[str, Any]:
        pokes = "sensor" in kind and not kind.endswith("rescheduled")
        monkeypatch.setattr(waiting, "QUOTA_DELAY", 0.01 if pokes else 900.0)  # mode poke really waits
        task_faults = TaskFaults(crm_of_tables)
        finished = run_dag(dag_of_cases(kind, task_faults, **arguments))
        assert task_faults.affected() == task_faults.planned, "a try had no faulty response, so it tests nothing"
        return differences(finished, {case: expected_end(kind, case, policy=policy) for case in cases_of(kind)})

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_task_ends_as_in_the_table(kind: str, run_cases: RunCases) -> None:
    assert run_cases(kind, policy=HAS_RETRY_POLICY) == {}


@pytest.mark.skipif(not HAS_RETRY_POLICY, reason="retry policies came with Airflow 3.3")
@pytest.mark.parametrize("kind", ["upsert", "list sensor, rescheduled"])
def test_task_without_retry_policy_ends_as_in_the_table(kind: str, run_cases: RunCases) -> None:
    assert run_cases(kind, policy=False, retry_policy=None) == {}


# -- completeness -------------------------------------------------------------------------------------------


def test_outcome_table_lists_every_operator() -> None:
    in_table = {kind.operator.__name__ for kind in KINDS.values()}
    loads = {name for name, work in OPERATORS.items() if work is Work.LOAD}  # test_load_outcomes.py
    assert in_table == {name.partition("(")[0] for name in OPERATORS.keys() - loads}


# -- retries within a call ----------------------------------------------------------------------------------


def test_upsert_task_updates_an_existing_contact(crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(CrmUpsertContactOperator, contact_email="ada@example.com", **ANN)
    assert task.states == ["success"]
    assert task.result == {"id": ids.contact_id("ada@example.com"), "outcome": "updated"}
    assert crm.store.contacts["ada@example.com"].attributes["name"] == "Ann"


def test_retries_within_a_call_use_no_task_retry(crm_sandbox: Sandbox, crm_connection: str, run_dag: RunDag) -> None:
    """In real time, with pacing and the default attempts of a call."""
    with DAG("outcomes", schedule=None) as dag:
        for name in ("lost", "throttled"):
            CrmUpsertContactOperator(task_id=name, contact_email=f"{name}@sandbox.test", **ANN)
    run = run_dag(dag)
    assert {name: (task.states, task.result["outcome"]) for name, task in run.tasks.items()} == {
        "lost": (["success"], "created"),
        "throttled": (["success"], "created"),
    }
    assert_no_duplicates(crm_sandbox)
    assert_rate_kept(crm_sandbox)
