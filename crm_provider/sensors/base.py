"""Base of the sensors: one question to the CRM, asked until it is answered; errors by policy, in every mode."""

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
    AirflowSensorTimeout,
    BaseSensorOperator,
    Context,
    PokeReturnValue,
    conf,
)
from crm_provider.client.settings import DEFAULT_CONN_ID
from crm_provider.errors.on_error import Action, OnError, Work
from crm_provider.errors.policy import Decision, ErrorPolicy
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import ErrorPolicyMixin, for_base_operator
from crm_provider.tasks.outcome import raise_for_decision, reschedule, sensor_timeout, skip, task_timeout
from crm_provider.tasks.retry_policy import DEFAULT_RETRY_POLICY
from crm_provider.tasks.templates import RenderedFieldsMixin, check_rendered
from crm_provider.waiting.backoff import MAX_ERRORS_IN_A_ROW, Waiting, to_wall
from crm_provider.waiting.conditions import Condition, DirectLookup

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from crm_provider._compat import RetryPolicy
    from crm_provider.hooks.crm import CrmHook
    from crm_provider.tasks.arguments import BaseSensorArguments, Templated

STATE_KEY = "crm_waiting"
"""Where the task's state store (Airflow 3.3+) keeps the memory of the wait between reschedules."""


class CrmSensor(RenderedFieldsMixin, ErrorPolicyMixin, BaseSensorOperator):
    """Waits for something in the CRM.

    The error policy decides which errors mean "not yet" and which end the wait; ``silent_fail`` and ``never_fail`` do
    not. ``soft_fail`` skips on a timeout only. A refused API key always fails.

    :param crm_conn_id: the Airflow connection
    :param on_error: what to do on which error, in addition to the defaults: ``{"CONTACT_NOT_FOUND": "fail"}``
    :param max_errors_in_a_row: consecutive server errors that do not end the wait. In mode ``reschedule`` they are
        counted on Airflow 3.3+ only; before, the sensor's ``timeout`` is the limit
    :param deferrable: wait in the triggerer, where all waiting tasks of a connection share one poll and none holds a
        slot; the default is Airflow's ``[operators] default_deferrable``. ``exponential_backoff`` and ``max_wait`` do
        nothing then, and a warning says so when the DAG is parsed
    :param share_poll: False for a poll of its own while deferred
    :param retry_policy: Airflow 3.3+: by default only transient errors are retried, after the delay the server asks for
    :raises ValueError: if a line of ``on_error`` is not valid; at DAG parse
    """

    template_fields: Sequence[str] = ("crm_conn_id",)
    ui_color = "#e6f1f2"
    work = Work.SENSOR

    last_result: Mapping[str, Any] | None = None
    """What was found, for extra links."""

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
        self.max_errors_in_a_row = max_errors_in_a_row
        self.deferrable = deferrable
        self.share_poll = share_poll
        self.set_error_policy(on_error)
        if deferrable and self.exponential_backoff:
            warnings.warn(
                f"{self.task_id}: exponential_backoff and max_wait do nothing with deferrable=True, where all who wait "
                "share the rounds of their poke_interval; remove them, and set a longer poke_interval if you need one",
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
    def _waiting(self) -> Waiting:
        return Waiting(limit=self.max_errors_in_a_row)

    @abc.abstractmethod
    def question(self) -> Condition:
        """What the sensor waits for, from its rendered fields."""

    @cached_property
    def _question(self) -> Condition:
        check_rendered(self)
        return self.question()

    def check(self) -> dict[str, Any] | None:
        """Ask once.

        :return: the XCom (ids, no values) if what is waited for is there, else None
        :raises CrmError: what the CRM answered
        """
        return self._question.answer(DirectLookup(self.hook.get_conn()))

    def execute(self, context: Context) -> Any:
        """Wait; an error that ends the wait becomes a task state here, outside of the base class's handlers."""
        self._recall(context)
        try:
            self.last_result = self._look_and_defer(context) if self.deferrable else super().execute(context)
        except AirflowSensorTimeout as timeout:
            sensor_timeout(f"{timeout} The last answer was: {self._waiting.last_answer}", cause=timeout)
        except e.CrmError as error:
            raise_for_decision(error, self._ends or self.decide(error), context)
        return self.last_result

    def _look_and_defer(self, context: Context) -> Any:  # noqa: RET503 - defer() never returns
        """Look once on the worker; wait in the triggerer if it is not so yet."""
        started = time.time()
        looked = self.poke(context)
        if isinstance(looked, PokeReturnValue) and looked.is_done:
            return looked.xcom_value
        from crm_provider.triggers.poll import CrmPollTrigger

        limit = self.execution_timeout
        trigger = CrmPollTrigger(
            question=self._question.as_data(),
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
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Resume after the triggerer: hand on the answer, or raise what ended the wait."""
        if "error" in event:
            self._ends = Decision.from_data(event["decision"])
            raise e.CrmError.from_dict(event["error"])
        if event.get("limit") == "execution_timeout":
            task_timeout(
                f"The execution_timeout of {self.execution_timeout} is over. Last answer: {event['last_answer']}"
            )
        if "last_answer" in event:
            sensor_timeout(
                f"Sensor has timed out after {self.timeout:.0f} s. The last answer was: {event['last_answer']}"
            )
        self.log.info("Found: %s", event["answer"])
        self.last_result = event["answer"]
        return event["answer"]

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As :meth:`execute`, and without the sensor base class.

        With its flags it would hide a trigger that broke (``soft_fail``), and what ends a wait fails in other modes
        (``never_fail``).
        """
        try:
            return super(BaseSensorOperator, self).resume_execution(next_method, next_kwargs, context)
        except AirflowSensorTimeout as timeout:
            if self.soft_fail:
                skip(f"Skipped by soft_fail. {timeout}", cause=timeout)
            raise
        except e.CrmError as error:
            raise_for_decision(error, self._ends or self.decide(error), context)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Ask once; an error that policy calls "not yet" is a False, any other is raised as it is."""
        if time.monotonic() < self._waiting.not_before:
            return False
        try:
            found = self.check()
        except e.CrmError as error:
            return self._met(error, context)
        self._waiting.answered(self._question.why)
        self._remember(context)
        why = f": {self._question.why}" if self._question.why else ""
        self.log.info(f"Not yet{why}." if found is None else f"Found: {found}")
        return PokeReturnValue(is_done=found is not None, xcom_value=found)

    def _met(self, error: e.CrmError, context: Context) -> bool:
        decision = self._waiting.met(
            error,
            self.error_policy,
            time.monotonic(),
            interval=self.poke_interval,
            jitter=random.random(),  # noqa: S311 - nothing secret
        )
        if decision.action is not Action.WAIT:
            self._ends = decision
            # the base class would hide the error behind these: what ends a wait is the policy's to say
            self.silent_fail = self.never_fail = False
            raise error
        self.log.info("Not yet: %s", error)
        self._remember(context)
        if self.reschedule and not self.deferrable and self._waiting.not_before > time.monotonic() + self.poke_interval:
            self._come_back_later(context)
        return False

    def _come_back_later(self, context: Context) -> None:
        """Free the slot until the time of the next look, at most until the timeout, which the base class then sees."""
        first = context["ti"].get_first_reschedule_date(context)
        started = first.timestamp() if first is not None else time.time()
        date = min(to_wall(self._waiting.not_before), started + self.timeout + 1)
        if date > time.time():
            self.silent_fail = self.never_fail = False  # they would hide the reschedule, too
            reschedule(datetime.fromtimestamp(date, timezone.utc))

    # -- memory over reschedules ----------------------------------------------------------------------------

    def _store(self, context: Context) -> Any:
        """The task's state store; None where it is not needed (mode ``poke``) or not there (Airflow below 3.3)."""
        return context.get("task_state_store") if self.reschedule and not self.deferrable else None

    def _recall(self, context: Context) -> None:
        store = self._store(context)
        if store is None and self.reschedule and not self.deferrable:
            self.log.info("No task state store before Airflow 3.3: errors in a row are not counted over reschedules.")
        kept = store.get(STATE_KEY) if store is not None else None
        if isinstance(kept, dict) and kept.get("try_number") == context["ti"].try_number:
            self._waiting.errors_in_a_row = kept["errors_in_a_row"]
            self._waiting.failed_in_a_row = kept.get("failed_in_a_row", 0)

    def _remember(self, context: Context) -> None:
        store = self._store(context)
        if store is not None:
            counts = {name: getattr(self._waiting, name) for name in ("errors_in_a_row", "failed_in_a_row")}
            store.set(STATE_KEY, {"try_number": context["ti"].try_number, **counts})
