"""Operators on segmentation lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crm_provider._compat import Context
from crm_provider.client import validation
from crm_provider.operators.base import CrmOperator
from crm_provider.tasks.arguments import rendered

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import CrmArguments, Templated


class CrmAddContactToListsOperator(CrmOperator):
    """Add a contact to one or more segmentation lists.

    XCom: ``{"list_ids": [...], "outcome": "added"}``.

    :param contact_email: the contact's address
    :param list_ids: ids of the lists, or one id
    """

    template_fields: Sequence[str] = ("contact_email", "list_ids", *CrmOperator.template_fields)
    policy_name = "CrmAddContactToListsOperator"

    def __init__(
        self,
        *,
        contact_email: Templated[str],
        list_ids: Templated[str | Sequence[str]],
        **kwargs: Unpack[CrmArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.contact_email = rendered(contact_email)
        self.list_ids = rendered(list_ids)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            contact_email: Templated[str] = ...,
            list_ids: Templated[str | Sequence[str]] = ...,
            **kwargs: Unpack[CrmArguments],
        ) -> OperatorPartial: ...

    def call(self, context: Context) -> dict[str, Any]:
        email = validation.email(self.contact_email, "contact_email")
        list_ids = validation.uuids(self.list_ids, "list_ids")
        self.hook.add_contact_to_lists(email, list_ids)
        self.log.info("Added the contact to segmentation lists: %d.", len(list_ids))
        return {"list_ids": list_ids, "outcome": "added"}
