"""Sensors end in the same state in every mode: errors, flags, overrides and timeouts.

The expected results are written by hand from the table of default outcomes in the design. Each sensor makes three
checks: the condition does not hold, the check fails, the condition holds. A deferred sensor fails in the trigger.
Real tasks (``dag.test``) run against the real sandbox. The clock of the triggerer runs 100 times as fast.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from airflow.sdk import DAG

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.sandbox import Sandbox, ids
from crm_provider.sensors.base import CrmSensor
from crm_provider.sensors.contacts import CrmContactSensor
from crm_provider.sensors.deals import CrmDealStageSensor
from crm_provider.sensors.lists import CrmListMembershipSensor, CrmListSensor

pytestmark = pytest.mark.usefixtures("no_loop_logs")

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]
Waits = dict[str, list[float]]

FAIL, WAIT = "fail", "wait"


class Case(NamedTuple):
    """An error, and the outcome of a sensor whose check fails with it.

    :param raised: class and type of the error
    :param outcome: outcome of each sensor
    :param elsewhere: outcome of the sensors for contacts and deals, if it differs
    """

    fault: Mapping[str, Any]
    raised: tuple[str, str]
    outcome: str
    elsewhere: str | None = None


def error_response(name: str) -> dict[str, Any]:
    return {"effect": "error", "error": name}


CASES = {
    "key refused": Case(error_response("key refused"), ("CrmForbiddenError", "FORBIDDEN"), FAIL),
    "SEGMENTATION_LIST_NOT_FOUND": Case(
        error_response("SEGMENTATION_LIST_NOT_FOUND"),
        ("CrmSegmentationListNotFoundError", "SEGMENTATION_LIST_NOT_FOUND"),
        WAIT,
        elsewhere=FAIL,
    ),
    "quota used up": Case(
        {**error_response("quota used up"), "retry_after": 1}, ("CrmLimitExceededError", "LIMIT_EXCEEDED"), WAIT
    ),
    "connection dropped": Case({"effect": "drop"}, ("CrmConnectionError", "CONNECTION"), WAIT),
}
"""One error of each kind: fatal, transient for some sensors, transient with and without ``Retry-After``.
``tests/unit/test_policy.py`` has all other errors."""

MEMBER = "ada@example.com"
NEWSLETTER = ids.list_id("Newsletter")
DEAL = ids.deal_id(ids.contact_id(MEMBER))
NEW = ids.stage_id("Sales", "New")


class Kind(NamedTuple):
    """A sensor, its result, and what the CRM responds while the condition does not hold yet."""

    sensor: type[CrmSensor]
    arguments: Mapping[str, Any]
    found: Mapping[str, Any]
    not_yet: Any
    about_lists: bool


KINDS = {
    "list": Kind(
        CrmListSensor,
        {"list_name": "Newsletter"},
        {"id": NEWSLETTER, "name": "Newsletter"},
        {"page": 0, "total": 0, "data": []},
        about_lists=True,
    ),
    "members": Kind(
        CrmListSensor,
        {"list_id": NEWSLETTER, "min_members": 2},
        {"id": NEWSLETTER, "members": 5},
        {"page": 0, "total": 0, "data": []},
        about_lists=True,
    ),
    "membership": Kind(
        CrmListMembershipSensor,
        {"emails": [MEMBER], "list_id": NEWSLETTER},
        {"list_id": NEWSLETTER, "contact_ids": [ids.contact_id(MEMBER)]},
        {"id": "1", "segmentedListsIds": []},
        about_lists=True,
    ),
    "contact": Kind(
        CrmContactSensor,
        {"contact_email": MEMBER, "status": "active"},
        {"id": ids.contact_id(MEMBER), "status": "active"},
        {"id": "1", "status": "new"},
        about_lists=False,
    ),
    "deal": Kind(
        CrmDealStageSensor,
        {"deal_id": DEAL, "stage_ids": NEW},
        {"id": DEAL, "stage_id": NEW},
        {"id": DEAL, "stageId": ids.stage_id("Sales", "Won")},
        about_lists=False,
    ),
}

MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke", "poke_interval": 0.01, "timeout": 300},
    "reschedule": {"mode": "reschedule", "poke_interval": 60, "timeout": 3000},
    "deferrable": {"deferrable": True, "poke_interval": 10, "timeout": 3_000_000},  # seconds of the fast clock
}

each_mode = pytest.mark.parametrize("mode", MODES)


@dataclass
class CheckResponses:
    """Sets the response to each check of a task, just before the task runs."""

    crm: Sandbox
    seen: dict[str, int] = field(default_factory=dict)

    def callback(
        self, kind: str, fault: Mapping[str, Any], *, mode: str, once: bool = False, at_once: bool = False
    ) -> Callable[[Any], None]:
        """The first check finds that the condition does not hold. The later checks, or only the second one, fail.

        :param once: only one check fails
        :param at_once: the first check fails already
        """
        body = json.dumps({"message": "ok", "data": KINDS[kind].not_yet})
        not_yet = {"effect": "garbage", "status": 200, "body": body, "count": 1}
        trouble = {**fault, "name": "trouble", **({"count": 1} if once else {})}

        def act(context: Any) -> None:
            task = context["ti"].task_id
            turn = self.seen[task] = self.seen.get(task, -1) + 1
            second_check = 1 if mode == "reschedule" else 0  # the run of the task that makes the second check
            self.crm.clear_faults()
            if turn == 0 and not at_once:
                self.crm.add_fault(**not_yet)
            if turn == second_check or (turn > second_check and not once):
                self.crm.add_fault(**trouble)

        return act


def outcome_of(kind: str, case: Case) -> str:
    return case.outcome if KINDS[kind].about_lists or case.elsewhere is None else case.elsewhere


def expected_end(kind: str, case: Case) -> dict[str, Any]:
    """The expected end of a sensor in any mode."""
    if outcome_of(kind, case) == WAIT:
        return {"state": "success", "raised": None, "result": KINDS[kind].found, "crm_error": None}
    error, type_ = case.raised
    return {"state": "failed", "raised": error, "result": None, "crm_error": (error, type_, "fail", True)}


def actual_end(task: Any, request_ids: set[str]) -> dict[str, Any]:
    left = task.xcoms.get("crm_error")
    return {
        "state": task.state,
        "raised": type(task.error).__name__ if task.error is not None else None,
        "result": task.result,
        "crm_error": left and (left["error"], left["type"], left["action"], left["request_id"] in {*request_ids, None}),
    }


@pytest.mark.skipif(not HAS_RETRY_POLICY, reason="below 3.3 another exception class prevents a retry: test_outcomes.py")
@pytest.mark.parametrize("kind", KINDS)
def test_deferred_sensor_ends_as_in_the_table(
    kind: str, crm: Sandbox, run_dag: RunDag, waits: Waits, fast_triggers: None
) -> None:
    """Deferred: one sensor with every case, the others where they differ. ``test_outcomes.py`` has the other modes."""
    play, mode = CheckResponses(crm), "deferrable"
    cases = CASES if kind == "membership" else {name: case for name, case in CASES.items() if case.elsewhere}
    with DAG("waiting", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for number, case in enumerate(cases.values()):
            act = play.callback(kind, case.fault, mode=mode, once=outcome_of(kind, case) == WAIT)
            KINDS[kind].sensor(
                task_id=f"task_{number}", on_execute_callback=act, **KINDS[kind].arguments, **MODES[mode]
            )
    run = run_dag(dag)
    sent = {entry.request_id for entry in crm.journal() if entry.fault == "trouble"}
    actual = {name: actual_end(run[f"task_{n}"], sent) for n, name in enumerate(cases)}
    expected = {name: expected_end(kind, case) for name, case in cases.items()}
    assert {name: (end, expected[name]) for name, end in actual.items() if end != expected[name]} == {}
    affected = len([entry for entry in crm.journal() if entry.fault == "trouble"])
    assert affected == len(cases), "each task has one failed check"
    assert {run[f"task_{n}"].try_number for n in range(len(cases))} == {1}


def test_mode_table_lists_every_sensor() -> None:
    from crm_provider.errors.on_error import Work
    from crm_provider.errors.policy import OPERATORS

    sensors = {name for name, work in OPERATORS.items() if work is Work.SENSOR}
    assert {kind.sensor.__name__ for kind in KINDS.values()} == sensors


# -- flags, overrides and timeouts ----------------------------------------------------------------------------


ENDS = {
    # error, arguments -> states after each run, class of the exception, action and origin in the error's XCom
    "refused, soft_fail": ("key refused", {"soft_fail": True}, ["failed"], "CrmForbiddenError", "fail"),
    "refused, never_fail": ("key refused", {"never_fail": True}, ["failed"], "CrmForbiddenError", "fail"),
    "on_error skip": ("CONTACT_NOT_FOUND", {"on_error": {"CONTACT_NOT_FOUND": "skip"}}, ["skipped"], None, "skip"),
    "errors in a row, soft_fail": (
        "INTERNAL_SERVER_ERROR",
        {"max_errors_in_a_row": 0, "soft_fail": True},
        ["up_for_retry", "failed"],
        "CrmInternalServerError",
        "retry",
    ),
}


@pytest.mark.skipif(
    not HAS_RETRY_POLICY, reason="below 3.3 the exception classes differ, and reschedules are not counted"
)
@each_mode
def test_flags_and_overrides(mode: str, crm: Sandbox, run_dag: RunDag, waits: Waits, fast_triggers: None) -> None:
    play = CheckResponses(crm)
    with DAG("flags", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for number, (error, flags, *_) in enumerate(ENDS.values()):
            act = play.callback("membership", error_response(error), mode=mode)
            arguments = {**KINDS["membership"].arguments, **MODES[mode], **flags}
            CrmListMembershipSensor(task_id=f"task_{number}", on_execute_callback=act, **arguments)
    run = run_dag(dag)
    actual = {}
    for number, name in enumerate(ENDS):
        task = run[f"task_{number}"]
        states = [state for state in task.states if state not in ("up_for_reschedule", "deferred")]
        actual[name] = (states, type(task.error).__name__ if task.error else None, task.xcoms["crm_error"]["action"])
    assert actual == {name: (states, raised, action) for name, (_, _, states, raised, action) in ENDS.items()}


IN_VAIN: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke", "poke_interval": 0.05, "timeout": 0.3},
    "reschedule": {"mode": "reschedule", "poke_interval": 60, "timeout": 100},
    "deferrable": {"deferrable": True, "poke_interval": 10, "timeout": 0.5},
}
FLAGS = {"soft_fail": "skipped", "silent_fail": "failed", "never_fail": "failed"}


@each_mode
def test_timeout_with_soft_fail_skips_even_after_an_error(
    mode: str, crm: Sandbox, run_dag: RunDag, waits: Waits, fast_triggers: None
) -> None:
    last_result = "SERVICE_UNAVAILABLE (503) on GET /segments"
    play, at_once = CheckResponses(crm), mode == "poke"  # mode poke may reach its timeout after one check
    with DAG("in_vain", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for flag in ("plain", *FLAGS):
            CrmListSensor(
                task_id=flag,
                on_execute_callback=play.callback("list", error_response("unavailable"), mode=mode, at_once=at_once),
                list_name="Never",
                max_errors_in_a_row=10_000,
                **IN_VAIN[mode],
                **({flag: True} if flag in FLAGS else {}),
            )
    run = run_dag(dag)
    assert run.states() == {"plain": "failed", **FLAGS}
    for task in run.tasks.values():
        assert task.try_number == 1
        assert "crm_error" not in task.xcoms
        if task.state == "failed":
            assert type(task.error).__name__ == "AirflowSensorTimeout"
            assert last_result in str(task.error)
        else:
            assert last_result in task.log


@pytest.mark.parametrize("mode", ["poke", "deferrable"])
@pytest.mark.parametrize("flag", ["plain", "soft_fail"])
def test_execution_timeout_ends_the_try(
    mode: str, flag: str, crm: Sandbox, run_task: RunTask, waits: Waits, fast_triggers: None
) -> None:
    """It also ends a deferred wait, which Airflow itself does not limit."""
    task = run_task(
        CrmListSensor,
        list_name="Never",
        execution_timeout=timedelta(seconds=3),
        **{**MODES[mode], "poke_interval": 1},
        **({"soft_fail": True} if flag == "soft_fail" else {}),
    )
    states = [state for state in task.states if state != "deferred"]
    assert states == ["up_for_retry", "failed"]
    assert type(task.error).__name__ == "AirflowTaskTimeout"
    if mode == "deferrable":
        assert "execution_timeout of 0:00:03 is over. The last result was: SEGMENTATION_LIST" in str(task.error)


# -- deferrable sensors ---------------------------------------------------------------------------------------


@pytest.fixture
def first_check_is_negative(crm: Sandbox) -> None:
    """The first check finds that the condition does not hold, so that later faults happen in the trigger."""
    body = json.dumps({"message": "ok", "data": KINDS["membership"].not_yet})
    crm.add_fault(effect="garbage", status=200, body=body, count=1)


def test_condition_that_holds_at_once_is_not_deferred(crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(CrmListSensor, list_name="Newsletter", deferrable=True)
    assert task.states == ["success"]
    assert len(crm.journal()) == 1


def test_trigger_waits_for_retry_after_of_the_first_check(crm: Sandbox, run_task: RunTask) -> None:
    crm.add_fault(effect="error", error="throttled", retry_after=3, count=1)
    task = run_task(CrmListSensor, list_name="Newsletter", deferrable=True, poke_interval=1, timeout=300)
    assert task.states[-1] == "success"
    refused, repeated = crm.journal()
    assert repeated.at - refused.at >= 3


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_long_retry_after_defers_without_extending_the_timeout(mode: str, crm: Sandbox, run_task: RunTask) -> None:
    crm.add_fault(effect="error", error="throttled", retry_after=300, count=1)
    task = run_task(CrmListSensor, list_name="Newsletter", deferrable=True, mode=mode, poke_interval=1, timeout=2)
    assert "up_for_reschedule" not in task.states
    assert type(task.error).__name__ == "AirflowSensorTimeout"
    assert len(crm.journal()) == 1


def test_used_up_quota_in_the_trigger_reschedules_and_checks_again(
    crm: Sandbox, first_check_is_negative: None, run_task: RunTask, waits: Waits, fast_triggers: None
) -> None:
    """The error in the trigger reschedules the task, which then makes a new check."""
    crm.add_fault(effect="error", error="quota used up", retry_after=3600, count=1)
    task = run_task(
        CrmListMembershipSensor,
        emails=MEMBER,
        list_id=NEWSLETTER,
        on_error={"LIMIT_EXCEEDED": "retry"},
        **MODES["deferrable"],
    )
    assert task.states[-2:] == ["up_for_reschedule", "success"]
    assert waits["task"] == pytest.approx([3600], abs=20)


@pytest.mark.parametrize("mode", MODES)
def test_ineffective_airflow_backoff_warns_at_parse(mode: str) -> None:
    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        CrmListSensor(
            task_id="x", list_name="Late", exponential_backoff=True, max_wait=timedelta(minutes=5), **MODES[mode]
        )
    found = [str(warning.message) for warning in reported if "exponential_backoff" in str(warning.message)]
    assert len(found) == (mode == "deferrable")
    assert all("x: exponential_backoff and max_wait do nothing" in text for text in found)


@pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
def test_broken_trigger_fails_instead_of_skipping(
    flag: str, crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's base class would skip the task."""
    from airflow.sdk.bases import sensor as module

    sensor = CrmListSensor(task_id="x", list_name="Late", deferrable=True, **{flag: True})
    with pytest.raises(module.TaskDeferralError):
        sensor.resume_execution("__fail__", {"error": "Trigger failure", "traceback": ["KeyError"]}, {})  # type: ignore[arg-type]
