"""A retry policy for Airflow 3.3 and newer: only transient errors are retried, after the delay the server asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import HAS_RETRY_POLICY
from crm_provider.errors.on_error import Action, OnError, Work
from crm_provider.errors.policy import Decision, ErrorPolicy, server_delay

if TYPE_CHECKING or HAS_RETRY_POLICY:
    from crm_provider._compat import RetryDecision, RetryPolicy
else:
    RetryPolicy = object


LONGEST_DELAY = 24 * 3600.0
"""Seconds by which a server's delay may put off a retry at most."""

DECISION_KEY = "crm_decision"
"""Key of the task's context for the error that ended this try, and what was decided about it."""


class CrmRetryPolicy(RetryPolicy):
    """Retries errors whose action is ``retry`` and fails all others at once.

    CRM operators and sensors have it by default. For tasks of your own that use the hook:

    >>> @task(retries=3, retry_policy=CrmRetryPolicy({"DEAL_NOT_FOUND": "retry"}))
    ... def move(deal_id: str, stage_id: str):
    ...     CrmHook().move_deal(deal_id, stage_id=stage_id)

    Other exceptions are left to Airflow's ordinary retries.

    :param on_error: overrides for tasks that have no error policy of their own; a retry policy cannot skip a task,
        so ``skip`` fails it (use :func:`~crm_provider.tasks.crm_errors` in the task to skip)
    """

    def __init__(self, on_error: OnError | None = None) -> None:
        self.error_policy = ErrorPolicy(on_error or {})

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any | None = None
    ) -> RetryDecision:
        """Retry, with the server's delay if it gave one, or fail."""
        if not isinstance(exception, e.CrmError):
            return RetryDecision.default()
        decision = self._decision(exception, context or {})
        reason = f"{exception.type}: {decision.action.value}, by {decision.origin}"
        if decision.action not in (Action.RETRY, Action.WAIT):
            return RetryDecision.fail(reason)
        return RetryDecision.retry(_delay(exception, (context or {}).get("task")), reason)

    def _decision(self, error: e.CrmError, context: Mapping[str, Any]) -> Decision:
        """What was decided when this error ended the try; else what the task's own policy, or this one, says."""
        ended, decision = context.get(DECISION_KEY, (None, None))
        if ended is error and isinstance(decision, Decision):
            return decision
        policy = getattr(context.get("task"), "error_policy", None)
        if not isinstance(policy, ErrorPolicy):
            policy = replace(self.error_policy, site=config.on_error(Work.TASK))
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
