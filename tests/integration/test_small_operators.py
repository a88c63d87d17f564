"""Operators for deletion, verification and automations: second tries, lost responses, secrets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from airflow.sdk import DAG

from crm_provider.hooks.crm import CrmHook
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmVerifyEmailOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.sandbox import Sandbox

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]

ADA = "ada@example.com"

try:
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor

    HAS_STATE_STORE = TaskStateStoreAccessor is not None
except ImportError:  # below 3.3
    HAS_STATE_STORE = False


# -- delete --------------------------------------------------------------------------------------------------


def test_delete_contact_task_deletes_the_contact(crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(CrmDeleteContactOperator, contact_email=ADA)
    assert (task.states, task.result) == (["success"], {"outcome": "deleted"})
    assert ADA not in crm.store.contacts
    assert ADA not in task.log.replace("Updating RenderedTaskInstanceFields", "")


def test_delete_of_a_missing_contact_skips(crm: Sandbox, run_task: RunTask) -> None:
    assert run_task(CrmDeleteContactOperator, contact_email="nobody@example.com").states == ["skipped"]
    failing = {"on_error": {"CONTACT_NOT_FOUND": "fail"}}
    assert run_task(CrmDeleteContactOperator, contact_email="nobody@example.com", **failing).states == ["failed"]


def test_second_try_after_a_lost_deletion_succeeds(crm: Sandbox, run_task: RunTask) -> None:
    crm.add_fault(effect="lost", method="DELETE", count=1)
    task = run_task(CrmDeleteContactOperator, contact_email=ADA)
    assert (task.states, task.result) == (["up_for_retry", "success"], {"outcome": "gone"})


def test_second_try_after_a_lost_deletion_follows_on_error(crm: Sandbox, run_task: RunTask) -> None:
    crm.add_fault(effect="lost", method="DELETE", count=1)
    task = run_task(CrmDeleteContactOperator, contact_email=ADA, on_error={"CONTACT_NOT_FOUND": "fail"})
    assert task.states == ["up_for_retry", "failed"]


# -- deals ---------------------------------------------------------------------------------------------------


def test_ids_of_a_deal_given_as_uuid_are_text_in_the_xcom(crm: Sandbox, run_task: RunTask) -> None:
    deal = next(iter(crm.store.deals.values()))
    task = run_task(CrmMoveDealStageOperator, deal_id=UUID(deal.id), stage_id=UUID(deal.stage_id))
    assert task.result == {"id": deal.id, "stage_id": deal.stage_id, "outcome": "moved"}


# -- verify --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('{"data": {"email": "Ada@Example.com", "valid": true, "score": 7}}', {"email": "[value]", "valid": True}),
        ('"deliverable"', {"result": "deliverable"}),
    ],
)
def test_verify_returns_the_response_without_the_address(
    body: str, answer: dict[str, Any], crm: Sandbox, run_task: RunTask
) -> None:
    crm.add_fault(effect="garbage", status=200, body=body)
    task = run_task(CrmVerifyEmailOperator, contact_email=ADA)
    assert task.result["outcome"] == "verified"
    assert answer.items() <= task.result["answer"].items()
    assert "ada@" not in str(task.xcoms).lower()


def test_verify_omits_large_values_from_the_xcom(crm: Sandbox, run_task: RunTask) -> None:
    body = '{"data": {"valid": true, "trace": "%s"}}' % ("x" * 10_000)
    crm.add_fault(effect="garbage", status=200, body=body)
    assert run_task(CrmVerifyEmailOperator, contact_email=ADA).result["answer"] == {"valid": True}


# -- automations ---------------------------------------------------------------------------------------------

IDS = {"webhook_id": "hook-Zq8x-1", "channel_uid": "channel-Zq8x-2", "workflow_id": "flow-Zq8x-3"}
START = {**IDS, "contact_email": ADA, "fields": {"plan": "trial"}}


def test_start_automation_sends_the_ids(crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(CrmTriggerAutomationOperator, **START)
    assert (task.states, task.result) == (["success"], {"outcome": "started"})
    (started,) = crm.store.automations
    assert {name: getattr(started, name) for name in IDS} == IDS
    assert started.email == ADA


def test_automation_ids_from_templates_are_not_stored(
    crm: Sandbox, run_dag: RunDag, monkeypatch: pytest.MonkeyPatch, airflow_db: Path
) -> None:
    monkeypatch.setattr("crm_provider.operators.automations.mask_secret", lambda value: None)
    for name, value in IDS.items():
        monkeypatch.setenv(f"AIRFLOW_VAR_{name.upper()}", value)
    templates: dict[str, Any] = {name: f"{{{{ var.value.{name} }}}}" for name in IDS}
    with DAG("automation_secret", schedule=None) as dag:
        CrmTriggerAutomationOperator(task_id="plain", contact_email=ADA, **templates)
        CrmTriggerAutomationOperator.partial(task_id="mapped", **templates).expand(contact_email=[ADA])
    run = run_dag(dag)
    assert set(run.states().values()) == {"success"}
    assert {started.webhook_id for started in crm.store.automations} == {IDS["webhook_id"]}
    assert "Zq8x" not in run.log
    stored = everything_stored()
    assert ADA in stored, "the searched text contains the rendered fields"
    assert "Zq8x" not in stored


def everything_stored() -> str:
    from airflow import settings
    from sqlalchemy import MetaData, select

    found = MetaData()
    assert settings.engine is not None
    found.reflect(settings.engine)
    kept = ("rendered_task_instance_fields", "serialized_dag", "xcom", "task_instance", "log")
    with settings.engine.connect() as connection:
        return "".join(repr(tuple(row)) for name in kept for row in connection.execute(select(found.tables[name])))


@pytest.mark.parametrize("effect", ["lost", "drop"])
def test_automation_call_with_unknown_outcome_is_not_repeated(effect: str, crm: Sandbox, run_task: RunTask) -> None:
    crm.add_fault(effect=effect, method="POST", count=1)
    task = run_task(CrmTriggerAutomationOperator, retries=3, **START)
    assert task.states == ["failed"]
    assert len(crm.journal()) == 1
    message = str(task.error)
    assert "may or may not have happened" in message
    assert message.count("What to do:") == 1
    assert "What to do: Check in the CRM whether the automation was started, before you clear the task." in message
    assert task.xcoms["crm_error"]["suggested_action"].startswith("check in the CRM")
    assert "Zq8x" not in message


@pytest.mark.skipif(not HAS_STATE_STORE, reason="the task state store came with Airflow 3.3")
@pytest.mark.parametrize(
    ("on_error", "states", "started"),
    [(None, ["up_for_retry", "failed"], 1), ({"CONNECTION": "retry"}, ["up_for_retry", "success"], 2)],
    ids=["default", "on_error"],
)
def test_automation_is_not_started_again_after_a_worker_died(
    on_error: Any, states: list[str], started: int, crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger, left = CrmHook.trigger_automation, [1]

    def dies_once(self: CrmHook, *arguments: Any, **keywords: Any) -> Any:
        answer = trigger(self, *arguments, **keywords)
        if left:
            left.pop()
            raise RuntimeError("as if killed")
        return answer

    monkeypatch.setattr(CrmHook, "trigger_automation", dies_once)
    task = run_task(CrmTriggerAutomationOperator, on_error=on_error, **START)
    assert task.states == states
    assert len(crm.store.automations) == started
    if started == 1:
        assert "an earlier try was interrupted during the call: nothing was sent now" in str(task.error)


@pytest.mark.skipif(not HAS_STATE_STORE, reason="the task state store came with Airflow 3.3")
def test_automation_is_not_started_again_if_airflow_did_not_record_the_success(
    crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, left = CrmTriggerAutomationOperator.call, [1]

    def unrecorded_once(self: CrmTriggerAutomationOperator, context: Any) -> Any:
        result = call(self, context)
        if left:
            raise RuntimeError(f"the XCom was not accepted {left.pop()}")
        return result

    monkeypatch.setattr(CrmTriggerAutomationOperator, "call", unrecorded_once)
    task = run_task(CrmTriggerAutomationOperator, on_error={"CONNECTION": "retry"}, **START)
    assert (task.states, task.result) == (["up_for_retry", "success"], {"outcome": "started"})
    assert len(crm.store.automations) == 1


def test_interrupted_automation_does_not_affect_other_runs(crm: Sandbox, run_dag: RunDag) -> None:
    with DAG("automation_twice", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        CrmTriggerAutomationOperator(task_id="task", **START)
    crm.add_fault(effect="lost", method="POST", count=1)
    assert [run_dag(dag)["task"].state for _ in range(2)] == ["failed", "success"]
