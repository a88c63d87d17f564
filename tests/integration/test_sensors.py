"""Sensors together with Airflow's own flags and timeouts, in modes poke and reschedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors import CrmInternalServerError
from crm_provider.sandbox import Sandbox, ids
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor

RunTask = Callable[..., Any]
Waits = dict[str, list[float]]

NEWSLETTER_ID = ids.list_id("Newsletter")
MEMBER = "ada@example.com"  # a member of the newsletter

MODES = {
    "poke": {"mode": "poke", "poke_interval": 0.01, "timeout": 300},
    "reschedule": {"mode": "reschedule", "poke_interval": 60, "timeout": 3000},
}

each_mode = pytest.mark.parametrize("mode", MODES)
each_flag = pytest.mark.parametrize("flag", ["soft_fail", "silent_fail", "never_fail"])


# -- flags that hide errors (test_deferrable_equals_sync.py covers final states) -----------------------------------


@each_flag
def test_long_retry_after_is_waited_for_with_every_flag(
    flag: str, crm: Sandbox, run_task: RunTask, waits: Waits
) -> None:
    crm.add_fault(effect="error", error="throttled", retry_after=300, count=1)
    task = run_task(CrmListSensor, list_name="Newsletter", **MODES["reschedule"], **{flag: True})
    assert task.states == ["up_for_reschedule", "success"]
    assert waits["task"] == pytest.approx([300], abs=20)


# -- server errors in a row ---------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_RETRY_POLICY, reason="the state store came with Airflow 3.3")
def test_server_errors_are_counted_across_reschedules(crm: Sandbox, run_task: RunTask, waits: Waits) -> None:
    crm.add_fault(effect="error", error="INTERNAL_SERVER_ERROR")
    task = run_task(CrmListSensor, list_name="Newsletter", max_errors_in_a_row=2, **MODES["reschedule"])
    one_try = ["up_for_reschedule", "up_for_reschedule"]
    assert task.states == [*one_try, "up_for_retry", *one_try, "failed"]
    assert isinstance(task.error, CrmInternalServerError)


def test_server_errors_without_a_state_store_end_at_the_timeout(
    crm: Sandbox, run_task: RunTask, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow below 3.3 has no state store."""
    crm.add_fault(effect="error", error="INTERNAL_SERVER_ERROR")
    task = run_task(
        CrmListSensor,
        list_name="Newsletter",
        max_errors_in_a_row=1,
        on_execute_callback=lambda context: context.pop("task_state_store", None),
        **{**MODES["reschedule"], "timeout": 210},
    )
    assert task.states == [*["up_for_reschedule"] * 4, "failed"]
    assert type(task.error).__name__ == "AirflowSensorTimeout"


@each_mode
def test_valid_response_resets_the_count_of_errors(mode: str, crm: Sandbox, run_task: RunTask, waits: Waits) -> None:
    """A negative check between errors starts the count of errors again."""
    for error in ("INTERNAL_SERVER_ERROR", "CONTACT_NOT_FOUND", "INTERNAL_SERVER_ERROR"):
        crm.add_fault(effect="error", error=error, count=1 if error == "CONTACT_NOT_FOUND" else 2)
    task = run_task(CrmListMembershipSensor, emails=MEMBER, list_id=NEWSLETTER_ID, max_errors_in_a_row=2, **MODES[mode])
    assert (task.states[-1], task.try_number) == ("success", 1)
    assert [entry.status for entry in crm.journal()] == [500, 500, 404, 500, 500, 200]


@pytest.mark.parametrize("sensor", [CrmListSensor, CrmListMembershipSensor])
def test_misspelt_list_name_is_shown_with_the_nearest_name(
    sensor: Any, crm: Sandbox, run_task: RunTask, waits: Waits
) -> None:
    arguments = {"emails": MEMBER} if sensor is CrmListMembershipSensor else {}
    task = run_task(sensor, list_name="newsletter", **arguments, **{**MODES["reschedule"], "timeout": 100})
    assert task.states[-1] == "failed"
    assert "no list is called 'newsletter'; did you mean 'Newsletter'?" in str(task.error)


# -- Retry-After --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "retry_after", "seconds"),
    [
        pytest.param("throttled", 300, 300, id="longer than the poke interval"),
        pytest.param("throttled", 10, 60, id="shorter than the poke interval"),
        pytest.param("unavailable", 300, 300, id="of a server error"),
    ],
)
def test_retry_after_delays_the_reschedule(
    error: str, retry_after: int, seconds: float, crm: Sandbox, run_task: RunTask, waits: Waits
) -> None:
    crm.add_fault(effect="error", error=error, retry_after=retry_after, count=2)
    task = run_task(CrmListSensor, list_name="Newsletter", **MODES["reschedule"])
    assert task.states == ["up_for_reschedule", "up_for_reschedule", "success"]
    assert waits["task"] == pytest.approx([seconds, seconds], abs=20)
