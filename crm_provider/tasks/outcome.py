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

The log shows one record of short lines, because Airflow's log view cuts long ones, and a traceback that keeps the
frames of Airflow and of the DAG's author. The record holds no values of rows.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ContextDecorator
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeAlias, TypeVar
from urllib.parse import quote

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
from crm_provider.values.counted import counted
from crm_provider.values.redaction import for_log, wrapped

P = ParamSpec("P")
R = TypeVar("R")
Facts: TypeAlias = Iterable[tuple[str, str | None]]

log = logging.getLogger(__name__)

OTHER_ADVICE = """Its message is below, after "Task failed with exception". A retry helps if the cause is
temporary, such as a lost connection; otherwise correct the cause and clear the task."""

DOCS = "the page Operations of the provider's documentation, What to do, by error family"

PACKAGE = "crm_provider."
OUTER = tuple(f"{PACKAGE}{name}." for name in ("operators", "sensors", "transfers", "tasks"))
"""Packages that may call code of the DAG's author, such as a ``call`` that a subclass overrides."""

MAX_TOTAL_WAIT = 24 * 3600.0
"""Seconds after a task's first reschedule; then it is not rescheduled again and ``retries`` apply."""

ERROR_XCOM = "crm_error"
"""XCom key of the error that decided a task's state. It contains no values."""

ENDS = (AirflowFailException, AirflowSensorTimeout)
"""Airflow's exceptions that end a task on purpose, after a record in its log: their frames add nothing."""

RECORDED = (AirflowRescheduleException, AirflowSkipException, *ENDS)  # they follow a record in the log

SAME_WAY = ", because a retry would fail in the same way"

REASON_XCOM, LONGEST_REASON = "crm_reason", 1000
"""XCom key of the reason of a load that ends before its first call without an error of the CRM; maximum characters."""


# -- the traceback ------------------------------------------------------------------------------------------


def short_traceback(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator that removes the frames of this package, and those below them, from exceptions that say everything.

    These are the exceptions of this package and :data:`ENDS`. It has no effect on Python 3.10, or if the log level of
    this package is DEBUG.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with _Shortened():
            return function(*args, **kwargs)

    return wrapper


class _Shortened(AbstractContextManager[None]):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None, /
    ) -> None:
        # Python 3.11+ adds the frame of the `with` before, and not again when the exception propagates
        is_ours = isinstance(error, ENDS) or type(error).__module__.startswith(PACKAGE)
        if error is not None and is_ours and not log.isEnabledFor(logging.DEBUG):
            leave_out_own_frames(error)


def leave_out_own_frames(error: BaseException) -> None:
    """Shorten the traceback of an error, and those of its causes."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = _shortened(seen.__traceback__)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _shortened(traceback: TracebackType | None) -> TracebackType | None:
    shortened = None
    for entry in reversed(list(_foreign(traceback))):
        shortened = TracebackType(shortened, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shortened


def _foreign(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """The frames outside this package, down to the first frame of its client."""
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__"))
        if not module.startswith(PACKAGE):
            yield traceback
        elif not module.startswith(OUTER):
            return
        traceback = traceback.tb_next


# -- the end of a task ------------------------------------------------------------------------------------


def crm_errors(on_error: OnError | None = None) -> AbstractContextManager[None]:
    """Give your own tasks that use the hook the same outcomes as the operators.

    Outside of a running task (a script, a plain test, ``@task.virtualenv``, ``@task.external_python``) it raises the
    typed error or the skip.

    >>> @task
    ... def note(email: str):
    ...     with crm_errors({"CONTACT_NOT_FOUND": "skip"}):
    ...         CrmHook().request("POST", "/contacts/{email}/notes", path_params={"email": email}, json={...})

    A load that ends early has decided by its own ``on_error``; a load with an invalid source or with too many rejected
    rows is not retried.

    :param on_error: overrides, as for operators
    :raises ValueError: if a line of ``on_error`` is invalid
    """
    return _CrmErrors(ErrorPolicy(on_error or {}, site=config.on_error(Work.TASK)))


class _CrmErrors(ContextDecorator, AbstractContextManager[None]):
    def __init__(self, policy: ErrorPolicy) -> None:
        self._policy = policy

    def __call__(self, function: Any) -> Any:
        if inspect.iscoroutinefunction(function):  # the block would end before the coroutine runs
            raise TypeError("crm_errors() cannot decorate an async function; write 'with crm_errors():' in it")
        return super().__call__(function)

    @short_traceback
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context = current_context()
        if context is not None and isinstance(error, Exception) and _is_final(error):
            publish_reason(error, context)
            fail_without_retry(str(error), cause=error, why=getattr(error, "why_no_retry", ""))
        if not isinstance(error, e.CrmError):
            return
        decision = _decided_by_a_load(error) or self._policy.decide(error)
        try:
            if context is None:
                _raise_outside_of_a_task(error, decision)
            raise_for_decision(error, decision, context)
        except e.CrmError:
            error.__traceback__ = traceback  # it propagates, without the frames of this method


def _is_final(error: Exception) -> bool:
    """Whether an error of a load would occur again in every try."""
    from crm_provider.load.report import TooManyRejects
    from crm_provider.load.rows import NoSuchFile, SourceError

    return isinstance(error, (SourceError, TooManyRejects)) and not isinstance(error, NoSuchFile)


def _decided_by_a_load(error: e.CrmError) -> Decision | None:
    """The decision of a load about the error that stopped it; None if no load raised it."""
    from crm_provider.load.report import LoadStopped

    return error.__cause__.decision if isinstance(error.__cause__, LoadStopped) else None


def current_context() -> Context | None:
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


def raise_for_decision(error: e.CrmError, decision: Decision, context: Context, *, facts: Facts = ()) -> NoReturn:
    """End the task with the decided state, and log one record about it.

    The decision is stored in the context for :class:`~crm_provider.tasks.CrmRetryPolicy`. ``facts`` are further lines.
    """
    ti, task = context["ti"], context["task"]
    left = retries_left(ti)
    _publish(error, decision, ti, task)
    context[DECISION_KEY] = (error, decision)  # type: ignore[literal-required]

    def log_end(level: int, ended: str) -> None:
        log.log(level, "%s", error_record(error, ended=ended, decision=decision, task=task, facts=facts))

    if decision.action is Action.SKIP:
        log_end(logging.INFO, "skipped")
        raise AirflowSkipException(f"Skipped by {decision.origin}. {error}") from error
    if decision.action is Action.RETRY:
        if (until := reschedule_date(error, context)) is not None:
            log_end(logging.WARNING, f"slot freed until {moment(until)}; the try is kept")
            raise AirflowRescheduleException(until)
        log_end(logging.WARNING if left else logging.ERROR, _try_failed(context))
        error.add_remark(_retry_remark(left, task))
        raise error
    policy = getattr(task, "retry_policy", None)
    if policy is not None and not isinstance(policy, CrmRetryPolicy):
        log_end(logging.ERROR, "failed; whether it is retried is up to the task's own retry policy")
        error.add_remark(f"The outcome is fail, by {decision.origin}, but the task's own retry policy decides")
    else:
        passing = isinstance(error, (e.CrmTransientError, e.CrmThrottledError))  # the line that decided is the reason
        log_end(logging.ERROR, f"failed; not retried{'' if passing else SAME_WAY}")
        error.add_remark(f"Not retried, by {decision.origin}")
    if left and policy is None:
        raise AirflowFailException(str(error)) from error
    raise error


def publish_reason(wrong: Exception, context: Context) -> None:
    """Publish why a task ends without a result, for the page CRM.

    Our own texts hold no values. An error of another library may, so only its class is published.
    """
    name = type(wrong).__name__
    is_ours = type(wrong).__module__.startswith(("crm_provider.", "airflow."))
    value = {"error": name, "message": str(wrong)[:LONGEST_REASON] if is_ours else f"{name}: see the task's log"}
    if getattr(context["task"], "do_xcom_push", True):
        context["ti"].xcom_push(key=REASON_XCOM, value=value)


def report_other(error: Exception, context: Context, *, publish: bool = True) -> None:
    """Log one record about another error that ended a try, such as one of a database.

    Airflow shows its message, which may hold values; the record names only the class.

    :param publish: also for the page CRM
    """
    if publish:
        publish_reason(error, context)
    if isinstance(error, RECORDED):
        return
    happened, advice, kind = _sentence(str(error)), None, type(error)
    if not kind.__module__.startswith(PACKAGE):
        whose = kind.__module__.partition(".")[0].replace("builtins", "Python")
        happened, advice = f"{kind.__name__} of {whose}{_where(context['task'])}: not a CRM error.", OTHER_ADVICE
    log.error("%s", record(happened, [("What to do", advice), ("Task", _try_failed(context))]))


def retries_left(ti: Any) -> int:
    """Tries that Airflow still starts if this one fails."""
    return max(int(ti.max_tries or 0) - int(ti.try_number) + 1, 0)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _where(task: Any) -> str:
    """The table and the connection that a task works with besides the CRM."""
    named = {"table": getattr(task, "table", None), "connection": getattr(task, "sql_conn_id", None)}
    known = ", ".join(f"{label} {value}" for label, value in named.items() if isinstance(value, str))
    return f" ({known})" if known else ""


def fail_without_retry(
    message: str, *, cause: BaseException | None = None, happened: str | None = None, facts: Facts = (), why: str = ""
) -> NoReturn:
    """Fail the task regardless of ``retries`` and its retry policy.

    :param happened: the part of the message that begins the record in the log, if ``facts`` hold the rest
    :param why: why it is not retried; by default because a retry would fail in the same way
    """
    because = f": {why}" if why else SAME_WAY
    log.error("%s", record(happened or message, [*facts, ("Task", f"failed; not retried{because}")]))
    raise AirflowFailException(message) from cause


def fail(error: Exception, context: Context, *, remark: str = "", facts: Facts = ()) -> NoReturn:
    """End this try with an error that is not from the CRM: ``retries`` apply.

    :param remark: a sentence for the record in the log; ``facts``: further lines
    """
    ended = ("Task", _try_failed(context))
    log.error("%s", record(f"{_sentence(str(error))} {remark}".rstrip(), [*facts, ended]))
    raise error


def skip(message: str, *, cause: BaseException | None = None, context: Context | None = None) -> NoReturn:
    """End the task as skipped.

    :param context: if nobody else publishes the reason for the page CRM
    """
    skipped = AirflowSkipException(message)
    if context is not None:
        publish_reason(skipped, context)
    log.info("%s", record(message, [("Task", "skipped")]))
    raise skipped from cause


def reschedule(date: datetime) -> NoReturn:
    """Free the slot until a date without using up the try."""
    raise AirflowRescheduleException(date)


def log_reschedule(date: datetime) -> None:
    """Log until when the slot is freed, because Airflow does not log the time."""
    log.info("Slot freed until %s; the try is kept.", moment(date))


def sensor_timeout(timeout: float, *, last_result: str, soft_fail: bool = False) -> NoReturn:
    """End a sensor after its timeout.

    :param timeout: in seconds
    :param last_result: what the last check found
    :param soft_fail: end it as skipped
    """
    message = f"Sensor has timed out after {timeout:.0f} s."
    ended = "skipped, by soft_fail" if soft_fail else "failed; the timeout of a sensor is not retried"
    level = logging.INFO if soft_fail else logging.ERROR
    log.log(level, "%s", record(message, [("Last result", last_result), ("Task", ended)]))
    message = f"{message} The last result was: {last_result}"
    if soft_fail:
        raise AirflowSkipException(f"Skipped by soft_fail. {message}") from None
    raise AirflowSensorTimeout(message) from None  # Airflow's own has no more than the seconds


def task_timeout(message: str) -> NoReturn:
    """End a task whose ``execution_timeout`` is over, as Airflow does while a task runs: ``retries`` apply."""
    log.error("%s", record(message, [("Task", "this try failed; retries apply")]))
    raise AirflowTaskTimeout(message)


def reschedule_date(error: e.CrmError, context: Context) -> datetime | None:
    """Until when an error frees the slot without using up the try; None if it does not."""
    delay = server_delay(error)
    if not isinstance(error, e.CrmThrottledError) or delay is None or delay < LONG_WAIT:
        return None
    now = datetime.now(timezone.utc)
    first = context["ti"].get_first_reschedule_date(context)
    waited = max((now - first).total_seconds(), 0.0) if first is not None else 0.0  # the clock may have been set back
    return None if waited + delay > MAX_TOTAL_WAIT else now + timedelta(seconds=delay)


def _try_failed(context: Context) -> str:
    return f"this try failed. {_retry_remark(retries_left(context['ti']), context['task'])}"


def _retry_remark(left: int, task: Any) -> str:
    none = "No retries left" if getattr(task, "retries", 0) else "No retries left (set retries=)"
    return counted(left, "retry left", "retries left") if left else none


def _publish(error: e.CrmError, decision: Decision, ti: Any, task: Any) -> None:
    """Publish the error for later tasks as a small XCom."""
    value = {
        "error": type(error).__name__, "type": error.type, "status": error.status, "message": error.message,
        "suggested_action": error.suggested_action, "request_id": error.request_id, "action": decision.action.value,
        "decided_by": decision.decided_by.value, "origin": decision.origin,
    }  # fmt: skip
    if getattr(task, "do_xcom_push", True):
        ti.xcom_push(key=ERROR_XCOM, value=value)


# -- what the log shows --------------------------------------------------------------------------------------


def record(happened: str, facts: Facts = ()) -> str:
    """Lines for people: what happened, then a line for each fact that is known.

    >>> print(record("Deal not found.", [("What to do", "Check that the deal exists."), ("Request id", None)]))
    Deal not found.
    What to do:  Check that the deal exists.
    """
    known = [(f"{name}:", text) for name, text in facts if text]
    indent = max((len(name) for name, _ in known), default=0) + 2
    further = (wrapped(text, first=name.ljust(indent), others=" " * indent) for name, text in known)
    return "\n".join([for_log(happened), *further])


def error_record(error: e.CrmError, *, ended: str, decision: Decision, task: Any, facts: Facts = ()) -> str:
    """The record of an error that ends a try.

    :param ended: the state that the task gets
    :param task: the task, whose error policy has a page
    :param facts: further lines
    """
    known = [
        ("What to do", error.advice),
        ("Also", " ".join(error.circumstances)),
        *facts,
        ("Task", ended),
        ("Decided by", decision.origin),
        ("Policy", _policy_page(task)),
        ("Docs", DOCS),
        ("Request id", error.request_id),
    ]
    return record(error.happened, known)


def moment(date: datetime) -> str:
    """A time for people."""
    return f"{date.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _policy_page(task: Any) -> str | None:
    """Where Airflow shows the task's error policy."""
    operator = getattr(getattr(task, "error_policy", None), "operator", None)
    return config.page_url(f"policy?operator={quote(operator)}") if operator else None
