"""What the tests of task outcomes share: a CRM that costs no time, and an Airflow that does not wait."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from crm_provider.sandbox import Sandbox


@pytest.fixture
def crm(crm_sandbox: Sandbox, crm_connection: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox behind ``crm_default``: no rate limit, no pacing, and one attempt in each call.

    How often one call is sent is the client's subject: with one attempt, one fault is one failed try or check.
    """
    from crm_provider import transport

    monkeypatch.setattr(transport, "RetryBudget", partial(transport.RetryBudget, tries=1))
    monkeypatch.setenv("AIRFLOW_CONN_CRM_DEFAULT", crm_sandbox.connection_json(rate_store="off"))
    crm_sandbox.configure(rate=None)
    return crm_sandbox


@pytest.fixture
def run_task(run_dag: Callable[..., Any]) -> Callable[..., Any]:
    """Run one task: ``run_task(operator, **arguments)``, with ``retries=1`` unless they say so; tells how it ended."""
    from airflow.sdk import DAG

    def run(operator: type, **arguments: Any) -> Any:
        with DAG("one_task", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
            operator(task_id="task", **arguments)
        return run_dag(dag)["task"]

    return run


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Makes time fly: what Airflow would wait for is due at once, and has been waited for as far as Airflow knows.

    :return: the seconds of each wait, by task instance
    """
    from airflow.sdk.definitions import dag as module

    run_task = module._run_task
    noted: dict[str, list[float]] = {}

    def watched(*, ti: Any, task: Any, **arguments: Any) -> Any:
        result = run_task(ti=ti, task=task, **arguments)
        if ti.state in ("up_for_retry", "up_for_reschedule"):
            name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
            noted.setdefault(name, []).append(_skip_wait(ti))
        return result

    monkeypatch.setattr(module, "_run_task", watched)
    return noted


def _skip_wait(ti: Any) -> float:
    """Move the past of a task instance back by what it is to wait for."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskreschedule import TaskReschedule
    from airflow.utils.session import create_session
    from sqlalchemy import select

    now = datetime.now(timezone.utc)
    with create_session() as session:
        wanted = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}
        row = session.scalars(select(TaskInstance).filter_by(**wanted)).one()
        if row.state == "up_for_reschedule":
            rows = select(TaskReschedule).where(TaskReschedule.ti_id == row.id).order_by(TaskReschedule.id)
            reschedules = session.scalars(rows).all()
            wait = reschedules[-1].reschedule_date - now
            for reschedule in reschedules:
                reschedule.start_date -= wait
                reschedule.end_date -= wait
                reschedule.reschedule_date -= wait
        else:
            row.task = ti.task
            wait = row.next_retry_datetime() - now
            # dag.test holds the row as well, and would write the old end date back
            ti.end_date = row.end_date = row.end_date - wait - timedelta(milliseconds=1)
        _move_back_what_a_sensor_remembers(session, wanted, wait.total_seconds())
    return wait.total_seconds()


def _move_back_what_a_sensor_remembers(session: Any, wanted: dict[str, Any], seconds: float) -> None:
    try:
        from airflow.models.task_state_store import TaskStateStoreModel
    except ImportError:  # below 3.3
        return
    from sqlalchemy import select

    for row in session.scalars(select(TaskStateStoreModel).filter_by(**wanted)):
        remembered = json.loads(row.value)
        if remembered.get("not_before"):
            row.value = json.dumps({**remembered, "not_before": remembered["not_before"] - seconds})
