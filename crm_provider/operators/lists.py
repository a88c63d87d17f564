"""Operators on segmentation lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crm_provider import validate
from crm_provider._compat import Context
from crm_provider.operators.base import CrmOperator, contact_email_of


class CrmAddContactToListsOperator(CrmOperator):
    """Add a contact to one or more segmentation lists.

    XCom: ``{"list_ids": [...], "outcome": "added"}``.

    :param contact_email: the contact's address. ``email`` alone is taken for it; with both, ``email`` is
        Airflow's own: where alerts about the task go
    :param list_ids: ids of the lists, or one id
    """

    template_fields: Sequence[str] = ("contact_email", "list_ids", *CrmOperator.template_fields)
    policy_name = "CrmAddContactToListsOperator"

    def __init__(self, *, list_ids: str | Sequence[str], contact_email: str | None = None, **kwargs: Any) -> None:
        contact_email = contact_email_of(self, contact_email, kwargs)
        super().__init__(**kwargs)
        self.contact_email = contact_email
        self.list_ids = list_ids

    def call(self, context: Context) -> dict[str, Any]:
        email = validate.email(self.contact_email, "contact_email")
        list_ids = validate.uuids(self.list_ids, "list_ids")
        self.hook.add_contact_to_lists(email, list_ids)
        self.log.info("Contact added to %d segmentation list(s).", len(list_ids))
        return {"list_ids": list_ids, "outcome": "added"}
