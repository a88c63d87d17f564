"""Repeated runs of a task: retries, ``Retry-After``, and reschedules within a try."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.sdk import DAG

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors import CrmLimitExceededError
from crm_provider.operators.contacts import CrmUpsertContactOperator
from crm_provider.operators.deals import CrmCreateDealOperator
from crm_provider.sandbox import Sandbox, ids
from crm_provider.testing import assert_no_duplicates

RunTask = Callable[..., Any]
Waits = dict[str, list[float]]

ADA = {"contact_email": "ada@example.com", "attributes": {"name": "Ada"}}
ALAN_ID = ids.contact_id("alan@example.com")
DEAL = {"contact_id": ALAN_ID, "pipeline_id": ids.pipeline_id("Sales"), "stage_id": ids.stage_id("Sales", "New")}
FIVE_MINUTES = timedelta(minutes=5)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=timezone.utc)


# -- reschedules within a try -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param({"error": "throttled", "retry_after": 3600}, 3600, id="an hour"),
        pytest.param({"error": "quota used up"}, 900, id="quota without one"),
    ],
)
@pytest.mark.parametrize("retries", [0, 2])
def test_long_wait_reschedules_within_the_try(
    fault: dict[str, Any], seconds: float, retries: int, crm: Sandbox, run_task: RunTask, waits: Waits
) -> None:
    crm.add_fault(effect="error", count=2, **fault)
    task = run_task(CrmUpsertContactOperator, retries=retries, **ADA)
    assert task.states == ["up_for_reschedule", "up_for_reschedule", "success"]
    assert task.try_number == 1
    assert waits["task"] == pytest.approx([seconds, seconds], abs=20)
    assert "crm_error" not in task.xcoms, "a resolved error must not remain in the XCom"
    assert "the try is kept" in task.log


def test_reschedules_of_a_try_are_limited(crm: Sandbox, run_task: RunTask, waits: Waits) -> None:
    """A try waits at most 24 hours in total, which is 4 waits of 20,000 s. Then retries apply."""
    crm.add_fault(effect="error", error="quota used up", retry_after=20_000)
    task = run_task(CrmUpsertContactOperator, **ADA)
    assert task.states == [*["up_for_reschedule"] * 4, "up_for_retry", *["up_for_reschedule"] * 4, "failed"]
    assert task.try_number == 2
    assert isinstance(task.error, CrmLimitExceededError)
    assert "No retries left" in str(task.error)


# -- retries ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_RETRY_POLICY, reason="the retry delay can be chosen since Airflow 3.3")
def test_short_retry_after_keeps_airflows_backoff(crm: Sandbox, run_dag: Any, waits: Waits) -> None:
    """Two tasks with the same ids, one with a short ``Retry-After``, have the same delays."""
    found = []
    for retry_after in (None, 1):
        crm.add_fault(effect="error", count=2, error="unavailable", retry_after=retry_after)
        with DAG("back_off", schedule=None) as dag:
            CrmUpsertContactOperator(
                task_id="task", retries=2, retry_delay=FIVE_MINUTES, retry_exponential_backoff=2, **ADA
            )
        assert run_dag(dag, logical_date=NEW_YEAR)["task"].states == ["up_for_retry", "up_for_retry", "success"]
        found.append(waits.pop("task"))
    airflows, with_header = found
    assert with_header == pytest.approx(airflows, abs=0.01)
    assert 300 <= airflows[0] < 600 <= airflows[1] < 1200


def test_success_after_retries_removes_the_error_xcom(crm: Sandbox, run_task: RunTask, waits: Waits) -> None:
    crm.add_fault(effect="error", error="INTERNAL_SERVER_ERROR", count=2)
    task = run_task(CrmUpsertContactOperator, retries=2, **ADA)
    assert task.states == ["up_for_retry", "up_for_retry", "success"]
    assert task.result == {"id": ids.contact_id("ada@example.com"), "outcome": "updated"}
    assert "crm_error" not in task.xcoms
    assert "2 retries left" in task.log
    assert "1 retry left" in task.log


# -- second tries -------------------------------------------------------------------------------------------


def test_second_try_finds_the_created_deal(crm: Sandbox, run_task: RunTask, waits: Waits) -> None:
    crm.add_fault(effect="lost", method="POST", path="/deals", count=1)
    task = run_task(CrmCreateDealOperator, **DEAL)
    assert task.states == ["up_for_retry", "success"]
    assert task.result == {
        "id": ids.deal_id(ALAN_ID),
        "contact_id": ALAN_ID,
        "stage_id": DEAL["stage_id"],
        "outcome": "found",
    }
    assert "The write may or may not have happened." in str(task.attempts[0].error)
    assert_no_duplicates(crm)
    assert len(crm.journal(method="POST", route="/deals")) == 1


@pytest.mark.parametrize(
    ("on_error", "state"),
    [
        pytest.param({}, "skipped", id="default"),
        pytest.param({"CONTACT_ASSOCIATED_WITH_A_DEAL": "fail"}, "failed", id="to fail"),
    ],
)
def test_second_try_does_not_accept_another_deal(
    on_error: dict[str, str], state: str, crm: Sandbox, run_task: RunTask, waits: Waits
) -> None:
    """The contact already has a deal. The task ends in the same state in the first and in the second try."""
    crm.add_fault(effect="error", error="unavailable", method="POST", path="/deals", count=1)
    other = {**DEAL, "contact_id": ids.contact_id("ada@example.com"), "attributes": {"pb_name": "Another"}}
    task = run_task(CrmCreateDealOperator, on_error=on_error, **other)
    assert task.states == ["up_for_retry", state]
    assert task.xcoms["crm_error"]["type"] == "CONTACT_ASSOCIATED_WITH_A_DEAL"


def test_second_try_skips_a_contact_that_exists_but_cannot_be_read(
    crm: Sandbox, run_task: RunTask, waits: Waits
) -> None:
    """As in a CRM that ignores the case of an address only in a creation. The first try would skip the task, too."""
    crm.add_fault(effect="error", error="unavailable", method="POST", path="/contacts", count=1)
    crm.add_fault(effect="error", error="CONTACT_NOT_FOUND", method="GET")
    task = run_task(CrmUpsertContactOperator, mode="create", **ADA)
    assert task.states == ["up_for_retry", "skipped"]
    assert task.xcoms["crm_error"]["type"] == "CONTACT_ALREADY_EXISTS"


def test_first_try_creates_the_deal_without_reading(crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(CrmCreateDealOperator, **DEAL)
    assert task.result["outcome"] == "created"
    assert crm.counters().calls == {"POST /deals": 1}
