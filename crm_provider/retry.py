"""A retry policy for Airflow 3.3 and newer: only what is worth it is retried, and after the server's delay."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from crm_provider import errors as e
from crm_provider import site_config
from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.policy import Action, Decision, ErrorPolicy, OnError, Work
from crm_provider.waiting import server_delay

if TYPE_CHECKING or HAS_RETRY_POLICY:
    from crm_provider._compat import RetryDecision, RetryPolicy
else:
    RetryPolicy = object


LONGEST_DELAY = 24 * 3600.0
"""Seconds that a server's word may put off a retry."""


class CrmRetryPolicy(RetryPolicy):
    """Retries what the error policy calls worth a retry and fails the rest at once.

    CRM operators and sensors have it by default. For tasks of your own that use the hook:

    >>> @task(retries=3, retry_policy=CrmRetryPolicy({"DEAL_NOT_FOUND": "retry"}))
    ... def move(deal_id: str, stage_id: str):
    ...     CrmHook().move_deal(deal_id, stage_id=stage_id)

    Errors that are not the CRM's are left to Airflow's ordinary retries.

    :param on_error: overrides for tasks that have no error policy of their own; a retry policy cannot skip a task,
        so ``skip`` fails it (use :func:`~crm_provider.outcome.crm_errors` in the task to skip)
    """

    def __init__(self, on_error: OnError | None = None) -> None:
        self.error_policy = ErrorPolicy(on_error or {})

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any | None = None
    ) -> RetryDecision:
        """Retry, with the server's delay if it gave one, or fail."""
        if not isinstance(exception, e.CrmError):
            return RetryDecision.default()
        task = (context or {}).get("task")
        decision = exception.decided or self._decision(exception, task)
        reason = f"{exception.type}: {decision.action.value}, by {decision.origin}"
        if decision.action not in (Action.RETRY, Action.WAIT):
            return RetryDecision.fail(reason)
        return RetryDecision.retry(_delay(exception, task), reason)

    def _decision(self, error: e.CrmError, task: Any) -> Decision:
        policy = getattr(task, "error_policy", None)
        if policy is None:
            policy = replace(self.error_policy, site=site_config.on_error(Work.TASK))
        return policy.decide(error)

    def serialize(self) -> dict[str, Any]:
        return {"on_error": self.error_policy.as_data()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> CrmRetryPolicy:
        return cls(data["on_error"])


def _delay(error: e.CrmError, task: Any) -> timedelta | None:
    """The server's delay, at most the task's ``max_retry_delay`` and :data:`LONGEST_DELAY`: Airflow does not cap it."""
    seconds = server_delay(error)
    if seconds is None:
        return None
    seconds = min(seconds, LONGEST_DELAY)
    longest = getattr(task, "max_retry_delay", None)
    if longest is not None:
        seconds = min(seconds, longest.total_seconds() if isinstance(longest, timedelta) else float(longest))
    return timedelta(seconds=seconds)


DEFAULT_RETRY_POLICY: Any = CrmRetryPolicy() if HAS_RETRY_POLICY else None
"""The policy that operators and sensors have if the task names none."""
