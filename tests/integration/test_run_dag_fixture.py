"""The fixture ``run_dag`` reports each final state of a task. Plain operators without a CRM."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.sdk import DAG

from crm_provider._compat import AirflowFailException, AirflowRescheduleException, BaseOperator

RunDag = Callable[..., Any]
log = logging.getLogger("crm_provider.of_this_test")


class Ends(BaseOperator):
    """Returns the configured value of each try, or raises it if it is an exception."""

    def __init__(self, *, ends: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ends = ends

    def execute(self, context: Any) -> Any:
        try_number = context["ti"].try_number
        self.log.info("the operator is in try %s", try_number)
        log.warning("the library is in try %s", try_number)
        end = self.ends[try_number - 1]
        if isinstance(end, Exception):
            raise end
        context["ti"].xcom_push(key="more", value=[try_number])
        return end


class Postpones(BaseOperator):
    """Requests one reschedule per date."""

    dates: ClassVar[list[datetime]]

    def execute(self, context: Any) -> None:
        if self.dates:
            raise AirflowRescheduleException(self.dates.pop())


def one_task(operator: type[BaseOperator], **arguments: Any) -> DAG:
    with DAG("run_dag_fixture", schedule=None) as dag:
        operator(task_id="task", **arguments)
    return dag


def test_successful_task_has_xcoms_and_logs(run_dag: RunDag) -> None:
    task = run_dag(one_task(Ends, ends=[{"id": 7}]))["task"]
    assert (task.state, task.try_number, task.states, task.error) == ("success", 1, ["success"], None)
    assert task.xcoms == {"return_value": {"id": 7}, "more": [1]}
    assert "INFO the operator is in try 1" in task.log
    assert "WARNING the library is in try 1" in task.log


@pytest.mark.parametrize(
    ("error", "retries"),
    [
        pytest.param(ValueError("wrong"), 0, id="no retries"),
        pytest.param(AirflowFailException("wrong"), 3, id="AirflowFailException"),
    ],
)
def test_failed_task_has_its_error_and_one_attempt(run_dag: RunDag, error: Exception, retries: int) -> None:
    run = run_dag(one_task(Ends, ends=[error], retries=retries))
    assert (run.state, run.states()) == ("failed", {"task": "failed"})
    assert run["task"].error is error
    assert len(run["task"].attempts) == 1


def test_endless_reschedules_are_stopped(run_dag: RunDag) -> None:
    Postpones.dates = [datetime.now(timezone.utc)] * 100
    with pytest.raises(pytest.fail.Exception, match=r"task was run \d+ times"):
        run_dag(one_task(Postpones))


def test_airflow_has_its_own_home(airflow_db: Path) -> None:
    assert os.environ["AIRFLOW_HOME"] == str(airflow_db)
    assert airflow_db != Path.home() / "airflow"
