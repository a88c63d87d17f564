"""Operators on contacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from crm_provider._compat import Context
from crm_provider.client import validation
from crm_provider.errors import CrmContactAlreadyExistsError, CrmContactNotFoundError
from crm_provider.errors.on_error import Action
from crm_provider.load.options import Mode
from crm_provider.observability.links import CrmContactLink
from crm_provider.operators.base import CrmOperator, run_start
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.values.redaction import without_values
from crm_provider.values.suggest import check_choice

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import CrmArguments, Templated

MAX_ANSWER_CHARACTERS = 4096
"""Maximum characters of a verification's result in the XCom; of a larger one only numbers and booleans are kept."""


class CrmUpsertContactOperator(CrmOperator):
    """Create a contact, or update it if it exists.

    XCom: ``{"id": <contact id>, "outcome": "created" | "updated" | "unchanged" | "found"}``;
    ``found``: in mode ``create``, a retry found the contact that an earlier try created.

    :param contact_email: the contact's address; its case is kept
    :param attributes: ``name``, ``phone`` (E.164 with ``+``) and custom fields
    :param origin: source of the contact (``url``, ``utmSource``, ...); used only on creation
    :param mode: ``upsert``; ``create``, which skips if the contact exists; or ``update``, which fails without a contact
    """

    template_fields: Sequence[str] = ("contact_email", "attributes", "origin", *CrmOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"attributes": "json", "origin": "json"}
    operator_extra_links = (CrmContactLink(),)
    policy_name = "CrmUpsertContactOperator"

    def __init__(
        self,
        *,
        contact_email: Templated[str],
        attributes: Templated[Mapping[str, Any]] | None = None,
        origin: Templated[Mapping[str, Any]] | None = None,
        mode: Mode = "upsert",
        **kwargs: Unpack[CrmArguments],
    ) -> None:
        super().__init__(**kwargs)
        with naming_task(type(self), self.task_id):
            check_choice("mode", mode, get_args(Mode))
        self.contact_email = rendered(contact_email)
        self.attributes = rendered(attributes)
        self.origin = rendered(origin)
        self.mode = mode
        self.set_error_policy(self.on_error, mode=mode)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            contact_email: Templated[str] = ...,
            attributes: Templated[Mapping[str, Any]] | None = ...,
            origin: Templated[Mapping[str, Any]] | None = ...,
            mode: Mode = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        email = validation.email(self.contact_email, "contact_email")
        validation.phone_is_text(self.attributes)
        if self.mode == "create":
            result = self._create(email, context)
        elif self.mode == "update":
            ref = self.hook.update_contact(email, attributes=self.attributes or {})
            result = {"id": ref["id"], "outcome": "updated"}
        else:
            done = self.hook.upsert_contact(email, attributes=self.attributes, origin=self.origin)
            result = {"id": done["id"], "outcome": done["outcome"]}
        self.log.info("Contact %s %s.", result["id"], result["outcome"])
        return result

    def _create(self, email: str, context: Context) -> dict[str, Any]:
        try:
            ref = self.hook.create_contact(email, attributes=self.attributes, origin=self.origin)
        except CrmContactAlreadyExistsError as exists:
            if context["ti"].try_number == 1:
                raise
            from crm_provider.client.remote_contact import RemoteContact, made_since

            try:
                record = self.hook.get_contact(email)
            except CrmContactNotFoundError:  # it exists in another case, or was deleted meanwhile
                raise exists from None
            contact = RemoteContact.of(record, email)
            sent = None if self.attributes is None else validation.attributes(self.attributes)
            if not made_since(contact.created_at, run_start(context), same_values=contact.has(sent)):
                raise
            return {"id": record["id"], "outcome": "found"}  # created by an earlier try
        return {"id": ref["id"], "outcome": "created"}


class CrmDeleteContactOperator(CrmOperator):
    """Delete a contact. By default the task is skipped if the contact does not exist.

    XCom: ``{"outcome": "deleted" | "gone"}``; ``gone``: a retry found no contact, probably because an earlier
    try deleted it.

    :param contact_email: the contact's address; its case is kept
    """

    template_fields: Sequence[str] = ("contact_email", *CrmOperator.template_fields)
    policy_name = "CrmDeleteContactOperator"

    def __init__(self, *, contact_email: Templated[str], **kwargs: Unpack[CrmArguments]) -> None:
        super().__init__(**kwargs)
        self.contact_email = rendered(contact_email)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            contact_email: Templated[str] = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        email = validation.email(self.contact_email, "contact_email")
        outcome = "deleted"
        try:
            self.hook.delete_contact(email)
        except CrmContactNotFoundError as missing:
            if context["ti"].try_number == 1 or self.decide(missing).action is not Action.SKIP:
                raise
            outcome = "gone"
        self.log.info("Contact %s.", outcome)
        return {"outcome": outcome}


class CrmVerifyEmailOperator(CrmOperator):
    """Verify an address with the CRM. It need not belong to a contact. This can take up to 29 seconds.

    XCom: ``{"outcome": "verified", "answer": {...}}``, where ``answer`` is the CRM's response without the address. Its
    format is not documented: ``verified`` only means that the CRM responded; see ``answer`` for the result.

    :param contact_email: the address
    """

    template_fields: Sequence[str] = ("contact_email", *CrmOperator.template_fields)
    policy_name = "CrmVerifyEmailOperator"

    def __init__(self, *, contact_email: Templated[str], **kwargs: Unpack[CrmArguments]) -> None:
        super().__init__(**kwargs)
        self.contact_email = rendered(contact_email)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            contact_email: Templated[str] = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        email = validation.email(self.contact_email, "contact_email")
        response = self.hook.verify_email(email)
        answer = _without(response, email, self.hook.get_conn().settings.api_key)
        if len(str(answer)) > MAX_ANSWER_CHARACTERS:
            self.log.warning("The response is too large for an XCom; only its numbers and booleans are kept.")
            answer = {name: value for name, value in answer.items() if isinstance(value, (bool, int, float))}
        self.log.info("Address verified.")
        return {"outcome": "verified", "answer": answer}


def _without(value: Any, email: str, key: str) -> Any:
    """The response without the verified address, in any spelling and place, and without the key."""
    if isinstance(value, str):
        parts = email.casefold().rpartition("@")  # hide a part only as a whole value: "valid" may be a local part
        return "[value]" if value.casefold() in parts else without_values(value, (email, key), in_parts=False)
    if isinstance(value, list):
        return [_without(item, email, key) for item in value]
    if isinstance(value, Mapping):
        names = {name: without_values(name, (email, key), in_parts=False) for name in value}
        return {names[name]: _without(item, email, key) for name, item in value.items()}
    return value
