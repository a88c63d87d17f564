"""Sensors on segmentation lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from crm_provider.client.validation import several
from crm_provider.sensors.base import CrmSensor
from crm_provider.tasks.arguments import rendered
from crm_provider.tasks.mixins import naming_task
from crm_provider.tasks.templates import is_mapped
from crm_provider.values.suggest import check_choice
from crm_provider.waiting.conditions import InList, ListExists, ListHasMembers, Match, checked_minimum

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import CrmSensorArguments, Templated


class CrmListSensor(CrmSensor):
    """Waits until a segmentation list exists, or has a number of members.

    XCom: ``{"id": <list id>, "name": ...}``; with ``min_members``: ``{"id": <list id>, "members": ...}``, counted until
    the check stopped.

    :param list_id: its id
    :param list_name: its exact name; two lists with this name are an error. Give either id or name
    :param min_members: wait until the list has at least this number of members. The API has no count, so a check
        reads the contacts of the account, ten per call, until the result is clear
    """

    template_fields: Sequence[str] = ("list_id", "list_name", "min_members", *CrmSensor.template_fields)
    policy_name = "CrmListSensor"

    def __init__(
        self,
        *,
        list_id: Templated[str] | None = None,
        list_name: Templated[str] | None = None,
        min_members: Templated[int] | None = None,
        **kwargs: Unpack[CrmSensorArguments],
    ) -> None:
        super().__init__(**kwargs)
        with naming_task(type(self), self.task_id):
            if not is_mapped(self):
                _one_of(list_id, list_name)
            if isinstance(min_members, (int, float)):
                checked_minimum(min_members)
        self.list_id = rendered(list_id)
        self.list_name = rendered(list_name)
        self.min_members = rendered(min_members)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            list_id: Templated[str] | None = ...,
            list_name: Templated[str] | None = ...,
            min_members: Templated[int] | None = ...,
            **kwargs: Unpack[CrmSensorArguments],
        ) -> OperatorPartial: ...

    def condition(self) -> ListExists | ListHasMembers:
        if self.min_members is None:
            return ListExists(list_id=self.list_id, list_name=self.list_name)
        minimum = checked_minimum(self.min_members)
        return ListHasMembers(list_id=self.list_id, list_name=self.list_name, min_members=minimum)


class CrmListMembershipSensor(CrmSensor):
    """Waits until contacts are in a segmentation list.

    A check reads the contacts that were not found there yet, one call each, and stops at the first missing one.

    XCom: ``{"list_id": ..., "contact_ids": [...]}``, the contacts found in the list.

    :param emails: address of the contact, or several
    :param list_id: id of the list
    :param list_name: its exact name. Give either id or name
    :param match: ``all`` contacts, or ``any`` one of them
    """

    template_fields: Sequence[str] = ("emails", "list_id", "list_name", *CrmSensor.template_fields)
    policy_name = "CrmListMembershipSensor"

    def __init__(
        self,
        *,
        emails: Templated[str | Sequence[str]],
        list_id: Templated[str] | None = None,
        list_name: Templated[str] | None = None,
        match: Match = "all",
        **kwargs: Unpack[CrmSensorArguments],
    ) -> None:
        super().__init__(**kwargs)
        with naming_task(type(self), self.task_id):
            if not is_mapped(self):
                _one_of(list_id, list_name)
            check_choice("match", match, get_args(Match))
        self.emails = rendered(emails)
        self.list_id = rendered(list_id)
        self.list_name = rendered(list_name)
        self.match = match

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            emails: Templated[str | Sequence[str]] = ...,
            list_id: Templated[str] | None = ...,
            list_name: Templated[str] | None = ...,
            match: Match = ...,
            **kwargs: Unpack[CrmSensorArguments],
        ) -> OperatorPartial: ...

    def condition(self) -> InList:
        return InList(emails=several(self.emails), list_id=self.list_id, list_name=self.list_name, match=self.match)


def _one_of(list_id: Templated[str] | None, list_name: Templated[str] | None) -> None:
    if (list_id is None) == (list_name is None):
        raise ValueError("give either list_id or list_name")
