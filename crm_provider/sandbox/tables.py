"""The tables of the CRM: records and the indexes between them, without any rule."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from crm_provider.sandbox.clock import Clock
from crm_provider.sandbox.records import Automation, Contact, Deal, Pipeline, SegmentationList


class Tables:
    """What is there, to look at and to put records into.

    The mappings are views of the live state. Each method takes ``lock`` by itself; hold it around steps that belong
    together, and while walking over a mapping, if a server runs on this state.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self._contacts: dict[str, Contact] = {}
        self._deals: dict[str, Deal] = {}
        self._lists: dict[str, SegmentationList] = {}
        self._pipelines: dict[str, Pipeline] = {}
        self._automations: list[Automation] = []
        self._email_of_contact: dict[str, str] = {}
        self._deal_of_contact: dict[str, str] = {}
        self._births: Counter[str] = Counter()

    @property
    def contacts(self) -> Mapping[str, Contact]:
        """All contacts by email, in the order of their creation."""
        return MappingProxyType(self._contacts)

    @property
    def deals(self) -> Mapping[str, Deal]:
        """All deals by id."""
        return MappingProxyType(self._deals)

    @property
    def lists(self) -> Mapping[str, SegmentationList]:
        """All segmentation lists by id, also those that have not appeared yet."""
        return MappingProxyType(self._lists)

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """All pipelines by id."""
        return MappingProxyType(self._pipelines)

    @property
    def automations(self) -> Sequence[Automation]:
        """Every start of an automation, oldest first."""
        return tuple(self._automations)

    def email_of(self, contact_id: str) -> str | None:
        """The email of the contact with this id, None if there is none."""
        return self._email_of_contact.get(contact_id)

    def deal_of(self, contact_id: str) -> Deal | None:
        """The deal of the contact with this id, None if there is none."""
        return self._deals.get(self._deal_of_contact.get(contact_id, ""))

    def put_contact(self, contact: Contact) -> Contact:
        """Add a contact with the id it has."""
        with self.lock:
            self._births[contact.email] += 1
            self._email_of_contact[contact.id] = contact.email
            return self._keep_contact(contact)

    def put_deal(self, deal: Deal) -> Deal:
        """Add a deal with the id it has."""
        with self.lock:
            self._births[deal.contact_id] += 1
            return self._keep_deal(deal)

    def put_list(self, segmentation_list: SegmentationList) -> SegmentationList:
        """Add a segmentation list with the id it has."""
        with self.lock:
            self._lists[segmentation_list.id] = segmentation_list
            return segmentation_list

    def put_pipeline(self, pipeline: Pipeline) -> Pipeline:
        """Add a pipeline with the id it has."""
        with self.lock:
            self._pipelines[pipeline.id] = pipeline
            return pipeline

    def take_over(self, other: Tables) -> None:
        """Hold what another one holds, and nothing else. Automations that were started are forgotten."""
        with self.lock:
            self._automations.clear()
            for mine, theirs in zip(self._by_key(), other._by_key(), strict=True):
                mine.clear()
                mine.update(theirs)

    def _by_key(self) -> tuple[dict[str, Any], ...]:
        records = (self._contacts, self._deals, self._lists, self._pipelines)
        return (*records, self._email_of_contact, self._deal_of_contact, self._births)

    def _keep_contact(self, contact: Contact) -> Contact:
        self._contacts[contact.email] = contact
        return contact

    def _keep_deal(self, deal: Deal) -> Deal:
        if before := self._deals.get(deal.id):
            del self._deal_of_contact[before.contact_id]
        self._deals[deal.id] = deal
        self._deal_of_contact[deal.contact_id] = deal.id
        return deal

    def _drop_contact(self, contact: Contact) -> Contact:
        del self._contacts[contact.email], self._email_of_contact[contact.id]
        return contact

    def _drop_deal(self, deal: Deal) -> Deal:
        del self._deals[deal.id], self._deal_of_contact[deal.contact_id]
        return deal
