"""Segmentation lists as the API tells of them: which one is meant, what it is called, and whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from crm_provider import errors as e
from crm_provider import validate


def pick_list(
    lists: Callable[[], Iterable[dict[str, Any]]], *, name: str | None, list_id: str | None, field: str = "name"
) -> dict[str, Any]:
    """One segmentation list out of all, by its exact name or by its id.

    By id it reads no further than to the list; by name it reads all, for another one may have the same.

    :param lists: reads them, once the arguments are known to be right
    :param field: what the caller calls the name
    :raises CrmSegmentationListNotFoundError: if there is none
    :raises CrmInvalidValueError: if several have this name
    """
    if (name is None) == (list_id is None):
        raise e.CrmInvalidValueError("give either the name or the list_id of the segmentation list")
    if name is not None:
        name = validate.text(name, field)
    if list_id is not None:
        list_id = validate.uuid(list_id, "list_id")
        wanted = list_id.lower()
        found = list(islice((item for item in lists() if str(item.get("id")).lower() == wanted), 1))
    else:
        found = [item for item in lists() if list_name(item) == name]
    if not found:
        which = f"no list has the id {list_id}" if list_id else "no list has this name"
        raise e.CrmSegmentationListNotFoundError(
            f"Segmentation list not found: {which}.", method="GET", path="/segments"
        )
    if len(found) > 1:
        ids = ", ".join(str(item.get("id")) for item in found)
        raise e.CrmInvalidValueError(f"{len(found)} segmentation lists have this name; use list_id, one of {ids}")
    return found[0]


def list_name(item: Mapping[str, Any]) -> Any:
    """The name of a segmentation list; which field has it is not documented."""
    return item.get("name") or item.get("title")


def list_ids_of(contact: Mapping[str, Any]) -> list[str]:
    """The ids of the segmentation lists that a contact is in."""
    found = contact.get("segmentedListsIds")
    return [str(item) for item in found] if isinstance(found, list) else []
