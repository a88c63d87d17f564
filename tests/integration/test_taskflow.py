"""User-defined tasks with the hook: ``crm_errors`` and ``CrmRetryPolicy``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG, task

from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors import CrmContactNotFoundError, CrmDealNotFoundError, CrmServiceUnavailableError
from crm_provider.hooks.crm import CrmHook
from crm_provider.sandbox import Sandbox, ids
from crm_provider.tasks import CrmRetryPolicy, crm_errors

RunDag = Callable[..., Any]
Waits = dict[str, list[float]]

NO_DEAL = "00000000-0000-4000-8000-000000000000"
STAGE = ids.stage_id("Sales", "Won")

needs_retry_policies = pytest.mark.skipif(not HAS_RETRY_POLICY, reason="retry policies came with Airflow 3.3")


@pytest.fixture
def run_function(run_dag: RunDag) -> Callable[..., Any]:
    """Run a function as a task with ``retries=1`` and return its result."""

    def run(function: Callable[[], Any], **arguments: Any) -> Any:
        arguments = {"retries": 1, "retry_delay": timedelta(0), **arguments}
        with DAG("taskflow", schedule=None) as dag:
            task(task_id="task", **arguments)(function)()
        return run_dag(dag)["task"]

    return run


def move(on_error: Any = None) -> Callable[[], None]:
    """A task that fails with DEAL_NOT_FOUND, unless there is a fault."""

    def function() -> None:
        with crm_errors(on_error):
            CrmHook().move_deal(NO_DEAL, stage_id=STAGE)

    return function


@pytest.mark.parametrize(
    ("on_error", "fault", "states"),
    [
        pytest.param(None, None, ["failed"], id="default"),
        pytest.param({"DEAL_NOT_FOUND": "skip"}, None, ["skipped"], id="skip"),
        pytest.param({"DEAL_NOT_FOUND": "retry"}, None, ["up_for_retry", "failed"], id="retry"),
        pytest.param(
            {"CrmTransientError": "fail"}, "unavailable", ["failed"], id="on_error maps a server error to fail"
        ),
    ],
)
@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(lambda on_error: {}, id="no policy"),
        pytest.param(lambda on: {"retry_policy": CrmRetryPolicy()}, id="default policy", marks=needs_retry_policies),
    ],
)
def test_crm_errors_sets_the_task_state(
    on_error: Any,
    fault: str | None,
    states: list[str],
    policy: Callable[[Any], dict[str, Any]],
    crm: Sandbox,
    run_function: Callable[..., Any],
) -> None:
    """The context manager decides with any retry policy of the task."""
    if fault:
        crm.add_fault(effect="error", error=fault)
    end = run_function(move(on_error), **policy(on_error))
    assert end.states == states
    assert end.xcoms["crm_error"]["action"] == {"skipped": "skip"}.get(states[-1], "retry" if states[1:] else "fail")


def test_crm_errors_reschedules_on_a_long_wait(crm: Sandbox, run_function: Callable[..., Any], waits: Waits) -> None:
    crm.store.create_deal(
        contact_id=ids.contact_id("alan@example.com"), pipeline_id=ids.pipeline_id("Sales"), stage_id=STAGE
    )
    crm.add_fault(effect="error", error="quota used up", retry_after=3600, count=1)

    def function() -> str:
        with crm_errors():
            return str(CrmHook().get_contact("alan@example.com")["id"])

    end = run_function(function)
    assert end.states == ["up_for_reschedule", "success"]
    assert waits["task"] == pytest.approx([3600], abs=20)
    assert end.xcoms == {"return_value": ids.contact_id("alan@example.com")}


@needs_retry_policies
@pytest.mark.parametrize(
    ("on_error", "fault", "states", "error"),
    [
        pytest.param({"DEAL_NOT_FOUND": "retry"}, None, ["up_for_retry", "failed"], CrmDealNotFoundError, id="retry"),
        pytest.param(
            {"DEAL_NOT_FOUND": "skip"},
            None,
            ["failed"],
            CrmDealNotFoundError,
            id="a retry policy cannot skip, so it fails",
        ),
        pytest.param(
            {"CrmTransientError": "fail"}, "unavailable", ["failed"], CrmServiceUnavailableError, id="to fail"
        ),
    ],
)
def test_retry_policy_without_crm_errors(
    on_error: Any, fault: str | None, states: list[str], error: type, crm: Sandbox, run_function: Callable[..., Any]
) -> None:
    if fault:
        crm.add_fault(effect="error", error=fault)
    end = run_function(lambda: CrmHook().move_deal(NO_DEAL, stage_id=STAGE), retry_policy=CrmRetryPolicy(on_error))
    assert end.states == states
    assert type(end.error) is error


def test_hook_raises_typed_errors(crm: Sandbox, run_function: Callable[..., Any]) -> None:
    def function() -> str:
        try:
            CrmHook().get_contact("nobody@example.com")
        except CrmContactNotFoundError as error:
            return f"{error.type} {error.status} {error.suggested_action}"
        return "found"

    assert run_function(function).result == "CONTACT_NOT_FOUND 404 check that the contact exists"


def test_hook_request_with_any_path(crm: Sandbox, run_function: Callable[..., Any]) -> None:
    def function() -> Any:
        with crm_errors({"CONTACT_NOT_FOUND": "skip"}):
            path = "/contacts/{email}"
            return CrmHook().request("GET", path, path_params={"email": "nobody+1@example.com"})

    assert run_function(function).states == ["skipped"]
