"""Base of the sensors: checks a condition until it holds; errors by policy, in every mode."""

from __future__ import annotations

import abc
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from crm_provider import errors as e
from crm_provider._compat import (
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    Context,
    PokeReturnValue,
    conf,
)
from crm_provider.client import validation
from crm_provider.client.settings import DEFAULT_CONN_ID
from crm_provider.errors.on_error import Action, OnError, Work
from crm_provider.errors.policy import Decision, ErrorPolicy
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import ErrorPolicyMixin, for_base_operator, naming_task
from crm_provider.tasks.outcome import (
    log_reschedule,
    moment,
    raise_for_decision,
    record,
    reschedule,
    sensor_timeout,
    short_traceback,
    skip,
    task_timeout,
)
from crm_provider.tasks.retry_policy import DEFAULT_RETRY_POLICY
from crm_provider.tasks.templates import RenderedFieldsMixin, check_rendered
from crm_provider.waiting.backoff import MAX_ERRORS_IN_A_ROW, WaitState, to_wall
from crm_provider.waiting.conditions import Condition, DirectLookup

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from crm_provider._compat import RetryPolicy
    from crm_provider.hooks.crm import CrmHook
    from crm_provider.tasks.arguments import BaseSensorArguments, Templated
    from crm_provider.triggers.poll import CrmPollTrigger

STATE_KEY = "crm_waiting"
"""Key of the task's state store (Airflow 3.3+) for the error counts between reschedules."""


class CrmSensor(RenderedFieldsMixin, ErrorPolicyMixin, BaseSensorOperator):
    """Waits for a condition in the CRM.

    The error policy decides which errors mean "not yet" and which end the wait. ``silent_fail`` and ``never_fail`` do
    not change that. ``soft_fail`` skips on a timeout only. A refused API key always fails.

    :param crm_conn_id: the Airflow connection
    :param on_error: what to do on which error, in addition to the defaults: ``{"CONTACT_NOT_FOUND": "fail"}``
    :param max_errors_in_a_row: consecutive server errors that do not end the wait. In mode ``reschedule`` they are
        counted on Airflow 3.3+ only; before, only the sensor's ``timeout`` applies
    :param deferrable: wait in the triggerer, where all waiting tasks of a connection share one poll and hold no worker
        slot; the default is Airflow's ``[operators] default_deferrable``. ``exponential_backoff`` and ``max_wait``
        have no effect then; a warning says so when the DAG is parsed
    :param share_poll: False for a separate poll while deferred
    :param retry_policy: Airflow 3.3+: by default only transient errors are retried, not before the server allows it
    :raises ValueError: if a line of ``on_error`` is invalid; when the DAG is parsed
    """

    template_fields: Sequence[str] = ("crm_conn_id",)
    ui_color = "#e6f1f2"
    work = Work.SENSOR

    last_result: Mapping[str, Any] | None = None
    """The XCom, for extra links."""

    def __init__(
        self,
        *,
        crm_conn_id: Templated[str] = DEFAULT_CONN_ID,
        on_error: OnError | ErrorPolicy | None = None,
        max_errors_in_a_row: int = MAX_ERRORS_IN_A_ROW,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        share_poll: bool = True,
        retry_policy: RetryPolicy | None = DEFAULT_RETRY_POLICY,
        **kwargs: Unpack[BaseSensorArguments],
    ) -> None:
        super().__init__(**for_base_operator(self, retry_policy, kwargs))
        self.crm_conn_id = rendered(crm_conn_id)
        with naming_task(type(self), self.task_id):
            self.max_errors_in_a_row = validation.count(max_errors_in_a_row, "max_errors_in_a_row", least=0)
            self.deferrable = validation.boolean(deferrable, "deferrable")
            self.share_poll = validation.boolean(share_poll, "share_poll")
        self.set_error_policy(on_error)
        if deferrable and self.exponential_backoff:
            warnings.warn(
                f"{self.task_id}: exponential_backoff and max_wait do nothing with deferrable=True, where all waiting "
                "tasks with the same poke_interval share a poll; remove them, or set a longer poke_interval",
                UserWarning,
                stacklevel=2,
            )
        self._ends: Decision | None = None

    @cached_property
    def hook(self) -> CrmHook:
        """The hook of the task's connection."""
        from crm_provider.hooks.crm import CrmHook

        return CrmHook(self.crm_conn_id)

    @cached_property
    def _waiting(self) -> WaitState:
        return WaitState(limit=self.max_errors_in_a_row)

    @abc.abstractmethod
    def condition(self) -> Condition:
        """The condition to wait for, from the rendered fields."""

    @cached_property
    def _condition(self) -> Condition:
        check_rendered(self)
        return self.condition()

    def check(self) -> dict[str, Any] | None:
        """Check the condition once.

        :return: the XCom (ids, no values) if the condition holds, else None
        :raises CrmError: if a call fails
        """
        if not self._condition.sweeps:
            return self._condition.check(DirectLookup(self.hook.get_conn()))
        with self.hook.waiting_client() as client:
            return self._condition.check(DirectLookup(client))

    @short_traceback
    def execute(self, context: Context) -> Any:
        """Wait. An error that ends the wait becomes a task state here, outside of the base class's handlers."""
        self._load_state(context)
        try:
            self.last_result = self._check_and_defer(context) if self.deferrable else super().execute(context)
        except AirflowSensorTimeout:
            sensor_timeout(self.timeout, last_result=self._waiting.last_result)
        except AirflowSkipException as skipped:  # by soft_fail or never_fail
            skip(f"{skipped} The last result was: {self._waiting.last_result}", cause=skipped)
        except AirflowRescheduleException as freed:
            log_reschedule(freed.reschedule_date)
            raise
        except e.CrmError as error:
            raise_for_decision(error, self._ends or self.decide(error), context)
        return self.last_result

    def _check_and_defer(self, context: Context) -> Any:  # noqa: RET503 - defer() never returns
        """Check once on the worker; wait in the triggerer if the condition does not hold yet."""
        started = time.time()
        checked = self.poke(context)
        if isinstance(checked, PokeReturnValue) and checked.is_done:
            return checked.xcom_value
        self.log.info(
            "Waits in the triggerer, without a worker slot.\nA check every %g s, until %s.",
            self.poke_interval,
            moment(datetime.fromtimestamp(started + self.timeout, timezone.utc)),
        )
        self.defer(trigger=self.trigger(started), method_name="execute_complete")

    def trigger(self, started: float) -> CrmPollTrigger:
        """The trigger that continues the wait.

        :param started: when the task started, in seconds since the epoch. Its timeouts count from there
        """
        from crm_provider.triggers.poll import CrmPollTrigger

        limit = self.execution_timeout
        return CrmPollTrigger(
            condition=self._condition.as_data(),
            crm_conn_id=self.crm_conn_id,
            poke_interval=self.poke_interval,
            deadline=started + self.timeout,
            execution_deadline=None if limit is None else started + limit.total_seconds(),
            on_error=self.error_policy.as_data(),
            policy_name=self.error_policy.operator,
            max_errors_in_a_row=self.max_errors_in_a_row,
            share_poll=self.share_poll,
            memory={**asdict(self._waiting), "not_before": to_wall(self._waiting.not_before)},
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Resume after the triggerer: return the result, or raise what ended the wait."""
        if "error" in event:
            self._ends = Decision.from_data(event["decision"])
            raise e.CrmError.from_dict(event["error"])
        if event.get("limit") == "execution_timeout":
            limit = self.execution_timeout
            task_timeout(f"The execution_timeout of {limit} is over. The last result was: {event['last_result']}")
        if "last_result" in event:
            sensor_timeout(self.timeout, last_result=event["last_result"], soft_fail=self.soft_fail)
        self.log.info("Found: %s", event["result"])
        self.last_result = event["result"]
        return event["result"]

    @short_traceback
    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Like :meth:`execute`, but without the sensor base class.

        Its ``soft_fail`` would hide a broken trigger, and its ``never_fail`` would hide errors that end the wait in the
        other modes.
        """
        try:
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as timeout:
            if self.soft_fail:  # Airflow has ended the wait, because the triggerer did not
                skip(f"Skipped by soft_fail. {timeout}", cause=timeout)
            raise
        except e.CrmError as error:
            raise_for_decision(error, self._ends or self.decide(error), context)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Check once. An error that means "not yet" by policy returns False; any other is raised unchanged."""
        if time.monotonic() < self._waiting.not_before:
            return False
        try:
            found = self.check()
        except e.CrmError as error:
            return self._handle_error(error, context)
        self._waiting.record_result(self._condition.why)
        self._save_state(context)
        why = f": {self._condition.why}" if self._condition.why else ""
        self.log.info("%s", record(f"Not yet{why}." if found is None else f"Found: {found}"))
        return PokeReturnValue(is_done=found is not None, xcom_value=found)

    def _handle_error(self, error: e.CrmError, context: Context) -> bool:
        decision = self._waiting.record_error(
            error,
            self.error_policy,
            time.monotonic(),
            interval=self.poke_interval,
            jitter=random.random(),  # noqa: S311 - nothing secret
        )
        if decision.action is not Action.WAIT:
            self._ends = decision
            # with these flags the base class would hide the error, but the policy decides what ends the wait
            self.silent_fail = self.never_fail = False
            raise error
        self.log.info("%s", record(f"Not yet: {error.happened}"))
        self._save_state(context)
        if self.reschedule and not self.deferrable and self._waiting.not_before > time.monotonic() + self.poke_interval:
            self._reschedule_next_check(context)
        return False

    def _reschedule_next_check(self, context: Context) -> None:
        """Free the slot until the next check, at most until the timeout, which the base class then handles."""
        first = context["ti"].get_first_reschedule_date(context)
        started = first.timestamp() if first is not None else time.time()
        date = min(to_wall(self._waiting.not_before), started + self.timeout + 1)
        if date > time.time():
            self.silent_fail = self.never_fail = False  # they would hide the reschedule as well
            reschedule(datetime.fromtimestamp(date, timezone.utc))

    # -- state over reschedules ----------------------------------------------------------------------------

    def _store(self, context: Context) -> Any:
        """The task's state store; None if it is not needed (mode ``poke``) or missing (Airflow below 3.3)."""
        return context.get("task_state_store") if self.reschedule and not self.deferrable else None

    def _load_state(self, context: Context) -> None:
        store = self._store(context)
        if store is None and self.reschedule and not self.deferrable:
            self.log.info(
                "No task state store before Airflow 3.3: consecutive errors are not counted over reschedules."
            )
        kept = store.get(STATE_KEY) if store is not None else None
        if isinstance(kept, dict) and kept.get("try_number") == context["ti"].try_number:
            self._waiting.errors_in_a_row = kept["errors_in_a_row"]
            self._waiting.failed_in_a_row = kept.get("failed_in_a_row", 0)

    def _save_state(self, context: Context) -> None:
        store = self._store(context)
        if store is not None:
            counts = {name: getattr(self._waiting, name) for name in ("errors_in_a_row", "failed_in_a_row")}
            store.set(STATE_KEY, {"try_number": context["ti"].try_number, **counts})
