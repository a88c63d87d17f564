"""Operators on automations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from crm_provider import errors as e
from crm_provider._compat import Context, mask_secret
from crm_provider.client import validation
from crm_provider.errors.on_error import Action
from crm_provider.operators.base import CrmOperator
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.templates import MissingValue, rendered_to_none

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import CrmArguments, Templated

SENT_KEY = "crm_automation_sent"
"""Key of the task's state store (Airflow 3.3+) for a call that may have happened, or has."""


class CrmTriggerAutomationOperator(CrmOperator):
    """Start one automation for a contact.

    It never starts an automation twice unless you ask for it. If the response is lost, the task fails without a retry.
    If the worker dies during the call, the next try fails, too (Airflow 3.3+). A call that was not sent or was refused
    is retried as usual. ``on_error={"CrmTransientError": "retry"}`` retries in all these cases.

    The three ids are the secret part of the automation's URL. They can be templates, such as
    ``{{ var.value.crm_webhook_id }}``, and are rendered when the task runs. They are not template fields, because
    Airflow stores and shows those.

    XCom: ``{"outcome": "started"}``.

    :param webhook_id: first part of the automation's URL, after ``/webhook/``
    :param channel_uid: second part, after ``/c/``
    :param workflow_id: third part, after ``/w/``
    :param contact_email: the contact's address
    :param fields: values of custom fields by name
    """

    template_fields: Sequence[str] = ("contact_email", "fields", *CrmOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"fields": "json"}
    policy_name = "CrmTriggerAutomationOperator"

    def __init__(
        self,
        *,
        webhook_id: str,
        channel_uid: str,
        workflow_id: str,
        contact_email: Templated[str],
        fields: Templated[Mapping[str, Any]] | None = None,
        **kwargs: Unpack[CrmArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.webhook_id = webhook_id
        self.channel_uid = channel_uid
        self.workflow_id = workflow_id
        self.contact_email = rendered(contact_email)
        self.fields = rendered(fields)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            webhook_id: str = ...,
            channel_uid: str = ...,
            workflow_id: str = ...,
            contact_email: Templated[str] = ...,
            fields: Templated[Mapping[str, Any]] | None = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        email = validation.email(self.contact_email, "contact_email")
        ids = [self._secret(name, context) for name in ("webhook_id", "channel_uid", "workflow_id")]
        note = _Note(context)
        if note.has_started:
            self.log.info("An earlier try has started the automation, but did not end. Nothing was sent now.")
            return {"outcome": "started"}
        try:
            if note.is_there:
                self._refuse_to_repeat()
            note.write()
            self.hook.trigger_automation(*ids, email=email, fields=self.fields)
        except e.CrmError as error:
            if error.outcome_known:
                note.remove()
            elif self.decide(error).action is not Action.RETRY:
                error.own_advice = "check in the CRM whether the automation was started, before you clear the task"
            raise
        note.write(has_started=True)  # this try may still fail, for example if Airflow does not accept its XCom
        self.log.info("Automation started.")
        return {"outcome": "started"}

    def _refuse_to_repeat(self) -> None:
        """Raise if an earlier try was interrupted and its call must not be repeated."""
        error = e.CrmConnectionError(
            "an earlier try was interrupted during the call: nothing was sent now",
            method="POST",
            path="/webhook/{webhookId}/c/{channelUid}/w/{workflowId}",
            outcome_known=False,
        )
        if self.decide(error).action is not Action.RETRY:
            raise error

    def _secret(self, name: str, context: Context) -> str:
        value = self.render_template(getattr(self, name), context)
        if isinstance(value, MissingValue):
            raise rendered_to_none(name)
        value = validation.path_part(value, name)
        mask_secret(value)
        return value


class _Note:
    """Records that a call is in progress, or has succeeded, so that the next try knows it."""

    def __init__(self, context: Context) -> None:
        self._store: Any = context.get("task_state_store")
        self._epoch = int(context["ti"].max_tries or 0)  # clearing the task increases it
        kept: Any = self._store.get(SENT_KEY) if self._store is not None else None
        self.is_there = isinstance(kept, dict) and kept.get("epoch") == self._epoch
        self.has_started = self.is_there and kept.get("started") is True

    def write(self, *, has_started: bool = False) -> None:
        if self._store is not None:
            self._store.set(SENT_KEY, {"epoch": self._epoch, "started": has_started})

    def remove(self) -> None:
        if self._store is not None:
            self._store.delete(SENT_KEY)
