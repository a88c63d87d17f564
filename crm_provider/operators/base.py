"""Base of the operators: one call of the hook, its result as a small XCom, its errors by policy."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from crm_provider import errors as e
from crm_provider._compat import BaseOperator, Context
from crm_provider.outcome import conclude
from crm_provider.policy import Decision, ErrorPolicy, OnError
from crm_provider.retry import DEFAULT_RETRY_POLICY
from crm_provider.settings import DEFAULT_CONN_ID
from crm_provider.task_arguments import check_names
from crm_provider.task_policy import HasErrorPolicy, for_base_operator
from crm_provider.task_templates import RenderedFieldsMixin, check_rendered

if TYPE_CHECKING:
    from crm_provider.hooks.crm import CrmHook


class CrmOperator(RenderedFieldsMixin, HasErrorPolicy, BaseOperator):
    """One write to the CRM.

    Rendered template fields are stored and shown by Airflow: they hold what the DAG author put there. The XCom holds
    ids and outcomes, never a contact's values; for ``map_index_template`` it is at hand as ``crm_result``.

    :param crm_conn_id: the Airflow connection
    :param on_error: what to do on which error, on top of the default: ``{"DEAL_NOT_FOUND": "skip"}``
    :param retry_policy: on Airflow 3.3+: by default only errors worth it are retried, after the server's delay
    :raises ValueError: if a line of ``on_error`` makes no sense; at DAG parse
    """

    template_fields: Sequence[str] = ("crm_conn_id",)
    ui_color = "#dff0e8"

    last_result: Mapping[str, Any] | None = None
    """What this try has come to so far, for extra links and lineage; also if it failed after that."""

    def __init__(
        self,
        *,
        crm_conn_id: str = DEFAULT_CONN_ID,
        on_error: OnError | ErrorPolicy | None = None,
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        super().__init__(**for_base_operator(self, retry_policy, kwargs))
        self.crm_conn_id = crm_conn_id
        self.set_error_policy(on_error)

    @cached_property
    def hook(self) -> CrmHook:
        """The hook of the task's connection."""
        from crm_provider.hooks.crm import CrmHook

        return CrmHook(self.crm_conn_id)

    def execute(self, context: Context) -> Any:
        """Make the call; end as the error policy says if it fails."""
        try:
            check_rendered(self)
            result = self.call(context)
        except e.CrmError as error:
            conclude(error, self.decide(error), context)
        self.last_result = context["crm_result"] = result  # type: ignore[typeddict-unknown-key]
        return result

    def decide(self, error: e.CrmError) -> Decision:
        """What to do about an error of the call."""
        return self.error_policy.decide(error)

    @abc.abstractmethod
    def call(self, context: Context) -> dict[str, Any]:
        """The call itself.

        :return: the XCom: ids and the outcome
        :raises CrmError: what the CRM answered
        """


def contact_email_of(task: object, contact_email: str | None, kwargs: dict[str, Any]) -> str:
    """The contact's address: ``contact_email``, or ``email`` if only that is given.

    Airflow's operators have an ``email`` of their own: where *alerts* about the task go, by default also on failure. It
    must never become the contact's, and ``default_args={"email": ...}`` must never become the contact. In a mapped task
    the two cannot be told apart, so that there only ``contact_email`` will do.

    :raises TypeError: if neither is given; it names the argument that may be meant for it
    """
    mapped = getattr(task, "_BaseOperator__from_mapped", False)
    if contact_email is None and not mapped:
        contact_email = kwargs.pop("email", None)
    if contact_email is None:
        check_names(type(task), kwargs)  # it may be there under another name
        raise TypeError("missing keyword argument 'contact_email'")
    return contact_email
