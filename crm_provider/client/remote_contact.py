"""Contacts and segmentation lists as the CRM shows them, and whether a contact existed before a creation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from crm_provider import errors as e
from crm_provider.client import validation
from crm_provider.values.json_values import shows
from crm_provider.values.server_clock import ServerMoment, utc_time
from crm_provider.values.suggest import nearest


def pick_list(
    lists: Callable[[], Iterable[dict[str, Any]]], *, name: str | None, list_id: str | None, field: str = "name"
) -> dict[str, Any]:
    """One segmentation list out of all, by its exact name or by its id.

    By id it reads until the list is found; by name it reads all, because several lists may have the same name.

    :param lists: reads all lists; called after the arguments were checked
    :param field: the argument of the caller that has the name
    :raises CrmSegmentationListNotFoundError: if there is none
    :raises CrmInvalidValueError: if several have this name
    :raises CrmProtocolError: if it has no id, or if no list has a name: which field has it is not documented
    """
    if (name is None) == (list_id is None):
        raise e.CrmInvalidValueError("give either the name or the list_id of the segmentation list")
    if name is not None:
        name = validation.text(name, field)
    if list_id is not None:
        list_id = validation.uuid(list_id, "list_id")
        wanted = list_id.lower()
        found = list(islice((item for item in lists() if str(item.get("id")).lower() == wanted), 1))
    else:
        every = list(lists())
        if every and not any(map(list_name, every)):
            raise e.CrmProtocolError(
                "no segmentation list of the listing has a name; use list_id", method="GET", path="/segments"
            )
        found = [item for item in every if list_name(item) == name]
    if not found:
        which = f"no list has the id {list_id}." if list_id else _no_list_called(name, map(list_name, every))
        raise e.CrmSegmentationListNotFoundError(
            f"Segmentation list not found: {which}", method="GET", path="/segments"
        )
    if len(found) > 1:
        ids = ", ".join(str(item.get("id")) for item in found)
        raise e.CrmInvalidValueError(f"{len(found)} segmentation lists have this name; use list_id, one of {ids}")
    if found[0].get("id") in (None, ""):
        raise e.CrmProtocolError("the segmentation list of this name has no id", method="GET", path="/segments")
    return found[0]


def _no_list_called(name: Any, others: Iterable[Any]) -> str:
    near = nearest(name, (other for other in others if isinstance(other, str)))
    return f"no list is called {name!r}" + (f"; did you mean {near!r}?" if near else ".")


def list_name(item: Mapping[str, Any]) -> Any:
    """The name of a segmentation list; which field has it is not documented."""
    return item.get("name") or item.get("title")


def list_ids_of(contact: Mapping[str, Any]) -> list[str]:
    """The ids of the segmentation lists that a contact is in, each as text or in an object with ``id``."""
    found = contact.get("segmentedListsIds")
    items = found if isinstance(found, list) else []
    return [str(item.get("id") if isinstance(item, Mapping) else item) for item in items]


UNWANTED = frozenset({"unsubscribed", "unsubscribe", "blacklisted", "blacklist", "opted_out", "optout", "opted-out"})
"""Values of ``status`` for a person who does not want to be contacted. They are not documented. The older API showed
the same by ``unsubscribedAt`` and ``blacklistedAt``, which count, too."""

CLOCKS_APART = timedelta(seconds=1)
"""Seconds that the clocks of ``createdAt`` and ``Date`` may differ: they are two machines of one service."""


@dataclass(frozen=True)
class RemoteContact:
    """The data about a contact of the CRM that a write needs.

    :param email: as the CRM spells it, None if the CRM has no such contact
    :param attributes: its writable attributes
    :param lists: ids of the segmentation lists that it is in, in lower case
    :param unwanted: whether it is unsubscribed or blacklisted
    :param created_at: by the CRM's clock; None if the CRM does not show it
    :param id: as the CRM shows it
    """

    email: str | None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    lists: frozenset[str] = frozenset()
    unwanted: bool = False
    created_at: datetime | None = None
    id: Any = None

    @classmethod
    def of(cls, record: Mapping[str, Any], email: str) -> RemoteContact:
        """From a record of the API.

        :param email: used if the record has none
        """
        found, own = record.get("attributes"), record.get("email")
        return cls(
            email=own if isinstance(own, str) and own else email,
            attributes=dict(found) if isinstance(found, Mapping) else {},
            lists=frozenset(id_.lower() for id_ in list_ids_of(record)),
            unwanted=is_unwanted(record),
            created_at=utc_time(record.get("createdAt")),
            id=record.get("id"),
        )

    @property
    def exists(self) -> bool:
        return self.email is not None

    def only(self, names: Collection[str]) -> RemoteContact:
        """The contact with these attributes only."""
        return replace(self, attributes={name: value for name, value in self.attributes.items() if name in names})

    def has(self, attributes: Mapping[str, Any] | None) -> bool:
        """Whether writing these attributes would change nothing."""
        return shows(self.attributes, attributes)

    def lacks(self, list_ids: Collection[str]) -> list[str]:
        """The lists among these that it is not in."""
        return [list_id for list_id in list_ids if list_id.lower() not in self.lists]


ABSENT = RemoteContact(None)


def is_unwanted(record: Mapping[str, Any]) -> bool:
    """Whether a contact is unsubscribed or blacklisted."""
    status = record.get("status")
    opted_out = isinstance(status, str) and status.strip().casefold() in UNWANTED
    return opted_out or bool(record.get("unsubscribedAt")) or bool(record.get("blacklistedAt"))


def made_since(created_at: datetime | None, since: ServerMoment | None, *, same_values: bool) -> bool:
    """Whether a creation whose response was lost has made the record that was found afterwards.

    ``createdAt`` decides if it can. If it is missing, or within the uncertainty of the clocks, a record that shows all
    values that were sent counts as made: there is nothing left to write.

    :param since: when the creation was first sent, by the CRM's clock; None if no response has shown that clock
    :param same_values: whether the record shows all values that were sent
    """
    if created_at is None or since is None:
        return same_values
    if created_at >= since.latest:
        return True
    return same_values and created_at >= since.earliest - CLOCKS_APART
