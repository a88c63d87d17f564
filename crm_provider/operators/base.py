"""Base of the operators: one call of the hook, a small XCom, errors by policy."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from crm_provider import errors as e
from crm_provider._compat import BaseOperator, Context
from crm_provider.client.settings import DEFAULT_CONN_ID
from crm_provider.errors.on_error import OnError
from crm_provider.errors.policy import ErrorPolicy
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import ErrorPolicyMixin, for_base_operator
from crm_provider.tasks.outcome import raise_for_decision, report_other, short_traceback
from crm_provider.tasks.retry_policy import DEFAULT_RETRY_POLICY
from crm_provider.tasks.templates import RenderedFieldsMixin, check_rendered

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from crm_provider._compat import RetryPolicy
    from crm_provider.hooks.crm import CrmHook
    from crm_provider.tasks.arguments import BaseOperatorArguments, Templated
    from crm_provider.values.server_clock import ServerMoment


class CrmOperator(RenderedFieldsMixin, ErrorPolicyMixin, BaseOperator):
    """One write to the CRM.

    Airflow stores and shows rendered template fields, with the values that the DAG author put there. The XCom contains
    ids and outcomes, never a contact's values. ``map_index_template`` can use it as ``crm_result``.

    :param crm_conn_id: the Airflow connection
    :param on_error: what to do on which error, in addition to the defaults: ``{"DEAL_NOT_FOUND": "skip"}``
    :param retry_policy: Airflow 3.3+: by default only transient errors are retried, not before the server allows it
    :raises ValueError: if a line of ``on_error`` is invalid; when the DAG is parsed
    """

    template_fields: Sequence[str] = ("crm_conn_id",)
    ui_color = "#dff0e8"

    publishes_reasons: ClassVar[bool] = False
    """Whether errors other than the CRM's are published, too: for operators that the page CRM shows."""

    last_result: Mapping[str, Any] | None = None
    """The result of this try so far, for extra links and lineage, even if the try fails later."""

    def __init__(
        self,
        *,
        crm_conn_id: Templated[str] = DEFAULT_CONN_ID,
        on_error: OnError | ErrorPolicy | None = None,
        retry_policy: RetryPolicy | None = DEFAULT_RETRY_POLICY,
        **kwargs: Unpack[BaseOperatorArguments],
    ) -> None:
        super().__init__(**for_base_operator(self, retry_policy, kwargs))
        self.crm_conn_id = rendered(crm_conn_id)
        self.set_error_policy(on_error)

    @cached_property
    def hook(self) -> CrmHook:
        """The hook of the task's connection."""
        from crm_provider.hooks.crm import CrmHook

        return CrmHook(self.crm_conn_id)

    @short_traceback
    def execute(self, context: Context) -> Any:
        """Make the call. The error policy decides how a failure ends the task."""
        try:
            check_rendered(self)
            result = self.call(context)
        except e.CrmError as error:
            raise_for_decision(error, self.error_policy.decide(error), context)
        except Exception as other:  # of a file or a database
            report_other(other, context, publish=self.publishes_reasons)
            raise
        self.last_result = context["crm_result"] = result  # type: ignore[typeddict-unknown-key]
        return result

    @abc.abstractmethod
    def call(self, context: Context) -> dict[str, Any]:
        """Make the call.

        :return: the XCom: ids and the outcome
        :raises CrmError: if the call fails
        """


RUN_CLOCK_TOLERANCE = timedelta(seconds=5)
"""Maximum difference between the clocks of Airflow and the CRM when a record's age is compared with a run's."""


def run_start(context: Context) -> ServerMoment | None:
    """Start of this DAG run: records created by its tasks are younger. None if unknown."""
    from crm_provider.values.server_clock import ServerMoment

    started = getattr(context.get("dag_run"), "start_date", None)
    return None if started is None else ServerMoment(started - RUN_CLOCK_TOLERANCE, started + RUN_CLOCK_TOLERANCE)
