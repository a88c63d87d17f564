"""Input that is invalid before the first call: an error with the field and the fix, without a retry."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from crm_provider.errors import CrmConfigurationError, CrmError, CrmInvalidValueError
from crm_provider.operators.automations import CrmTriggerAutomationOperator
from crm_provider.operators.contacts import CrmDeleteContactOperator, CrmUpsertContactOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.operators.extract import CrmExtractContactsOperator
from crm_provider.operators.lists import CrmAddContactToListsOperator
from crm_provider.sandbox import Sandbox, ids
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor

RunTask = Callable[..., Any]

ID = "123e4567-e89b-12d3-a456-426614174000"
KEY = "a-key-that-no-message-may-show"


def typed(error: BaseException | None) -> CrmError:
    """The typed error: the error itself, or below Airflow 3.3 its cause."""
    found = error if isinstance(error, CrmError) else getattr(error, "__cause__", None)
    assert isinstance(found, CrmError), f"not a typed error: {error!r}"
    return found


def missing(parts: Sequence[str], error: CrmError) -> list[str]:
    """The parts that a message does not contain, ignoring the case of the first letter."""
    return [part for part in parts if part.lower() not in str(error).lower()]


# -- the connection -----------------------------------------------------------------------------------------

CONNECTIONS = {
    # problem: (fields, parts of the message)
    "no key": ({"password": None}, ["API key (field Password) is empty", "put the CRM's API key there"]),
    "two ports": (
        {"host": "https://connect.pingback.com:1234/v2", "port": 4321},
        ["Base URL (field Host) names port 1234", "4321", "keep one"],
    ),
    "unknown extra": (
        {"extra": {"devloper_mode": True}},
        ["Extra 'devloper_mode' is unknown", "did you mean 'developer_mode'"],
    ),
}


@pytest.mark.parametrize("wrong", CONNECTIONS)
def test_connection(wrong: str, crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, says = CONNECTIONS[wrong]
    whole = {"conn_type": "crm", "host": crm.url, "password": crm.api_key, "extra": {}, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", json.dumps(whole))
    task = run_task(CrmUpsertContactOperator, contact_email="ada@example.com")
    assert task.states == ["failed"]
    error = typed(task.error)
    assert type(error) is CrmConfigurationError
    assert missing([*says, "crm_default"], error) == [], str(error)
    assert KEY not in task.log
    assert crm.journal() == []


@pytest.mark.parametrize("operator", ["operator", "sensor in mode poke", "sensor in mode reschedule"])
def test_missing_connection_fails_without_a_retry(operator: str, crm: Sandbox, run_task: RunTask) -> None:
    if operator == "operator":
        task = run_task(CrmUpsertContactOperator, crm_conn_id="crm_other", contact_email="ada@example.com")
    else:
        mode = operator.rpartition(" ")[2]
        task = run_task(CrmListSensor, crm_conn_id="crm_other", list_name="Newsletter", mode=mode, soft_fail=True)
    assert task.states == ["failed"]
    error = typed(task.error)
    assert type(error) is CrmConfigurationError
    assert "Airflow has no connection 'crm_other'" in str(error)
    assert "AIRFLOW_CONN_CRM_OTHER" in str(error)
    assert crm.journal() == []


# -- values -------------------------------------------------------------------------------------------------

UPSERT = {"contact_email": "ada@example.com"}
MOVE = {"deal_id": ID, "stage_id": ID}
ADD = {"contact_email": "ada@example.com", "list_ids": [ID]}
NO_UUID = ["not a UUID", "copy the id from the CRM"]

VALUES = {
    # problem: (operator, arguments, parts of the message)
    "empty email": (CrmUpsertContactOperator, {**UPSERT, "contact_email": ""}, ["email is empty"]),
    "an attribute that is not valid JSON": (
        CrmUpsertContactOperator,
        {**UPSERT, "attributes": {"scores": [1.5, float("nan")]}},
        ["attributes['scores'][1] is not a finite number", "correct it, or leave it empty"],
    ),
    "deal id from a task that returned nothing": (
        CrmMoveDealStageOperator,
        {**MOVE, "deal_id": "{{ None }}"},
        ["deal_id was rendered to None", "give it one"],
    ),
    "second list id is a name": (
        CrmAddContactToListsOperator,
        {**ADD, "list_ids": [ID, "x"]},
        ["list_ids[1] is", *NO_UUID],
    ),
    "email to delete": (
        CrmDeleteContactOperator,
        {"contact_email": "ada"},
        ["contact_email is not a valid email address"],
    ),
    "no webhook": (
        CrmTriggerAutomationOperator,
        {"contact_email": "ada@example.com", "webhook_id": "", "channel_uid": "c", "workflow_id": "w"},
        ["webhook_id must be text, not empty"],
    ),
    "target without a format": (
        CrmExtractContactsOperator,
        {"target": "{{ 'contacts' }}.xlsx"},
        ["does not show its format"],
    ),
    "one invalid email of two": (
        CrmListMembershipSensor,
        {"emails": ["ada@example.com", "bad"], "list_id": ids.list_id("Newsletter")},
        ["email"],
    ),
}


@pytest.mark.parametrize("wrong", VALUES)
def test_invalid_value_fails_without_a_retry(wrong: str, crm: Sandbox, run_task: RunTask) -> None:
    operator, arguments, says = VALUES[wrong]
    waiting = {"timeout": 1, "poke_interval": 0.2} if operator in (CrmListSensor, CrmListMembershipSensor) else {}
    task = run_task(operator, **arguments, **waiting)
    assert task.states == ["failed"]
    error = typed(task.error)
    assert type(error) is CrmInvalidValueError
    assert missing(says, error) == [], str(error)
    assert "Not retried" in str(error)
    assert crm.journal() == []
    assert task.xcoms["crm_error"]["type"] == "INVALID_VALUE"
