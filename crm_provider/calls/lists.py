"""Calls about segmentation lists."""

from __future__ import annotations

from collections.abc import Iterator

from crm_provider.calls.base import Record
from crm_provider.calls.contacts import ContactCalls
from crm_provider.segments import pick_list


class ListCalls(ContactCalls):
    """List and find segmentation lists."""

    def list_segmentation_lists(self) -> Iterator[Record]:
        """All segmentation lists, each once, ten with a call."""
        return self._walk("/segments")

    def find_segmentation_list(self, name: str | None = None, *, list_id: str | None = None) -> Record:
        """One segmentation list, by its exact name (reads all pages) or by its id (reads up to the list).

        :raises CrmSegmentationListNotFoundError: if there is none
        :raises CrmInvalidValueError: if several have this name
        """
        return pick_list(self.list_segmentation_lists, name=name, list_id=list_id)
