"""``on_error``: where a DAG author may write it, and its effect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, TaskGroup

from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmMoveDealStageOperator
from crm_provider.sandbox import Sandbox, ids
from crm_provider.sensors.lists import CrmListSensor

RunDag = Callable[..., Any]

NO_DEAL = "00000000-0000-4000-8000-000000000000"
STAGE = ids.stage_id("Sales", "Won")
MOVE = {"task_id": "task", "deal_id": NO_DEAL, "stage_id": STAGE}
"""Arguments of a task that fails with DEAL_NOT_FOUND."""


def dag_of(default_args: dict[str, Any] | None = None) -> DAG:
    return DAG(
        "on_error", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0), **(default_args or {})}
    )


# -- places -------------------------------------------------------------------------------------------------


def in_the_operator(on_error: Any) -> DAG:
    with dag_of() as dag:
        CrmMoveDealStageOperator(**MOVE, on_error=on_error)
    return dag


def in_default_args(on_error: Any) -> DAG:
    with dag_of({"on_error": on_error}) as dag:
        CrmMoveDealStageOperator(**MOVE)
    return dag


def in_default_args_of_a_task_group(on_error: Any) -> DAG:
    with dag_of() as dag, TaskGroup("group", default_args={"on_error": on_error}, prefix_group_id=False):
        CrmMoveDealStageOperator(**MOVE)
    return dag


def in_default_args_of_the_task(on_error: Any) -> DAG:
    with dag_of() as dag:
        CrmMoveDealStageOperator(**MOVE, default_args={"on_error": on_error})
    return dag


def in_partial(on_error: Any) -> DAG:
    with dag_of() as dag:
        CrmMoveDealStageOperator.partial(task_id="task", stage_id=STAGE, on_error=on_error).expand(deal_id=[NO_DEAL])
    return dag


def in_default_args_of_partial(on_error: Any) -> DAG:
    with dag_of({"on_error": on_error}) as dag:
        CrmMoveDealStageOperator.partial(task_id="task", stage_id=STAGE).expand(deal_id=[NO_DEAL])
    return dag


def in_default_args_of_a_task_group_of_partial(on_error: Any) -> DAG:
    with dag_of() as dag, TaskGroup("group", default_args={"on_error": on_error}, prefix_group_id=False):
        CrmMoveDealStageOperator.partial(task_id="task", stage_id=STAGE).expand(deal_id=[NO_DEAL])
    return dag


def in_default_args_of_partial_itself(on_error: Any) -> DAG:
    with dag_of() as dag:
        CrmMoveDealStageOperator.partial(task_id="task", stage_id=STAGE, default_args={"on_error": on_error}).expand(
            deal_id=[NO_DEAL]
        )
    return dag


PLACES = [
    in_the_operator,
    in_default_args,
    in_default_args_of_a_task_group,
    in_default_args_of_the_task,
    in_partial,
    in_default_args_of_partial,
    in_default_args_of_a_task_group_of_partial,
    in_default_args_of_partial_itself,
]
each_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)


@each_place
def test_on_error_takes_effect_in_each_place(place: Callable[[Any], DAG], crm: Sandbox, run_dag: RunDag) -> None:
    (task,) = run_dag(place({"DEAL_NOT_FOUND": "skip"})).tasks.values()
    assert task.states == ["skipped"]
    assert task.xcoms["crm_error"]["origin"] == "on_error[DEAL_NOT_FOUND]"


@each_place
def test_on_error_is_checked_at_parse_in_each_place(place: Callable[[Any], DAG]) -> None:
    with pytest.raises(ValueError, match="Did you mean 'DEAL_NOT_FOUND'"):
        place({"DEAL_NOT_FUOND": "skip"})


def test_on_error_of_the_operator_replaces_default_args(crm: Sandbox, run_dag: RunDag) -> None:
    with dag_of({"on_error": {"DEAL_NOT_FOUND": "skip"}}) as dag:
        CrmMoveDealStageOperator(**MOVE, on_error={"CrmTransientError": "fail"})
    assert run_dag(dag)["task"].states == ["failed"]


def test_on_error_in_default_args_may_name_errors_of_other_operators(crm: Sandbox, run_dag: RunDag) -> None:
    with dag_of({"on_error": {"CONTACT_ALREADY_EXISTS": "fail", "DEAL_NOT_FOUND": "skip"}}) as dag:
        CrmMoveDealStageOperator(**MOVE)
        CrmUpsertContactOperator(task_id="upsert", contact_email="ada@example.com", mode="create")
        CrmListSensor(task_id="sensor", list_name="Newsletter")
    assert run_dag(dag).states() == {"task": "skipped", "upsert": "failed", "sensor": "success"}
