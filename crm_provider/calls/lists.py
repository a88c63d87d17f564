"""Calls about segmentation lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crm_provider import validate
from crm_provider.calls.base import Record
from crm_provider.calls.contacts import ContactCalls
from crm_provider.segments import list_ids_of, pick_list
from crm_provider.transport import Call


class ListCalls(ContactCalls):
    """List and find segmentation lists, and add contacts to them."""

    def list_segmentation_lists(self) -> Iterator[Record]:
        """All segmentation lists, each once, ten with a call."""
        return self._walk("/segments")

    def find_segmentation_list(self, name: str | None = None, *, list_id: str | None = None) -> Record:
        """One segmentation list, by its exact name (reads all pages) or by its id (reads up to the list).

        :raises CrmSegmentationListNotFoundError: if there is none
        :raises CrmInvalidValueError: if several have this name
        """
        return pick_list(self.list_segmentation_lists, name=name, list_id=list_id)

    def add_contact_to_lists(self, email: str, list_ids: Sequence[str]) -> Record:
        """Add a contact to segmentation lists. If the answer is lost, the contact is read before it is sent again.

        :param list_ids: ids of the lists
        :raises CrmContactNotFoundError: if there is no such contact
        :raises CrmSegmentationListNotFoundError: if one of the lists does not exist
        """
        ids = validate.uuids(list_ids, "list_ids")
        call = Call(
            method="POST",
            route="/segments/add-contact/{email}",
            parts={"email": validate.email(email)},
            body={"segmentedListsIds": ids},
            loose=True,
        )
        answer = self._transport.send(call, settle=lambda: self._membership(email, ids))
        return answer if isinstance(answer, dict) else {}

    def _membership(self, email: str, ids: list[str]) -> Record | None:
        contact = self._read_back(email)
        return {} if contact and {i.lower() for i in ids} <= {i.lower() for i in list_ids_of(contact.record)} else None
