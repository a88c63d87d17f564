"""Task states: turns a typed error and a decision into an exception of Airflow. No other module raises these.

============  ==========================================================================================
decision      what Airflow sees
============  ==========================================================================================
``skip``      ``AirflowSkipException``
``retry``     the typed error: ``retries`` apply, on Airflow 3.3+ not before the server allows it. If the
              server asks for a long wait: ``AirflowRescheduleException``, which frees the slot and keeps
              the try
``fail``      the typed error, which the task's retry policy (3.3+) does not retry; without a policy
              ``AirflowFailException``, caused by the typed error
============  ==========================================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from crm_provider import config
from crm_provider import errors as e
from crm_provider._compat import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    Context,
)
from crm_provider.errors.on_error import Action, OnError, Work
from crm_provider.errors.policy import LONG_WAIT, Decision, ErrorPolicy, server_delay
from crm_provider.tasks.retry_policy import DECISION_KEY, CrmRetryPolicy

log = logging.getLogger(__name__)

MAX_TOTAL_WAIT = 24 * 3600.0
"""Seconds after a task's first reschedule from which it is not rescheduled again and ``retries`` apply."""

ERROR_XCOM = "crm_error"
"""XCom key of the error that decided a task's state. It contains no values."""


REASON_XCOM, LONGEST_REASON = "crm_reason", 1000
"""XCom key of the reason of a load that ends before its first call, if it is no error of the CRM; its characters."""


@contextmanager
def crm_errors(on_error: OnError | None = None) -> Iterator[None]:
    """Give your own tasks that use the hook the same outcomes as the operators.

    Outside of a running task (a script, a plain test, ``@task.virtualenv``, ``@task.external_python``) it raises the
    typed error or the skip.

    >>> @task
    ... def note(email: str):
    ...     with crm_errors({"CONTACT_NOT_FOUND": "skip"}):
    ...         CrmHook().request("POST", "/contacts/{email}/notes", path_params={"email": email}, json={...})

    :param on_error: overrides, as for operators
    :raises ValueError: if a line of ``on_error`` is invalid
    """
    policy = ErrorPolicy(on_error or {}, site=config.on_error(Work.TASK))
    try:
        yield
    except e.CrmError as error:
        decision = policy.decide(error)
        context = _current_context()
        if context is None:
            _raise_outside_of_a_task(error, decision)
        raise_for_decision(error, decision, context)


def _current_context() -> Context | None:
    """The context of the running task; None in a script, a plain test, or the separate interpreter of a task."""
    from airflow.sdk import get_current_context

    try:
        return get_current_context()
    except RuntimeError:
        return None


def _raise_outside_of_a_task(error: e.CrmError, decision: Decision) -> NoReturn:
    """Raise the typed error or the skip: without a task there is no retry, no reschedule and no XCom."""
    log.info("%s -> %s, by %s", error.type, decision.action.value, decision.origin)
    if decision.action is Action.SKIP:
        skip(f"Skipped by {decision.origin}. {error}", cause=error)
    raise error


def raise_for_decision(error: e.CrmError, decision: Decision, context: Context) -> NoReturn:
    """End the task with the decided state.

    The decision is stored in the context for :class:`~crm_provider.tasks.CrmRetryPolicy`.
    """
    ti, task = context["ti"], context["task"]
    retries_left = max(int(ti.max_tries or 0) - int(ti.try_number) + 1, 0)
    _publish(error, decision, ti, task)
    context[DECISION_KEY] = (error, decision)  # type: ignore[literal-required]
    if decision.action is Action.SKIP:
        skip(f"Skipped by {decision.origin}. {error}", cause=error)
    if decision.action is Action.RETRY:
        if (until := _reschedule_date(error, context)) is not None:
            log.warning("%s The slot is freed until %s; the try is kept.", error, until.isoformat(timespec="seconds"))
            reschedule(until)
        _remark(error, _retry_remark(retries_left))
        raise error
    policy = getattr(task, "retry_policy", None)
    if policy is not None and not isinstance(policy, CrmRetryPolicy):
        _remark(error, f"The outcome is fail, by {decision.origin}, but the task's own retry policy decides")
    else:
        _remark(error, f"Not retried, by {decision.origin}")
    if retries_left and policy is None:
        fail_without_retry(str(error), cause=error)
    raise error


def publish_reason(wrong: Exception, context: Context) -> None:
    """Publish why a task ends without a result, for the page CRM. The text holds no values, like that of any error."""
    value = {"error": type(wrong).__name__, "message": str(wrong)[:LONGEST_REASON]}
    if getattr(context["task"], "do_xcom_push", True):
        context["ti"].xcom_push(key=REASON_XCOM, value=value)


def fail_without_retry(message: str, *, cause: BaseException | None = None) -> NoReturn:
    """Fail the task regardless of ``retries`` and its retry policy: the same input would fail again."""
    raise AirflowFailException(message) from cause


def skip(message: str, *, cause: BaseException | None = None) -> NoReturn:
    """End the task as skipped."""
    raise AirflowSkipException(message) from cause


def reschedule(date: datetime) -> NoReturn:
    """Free the slot until a date without using up the try."""
    raise AirflowRescheduleException(date)


def sensor_timeout(message: str, *, cause: BaseException | None = None) -> NoReturn:
    """End a sensor after its timeout; Airflow applies ``soft_fail`` and ``retries``."""
    raise AirflowSensorTimeout(message) from cause


def task_timeout(message: str) -> NoReturn:
    """End a task whose ``execution_timeout`` is over, as Airflow does while a task runs: ``retries`` apply."""
    raise AirflowTaskTimeout(message)


def _reschedule_date(error: e.CrmError, context: Context) -> datetime | None:
    delay = server_delay(error)
    if not isinstance(error, e.CrmThrottledError) or delay is None or delay < LONG_WAIT:
        return None
    now = datetime.now(timezone.utc)
    first = context["ti"].get_first_reschedule_date(context)
    waited = max((now - first).total_seconds(), 0.0) if first is not None else 0.0  # the clock may have been set back
    if waited + delay > MAX_TOTAL_WAIT:
        return None
    return now + timedelta(seconds=delay)


def _retry_remark(retries_left: int) -> str:
    if retries_left:
        return f"Worth a retry: the task has {retries_left} left"
    return "Worth a retry, but the task has none left (set retries=)"


def _remark(error: e.CrmError, text: str) -> None:
    error.remark = f"{error.remark.rstrip('.')}. {text}" if error.remark else text


def _publish(error: e.CrmError, decision: Decision, ti: Any, task: Any) -> None:
    """Publish the error for people in the log and for later tasks as a small XCom."""
    log.info("%s -> %s, by %s", error.type, decision.action.value, decision.origin)
    value = {
        "error": type(error).__name__,
        "type": error.type,
        "status": error.status,
        "message": error.message,
        "suggested_action": error.suggested_action,
        "request_id": error.request_id,
        "action": decision.action.value,
        "decided_by": decision.decided_by.value,
        "origin": decision.origin,
    }
    if getattr(task, "do_xcom_push", True):
        ti.xcom_push(key=ERROR_XCOM, value=value)
