"""Waiting ends the same in every mode: errors, flags, overrides and time limits.

The expectations are written down here from the design's table of default outcomes. Each task looks three times: at
first it is not yet so, then the error strikes, then it is so. In mode ``deferrable`` it strikes in the trigger.
Real tasks (``dag.test``) against the real sandbox; a triggerer's clock runs 100 times as fast.
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

RunDag = Callable[..., Any]
RunTask = Callable[..., Any]
Waits = dict[str, list[float]]

FAIL, WAIT = "fail", "wait"


class Case(NamedTuple):
    """An error and what a waiting sensor does about it.

    :param raised: class and type
    :param outcome: of every sensor; ``elsewhere`` of those that are not about lists, if it differs
    """

    fault: Mapping[str, Any]
    raised: tuple[str, str]
    outcome: str
    elsewhere: str | None = None


def answer(name: str) -> dict[str, Any]:
    return {"effect": "error", "error": name}


CASES = {
    "key refused": Case(answer("key refused"), ("CrmForbiddenError", "FORBIDDEN"), FAIL),
    "SEGMENTATION_LIST_NOT_FOUND": Case(
        answer("SEGMENTATION_LIST_NOT_FOUND"),
        ("CrmSegmentationListNotFoundError", "SEGMENTATION_LIST_NOT_FOUND"),
        WAIT,
        elsewhere=FAIL,
    ),
    "quota used up": Case(
        {**answer("quota used up"), "retry_after": 1}, ("CrmLimitExceededError", "LIMIT_EXCEEDED"), WAIT
    ),
    "connection dropped": Case({"effect": "drop"}, ("CrmConnectionError", "CONNECTION"), WAIT),
}
"""One of each kind: refused, waited for by some sensors, waited through with and without the server's own delay. What
a sensor does about each other error: ``tests/unit/test_policy.py``."""

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
    "deferrable": {"deferrable": True, "poke_interval": 10, "timeout": 3_000_000},  # by the fast clock, see below
}

each_mode = pytest.mark.parametrize("mode", MODES)


@dataclass
class Play:
    """Sets what the CRM says to each look of a task, just before it runs."""

    crm: Sandbox
    seen: dict[str, int] = field(default_factory=dict)

    def callback(
        self, kind: str, fault: Mapping[str, Any], *, mode: str, once: bool = False, at_once: bool = False
    ) -> Callable[[Any], None]:
        """At the first look it is not yet so, from then on, or once, the fault applies.

        :param at_once: it applies at the first look already
        """
        body = json.dumps({"message": "ok", "data": KINDS[kind].not_yet})
        not_yet = {"effect": "garbage", "status": 200, "body": body, "count": 1}
        trouble = {**fault, "name": "trouble", **({"count": 1} if once else {})}

        def act(context: Any) -> None:
            task = context["ti"].task_id
            turn = self.seen[task] = self.seen.get(task, -1) + 1
            looks_again = 1 if mode == "reschedule" else 0  # which run of the task has its second look
            self.crm.clear_faults()
            if turn == 0 and not at_once:
                self.crm.add_fault(**not_yet)
            if turn == looks_again or (turn > looks_again and not once):
                self.crm.add_fault(**trouble)

        return act


def outcome_of(kind: str, case: Case) -> str:
    return case.outcome if KINDS[kind].about_lists or case.elsewhere is None else case.elsewhere


def expected_end(kind: str, case: Case) -> dict[str, Any]:
    """Whatever the mode is."""
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


@pytest.mark.skipif(not HAS_RETRY_POLICY, reason="below 3.3 a retry is prevented by another class: test_outcomes.py")
@pytest.mark.parametrize("kind", KINDS)
def test_table(kind: str, crm: Sandbox, run_dag: RunDag, waits: Waits, fast_triggers: None) -> None:
    """In the triggerer: one sensor with every case, the others where they differ. ``test_outcomes.py`` has the rest."""
    play, mode = Play(crm), "deferrable"
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
    assert affected == len(cases), "each task met its error once"
    assert {run[f"task_{n}"].try_number for n in range(len(cases))} == {1}


def test_every_sensor_is_in_the_table() -> None:
    from crm_provider.errors.on_error import Work
    from crm_provider.errors.policy import OPERATORS

    sensors = {name for name, work in OPERATORS.items() if work is Work.SENSOR}
    assert {kind.sensor.__name__ for kind in KINDS.values()} == sensors


# -- the same with flags, overrides and limits ----------------------------------------------------------------


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


@pytest.mark.skipif(not HAS_RETRY_POLICY, reason="below 3.3 by other classes, and reschedules are not counted")
@each_mode
def test_flags_and_overrides(mode: str, crm: Sandbox, run_dag: RunDag, waits: Waits, fast_triggers: None) -> None:
    play = Play(crm)
    with DAG("flags", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for number, (error, flags, *_) in enumerate(ENDS.values()):
            act = play.callback("membership", answer(error), mode=mode)
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
def test_a_timeout_is_a_skip_under_soft_fail_whatever_the_last_result_was(
    mode: str, crm: Sandbox, run_dag: RunDag, waits: Waits, fast_triggers: None
) -> None:
    last_result = "SERVICE_UNAVAILABLE (503) on GET /segments"
    play, at_once = Play(crm), mode == "poke"  # there its time may be over after one look
    with DAG("in_vain", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(0)}) as dag:
        for flag in ("plain", *FLAGS):
            CrmListSensor(
                task_id=flag,
                on_execute_callback=play.callback("list", answer("unavailable"), mode=mode, at_once=at_once),
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
def test_the_execution_timeout_ends_a_try(
    mode: str, flag: str, crm: Sandbox, run_task: RunTask, waits: Waits, fast_triggers: None
) -> None:
    """Also of a wait that Airflow, in the triggerer, does not limit."""
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


# -- only where one defers ------------------------------------------------------------------------------------


@pytest.fixture
def first_not_yet(crm: Sandbox) -> None:
    """The first look finds that it is not so yet: what is met later is met in the trigger."""
    body = json.dumps({"message": "ok", "data": KINDS["membership"].not_yet})
    crm.add_fault(effect="garbage", status=200, body=body, count=1)


def test_what_is_so_at_once_is_not_deferred(crm: Sandbox, run_task: RunTask) -> None:
    task = run_task(CrmListSensor, list_name="Newsletter", deferrable=True)
    assert task.states == ["success"]
    assert len(crm.journal()) == 1


def test_retry_after_of_the_first_look_holds_in_the_trigger(crm: Sandbox, run_task: RunTask) -> None:
    crm.add_fault(effect="error", error="throttled", retry_after=3, count=1)
    task = run_task(CrmListSensor, list_name="Newsletter", deferrable=True, poke_interval=1, timeout=300)
    assert task.states[-1] == "success"
    refused, asked_again = crm.journal()
    assert asked_again.at - refused.at >= 3


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
def test_a_long_retry_after_of_the_first_look_defers_and_does_not_move_the_deadline(
    mode: str, crm: Sandbox, run_task: RunTask
) -> None:
    crm.add_fault(effect="error", error="throttled", retry_after=300, count=1)
    task = run_task(CrmListSensor, list_name="Newsletter", deferrable=True, mode=mode, poke_interval=1, timeout=2)
    assert "up_for_reschedule" not in task.states
    assert type(task.error).__name__ == "AirflowSensorTimeout"
    assert len(crm.journal()) == 1


def test_retry_of_a_used_up_quota_frees_the_slot_and_looks_anew(
    crm: Sandbox, first_not_yet: None, run_task: RunTask, waits: Waits, fast_triggers: None
) -> None:
    """What was met in the trigger reschedules the task; it starts with a new look, not with the old event."""
    crm.add_fault(effect="error", error="quota used up", retry_after=3600, count=1)
    task = run_task(
        CrmListMembershipSensor,
        emails=MEMBER,
        list_id=NEWSLETTER,
        on_error={"LIMIT_EXCEEDED": "retry"},
        **MODES["deferrable"],
    )
    assert task.states[-2:] == ["up_for_reschedule", "success"]
    assert waits["task"] == pytest.approx([3600], abs=5)


@pytest.mark.parametrize("mode", MODES)
def test_a_back_off_of_airflow_that_would_do_nothing_is_reported_at_parse(mode: str) -> None:
    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        CrmListSensor(
            task_id="x", list_name="Late", exponential_backoff=True, max_wait=timedelta(minutes=5), **MODES[mode]
        )
    found = [str(warning.message) for warning in reported if "exponential_backoff" in str(warning.message)]
    assert len(found) == (mode == "deferrable")
    assert all("x: exponential_backoff and max_wait do nothing" in text for text in found)


@pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
def test_a_trigger_that_breaks_is_no_skip(
    flag: str, crm: Sandbox, run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's sensor base would skip the task: nothing to do, it seems."""
    from airflow.sdk.bases import sensor as module

    sensor = CrmListSensor(task_id="x", list_name="Late", deferrable=True, **{flag: True})
    with pytest.raises(module.TaskDeferralError):
        sensor.resume_execution("__fail__", {"error": "Trigger failure", "traceback": ["KeyError"]}, {})  # type: ignore[arg-type]
