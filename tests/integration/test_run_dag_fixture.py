"""The fixture that other tests rest on shows each way a task can end. Plain operators, no CRM."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.sdk import DAG

from crm_provider._compat import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    BaseOperator,
    BaseSensorOperator,
)

RunDag = Callable[..., Any]
log = logging.getLogger("crm_provider.of_this_test")


class Ends(BaseOperator):
    """Ends at each try as told: returns a value, or raises it if it is an exception."""

    def __init__(self, *, ends: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ends = ends

    def execute(self, context: Any) -> Any:
        try_number = context["ti"].try_number
        self.log.info("the operator tries for the %s. time", try_number)
        log.warning("the library tries for the %s. time", try_number)
        end = self.ends[try_number - 1]
        if isinstance(end, Exception):
            raise end
        context["ti"].xcom_push(key="more", value=[try_number])
        return end


class Waits(BaseSensorOperator):
    """Is done when the answers say so. They are the class's: every poke is made by another copy of the operator."""

    answers: ClassVar[list[bool]]

    def poke(self, context: Any) -> bool:
        return self.answers.pop(0)


class Postpones(BaseOperator):
    """Asks for a reschedule as often as there are dates."""

    dates: ClassVar[list[datetime]]

    def execute(self, context: Any) -> None:
        if self.dates:
            raise AirflowRescheduleException(self.dates.pop())


def one_task(operator: type[BaseOperator], **arguments: Any) -> DAG:
    with DAG("run_dag_fixture", schedule=None) as dag:
        operator(task_id="task", **arguments)
    return dag


def test_success_shows_the_xcoms_and_both_kinds_of_log(run_dag: RunDag) -> None:
    task = run_dag(one_task(Ends, ends=[{"id": 7}]))["task"]
    assert (task.state, task.try_number, task.states, task.error) == ("success", 1, ["success"], None)
    assert task.xcoms == {"return_value": {"id": 7}, "more": [1]}
    assert "INFO the operator tries for the 1. time" in task.log
    assert "WARNING the library tries for the 1. time" in task.log


def test_skip(run_dag: RunDag) -> None:
    run = run_dag(one_task(Ends, ends=[AirflowSkipException("nothing to do")]))
    assert run.state == "success"
    assert run["task"].states == ["skipped"]
    assert "nothing to do" in run["task"].log


def test_retry_then_success(run_dag: RunDag) -> None:
    error = ValueError("not yet")
    task = run_dag(one_task(Ends, ends=[error, "done"], retries=1, retry_delay=timedelta()))["task"]
    assert (task.states, task.try_number, task.result) == (["up_for_retry", "success"], 2, "done")
    assert [attempt.error for attempt in task.attempts] == [error, None]
    assert "ValueError: not yet" in task.log


@pytest.mark.parametrize(
    ("error", "retries"),
    [
        pytest.param(ValueError("wrong"), 0, id="no retries"),
        pytest.param(AirflowFailException("wrong"), 3, id="not worth a retry"),
    ],
)
def test_fail(run_dag: RunDag, error: Exception, retries: int) -> None:
    run = run_dag(one_task(Ends, ends=[error], retries=retries))
    assert (run.state, run.states()) == ("failed", {"task": "failed"})
    assert run["task"].error is error
    assert len(run["task"].attempts) == 1


def test_reschedule_of_a_sensor_keeps_the_try(run_dag: RunDag) -> None:
    Waits.answers = [False, False, True]
    task = run_dag(one_task(Waits, mode="reschedule", poke_interval=0.01))["task"]
    assert task.states == ["up_for_reschedule", "up_for_reschedule", "success"]
    assert task.try_number == 1


def test_reschedule_of_an_operator_keeps_the_try(run_dag: RunDag) -> None:
    Postpones.dates = [datetime.now(timezone.utc)]
    task = run_dag(one_task(Postpones))["task"]
    assert (task.states, task.try_number) == (["up_for_reschedule", "success"], 1)


def test_a_task_that_goes_in_circles_is_stopped(run_dag: RunDag) -> None:
    Postpones.dates = [datetime.now(timezone.utc)] * 100
    with pytest.raises(pytest.fail.Exception, match=r"task was run \d+ times"):
        run_dag(one_task(Postpones))


def test_mapped_tasks_and_conf(run_dag: RunDag) -> None:
    with DAG("run_dag_fixture", schedule=None) as dag:
        Ends.partial(task_id="mapped").expand(ends=[["a"], [ValueError("b")]])
    run = run_dag(dag, run_conf={"limit": 3})
    assert run.states() == {"mapped[0]": "success", "mapped[1]": "failed"}
    assert run["mapped[0]"].result == "a"
    assert "ValueError" not in run["mapped[0]"].log
    assert run.dag_run.conf == {"limit": 3}


def test_airflow_has_a_home_of_its_own(airflow_db: Path) -> None:
    assert os.environ["AIRFLOW_HOME"] == str(airflow_db)
    assert airflow_db != Path.home() / "airflow"
