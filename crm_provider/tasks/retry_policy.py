"""A retry policy for Airflow 3.3 and newer: only transient errors are retried, not before the server allows it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import HAS_RETRY_POLICY, conf
from crm_provider.errors.on_error import Action, OnError, Work
from crm_provider.errors.policy import Decision, ErrorPolicy, server_delay

if TYPE_CHECKING or HAS_RETRY_POLICY:
    from crm_provider._compat import RetryDecision, RetryPolicy
else:
    RetryPolicy = object


LONGEST_DELAY = 24 * 3600.0
"""Maximum delay of a retry that a server can ask for, in seconds."""

DECISION_KEY = "crm_decision"
"""Key in the task's context of the error that ended this try and of the decision about it."""


class CrmRetryPolicy(RetryPolicy):
    """Retries errors whose action is ``retry`` and fails all others at once.

    CRM operators and sensors use it by default. For your own tasks that use the hook:

    >>> @task(retries=3, retry_policy=CrmRetryPolicy({"DEAL_NOT_FOUND": "retry"}))
    ... def move(deal_id: str, stage_id: str):
    ...     CrmHook().move_deal(deal_id, stage_id=stage_id)

    Airflow's ordinary retries apply to other exceptions.

    :param on_error: overrides for tasks without their own error policy. A retry policy cannot skip a task, so ``skip``
        fails it (to skip, use :func:`~crm_provider.tasks.crm_errors` in the task)
    """

    def __init__(self, on_error: OnError | None = None) -> None:
        self.error_policy = ErrorPolicy(on_error or {})

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any | None = None
    ) -> RetryDecision:
        """Retry, not before the server's delay if it asks for one, or fail."""
        if not isinstance(exception, e.CrmError):
            return RetryDecision.default()
        decision = self._decision(exception, context or {})
        reason = f"{exception.type}: {decision.action.value}, by {decision.origin}"
        if decision.action not in (Action.RETRY, Action.WAIT):
            return RetryDecision.fail(reason)
        return RetryDecision.retry(retry_delay(exception, try_number, context or {}), reason)

    def _decision(self, error: e.CrmError, context: Mapping[str, Any]) -> Decision:
        """The decision that ended this try, else that of the task's policy, else that of this policy."""
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


def retry_delay(error: e.CrmError, try_number: int, context: Mapping[str, Any]) -> timedelta | None:
    """Time until the next try: the longer of the task's own delay and the server's.

    Airflow does not limit a policy's delay. So this method limits the server's delay: by the task's ``max_retry_delay``
    and by :data:`LONGEST_DELAY`.

    :param try_number: the try that failed, from 1
    :return: None if the server asks for no delay: then Airflow's own delay applies
    """
    server = server_delay(error)
    if server is None:
        return None
    task = context.get("task")
    longest = _seconds(getattr(task, "max_retry_delay", None))
    server = min(server, LONGEST_DELAY, math.inf if longest is None else longest)
    return timedelta(seconds=max(server, own_delay(task, try_number, context)))


def own_delay(task: Any, try_number: int, context: Mapping[str, Any]) -> float:
    """Seconds that Airflow itself would wait before the next try, as ``TaskInstance.next_retry_datetime`` computes it.

    Without back-off it is ``retry_delay``. With back-off (``retry_exponential_backoff`` other than 0 and 1) it is
    between the grown delay and twice as much, at most ``max_retry_delay``. A hash of the try decides.

    :param try_number: the try that failed, from 1
    """
    delay = _seconds(getattr(task, "retry_delay", None)) or 0.0
    growth = getattr(task, "retry_exponential_backoff", 0)
    multiplier = 2.0 if growth is True else float(growth or 1.0)  # True as Airflow reads it from the stored DAG
    if multiplier == 1.0 or multiplier < 0:
        return delay
    longest = conf.getint("core", "max_task_retry_delay", fallback=int(LONGEST_DELAY))
    try:
        base = max(math.ceil(delay * multiplier ** (try_number - 1)), 1)
    except OverflowError:
        base = longest
    grown = min(base + _hash_of_try(try_number, context) % base, longest)
    limit = _seconds(getattr(task, "max_retry_delay", None))
    return float(min(grown, limit) if limit else grown)


def _hash_of_try(try_number: int, context: Mapping[str, Any]) -> int:
    """The hash that Airflow uses as the jitter of a try."""
    ti, run = context.get("ti"), context.get("dag_run")
    names = (getattr(ti, "dag_id", None), getattr(ti, "task_id", None), getattr(run, "logical_date", None), try_number)
    return int(hashlib.sha1("#".join(map(str, names)).encode(), usedforsecurity=False).hexdigest(), 16)


def _seconds(value: timedelta | float | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value


DEFAULT_RETRY_POLICY: Any = CrmRetryPolicy() if HAS_RETRY_POLICY else None
"""The default policy of operators and sensors."""
