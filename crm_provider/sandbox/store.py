"""The state of the CRM: its records, and the rules by which the API changes them. It is independent of HTTP."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from crm_provider.sandbox import ids
from crm_provider.sandbox.responses import RefusedError
from crm_provider.sandbox.settings import Clock, timestamp

JsonObject = dict[str, Any]


# -- records: values, a change makes a new one --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ContactRecord:
    """A contact.

    :param memberships: segmentation lists by id, with the monotonic time from which each one shows
    """

    id: str
    email: str
    created_at: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] | None = None
    status: str = "active"
    source: str = "PublicApi"
    memberships: Mapping[str, float] = field(default_factory=dict)
    unsubscribed_at: str | None = None
    blacklisted_at: str | None = None

    def as_json(self, now: float) -> JsonObject:
        """The contact as the API returns it.

        :param now: monotonic time; memberships that start later are left out
        """
        fields = {
            "id": self.id,
            "email": self.email,
            "status": self.status,
            "source": self.source,
            "origin": dict(self.origin) if self.origin is not None else None,
            "segmentedListsIds": [list_id for list_id, since in self.memberships.items() if since <= now],
            "createdAt": self.created_at,
            "attributes": dict(self.attributes),
        }
        dates = {"unsubscribedAt": self.unsubscribed_at, "blacklistedAt": self.blacklisted_at}
        return fields | {name: date for name, date in dates.items() if date is not None}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a pipeline."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline with its stages in order."""

    id: str
    name: str
    stages: tuple[Stage, ...]

    def as_json(self) -> JsonObject:
        """The pipeline as a seed document has it. No API route returns one."""
        stages = [{"id": stage.id, "name": stage.name} for stage in self.stages]
        return {"id": self.id, "name": self.name, "stages": stages}


@dataclass(frozen=True, kw_only=True)
class DealRecord:
    """The deal of one contact."""

    id: str
    contact_id: str
    pipeline_id: str
    stage_id: str
    created_at: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> JsonObject:
        """The deal as the API returns it."""
        return {
            "id": self.id,
            "contactId": self.contact_id,
            "pipelineId": self.pipeline_id,
            "stageId": self.stage_id,
            "createdAt": self.created_at,
            "attributes": dict(self.attributes),
        }


@dataclass(frozen=True, kw_only=True)
class SegmentationList:
    """A segmentation list.

    :param visible_from: monotonic time from which the API knows it
    """

    id: str
    name: str
    visible_from: float = 0.0

    def as_json(self) -> JsonObject:
        """The list as the API returns it."""
        return {"id": self.id, "name": self.name}


@dataclass(frozen=True, kw_only=True)
class Automation:
    """One start of an automation by its webhook."""

    webhook_id: str
    channel_uid: str
    workflow_id: str
    email: str
    custom_fields: tuple[Mapping[str, Any], ...] = ()


# -- store --------------------------------------------------------------------------------------------------


class CrmStore:
    """Contacts, deals, pipelines and segmentation lists.

    The mappings are views of the live state. Each method takes ``lock`` itself. If a server uses this store, hold the
    lock around steps that belong together and while iterating over a mapping.

    Methods raise :class:`~crm_provider.sandbox.responses.RefusedError` where the API would refuse the request.

    :param membership_delay: seconds until a new list membership shows on the contact
    """

    def __init__(self, clock: Clock, *, membership_delay: float = 0.0) -> None:
        self.clock = clock
        self.membership_delay = membership_delay
        self.lock = threading.RLock()
        self._contacts: dict[str, ContactRecord] = {}
        self._deals: dict[str, DealRecord] = {}
        self._lists: dict[str, SegmentationList] = {}
        self._pipelines: dict[str, Pipeline] = {}
        self._automations: list[Automation] = []
        self._email_of_contact: dict[str, str] = {}
        self._deal_of_contact: dict[str, str] = {}
        self._births: Counter[str] = Counter()

    # -- read --------------------------------------------------------------------------------------------

    @property
    def contacts(self) -> Mapping[str, ContactRecord]:
        """All contacts by email, in the order of their creation."""
        return MappingProxyType(self._contacts)

    @property
    def deals(self) -> Mapping[str, DealRecord]:
        """All deals by id."""
        return MappingProxyType(self._deals)

    @property
    def lists(self) -> Mapping[str, SegmentationList]:
        """All segmentation lists by id, including those that are not visible yet."""
        return MappingProxyType(self._lists)

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """All pipelines by id."""
        return MappingProxyType(self._pipelines)

    @property
    def automations(self) -> Sequence[Automation]:
        """Every start of an automation, oldest first."""
        return tuple(self._automations)

    @property
    def visible_lists(self) -> list[SegmentationList]:
        """The segmentation lists that the API knows now."""
        now = self.clock.monotonic()
        return [known for known in list(self._lists.values()) if known.visible_from <= now]

    def email_of(self, contact_id: str) -> str | None:
        """The email of the contact with this id, or None."""
        return self._email_of_contact.get(contact_id)

    def deal_of(self, contact_id: str) -> DealRecord | None:
        """The deal of the contact with this id, or None."""
        return self._deals.get(self._deal_of_contact.get(contact_id, ""))

    def contact(self, email: str) -> ContactRecord:
        """The contact with exactly this email, case included."""
        if email not in self._contacts:
            raise RefusedError("CONTACT_NOT_FOUND")
        return self._contacts[email]

    def contact_with_id(self, contact_id: str) -> ContactRecord:
        """The contact with this id."""
        email = self.email_of(contact_id)
        if email is None:
            raise RefusedError("CONTACT_NOT_FOUND")
        return self._contacts[email]

    def deal(self, deal_id: str) -> DealRecord:
        """The deal with this id."""
        if deal_id not in self._deals:
            raise RefusedError("DEAL_NOT_FOUND")
        return self._deals[deal_id]

    def stage(self, pipeline_id: str, stage_id: str) -> Stage:
        """The stage with this id, which must belong to this pipeline."""
        if pipeline_id not in self._pipelines:
            raise RefusedError("PIPELINE_NOT_FOUND")
        for stage in self._pipelines[pipeline_id].stages:
            if stage.id == stage_id:
                return stage
        raise RefusedError("STAGE_NOT_FOUND")

    def segmentation_list(self, list_id: str) -> SegmentationList:
        """The segmentation list with this id, if it is visible."""
        found = self._lists.get(list_id)
        if found is None or found.visible_from > self.clock.monotonic():
            raise RefusedError("SEGMENTATION_LIST_NOT_FOUND")
        return found

    # -- contacts ----------------------------------------------------------------------------------------

    def create_contact(
        self, email: str, *, attributes: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None
    ) -> ContactRecord:
        """Create a contact; refused if one with this email exists."""
        with self.lock:
            if email in self._contacts:
                raise RefusedError("CONTACT_ALREADY_EXISTS")
            return self.put_contact(
                ContactRecord(
                    id=ids.contact_id(email, self._births[email] + 1),
                    email=email,
                    created_at=timestamp(self.clock.now()),
                    attributes=dict(attributes or {}),
                    origin=origin,
                )
            )

    def update_contact(self, email: str, attributes: Mapping[str, Any]) -> ContactRecord:
        """Set these attributes and keep all others."""
        with self.lock:
            contact = self.contact(email)
            return self._save_contact(replace(contact, attributes={**contact.attributes, **attributes}))

    def block_contact(self, email: str) -> ContactRecord:
        """Mark a contact as unsubscribed and blacklisted from now on."""
        with self.lock:
            now = timestamp(self.clock.now())
            return self._save_contact(replace(self.contact(email), unsubscribed_at=now, blacklisted_at=now))

    def delete_contact(self, email: str) -> ContactRecord:
        """Delete a contact and its deal."""
        with self.lock:
            contact = self.contact(email)
            if deal := self.deal_of(contact.id):
                self.delete_deal(deal.id)
            del self._contacts[email], self._email_of_contact[contact.id]
            return contact

    def add_to_lists(self, email: str, list_ids: Sequence[str]) -> ContactRecord:
        """Add a contact to all of these lists, or to none if one does not exist."""
        with self.lock:
            contact = self.contact(email)
            wanted = [self.segmentation_list(list_id).id for list_id in list_ids]
            since = self.clock.monotonic() + self.membership_delay
            added = {list_id: since for list_id in wanted if list_id not in contact.memberships}
            return self._save_contact(replace(contact, memberships={**contact.memberships, **added}))

    # -- deals -------------------------------------------------------------------------------------------

    def create_deal(
        self, *, contact_id: str, pipeline_id: str, stage_id: str, attributes: Mapping[str, Any] | None = None
    ) -> DealRecord:
        """Create a deal; refused if the contact has one."""
        with self.lock:
            contact = self.contact_with_id(contact_id)
            stage = self.stage(pipeline_id, stage_id)
            if self.deal_of(contact.id):
                raise RefusedError("CONTACT_ASSOCIATED_WITH_A_DEAL")
            return self.put_deal(
                DealRecord(
                    id=ids.deal_id(contact.id, self._births[contact.id] + 1),
                    contact_id=contact.id,
                    pipeline_id=pipeline_id,
                    stage_id=stage.id,
                    created_at=timestamp(self.clock.now()),
                    attributes=dict(attributes or {}),
                )
            )

    def update_deal(
        self,
        deal_id: str,
        *,
        contact_id: str | None = None,
        stage_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> DealRecord:
        """Change the given fields. The stage must belong to the deal's pipeline; a new contact must not have a deal."""
        with self.lock:
            deal = self.deal(deal_id)
            owner = self.contact_with_id(contact_id or deal.contact_id).id
            if self.deal_of(owner) not in (None, deal):
                raise RefusedError("CONTACT_ASSOCIATED_WITH_A_DEAL")
            stage = self.stage(deal.pipeline_id, stage_id or deal.stage_id)
            merged = {**deal.attributes, **(attributes or {})}
            return self._save_deal(replace(deal, contact_id=owner, stage_id=stage.id, attributes=merged))

    def delete_deal(self, deal_id: str) -> DealRecord:
        """Delete a deal. Its contact may get another one afterwards."""
        with self.lock:
            deal = self.deal(deal_id)
            del self._deals[deal_id], self._deal_of_contact[deal.contact_id]
            return deal

    # -- what the API cannot create ----------------------------------------------------------------------

    def add_list(self, name: str, *, appears_after: float = 0.0) -> SegmentationList:
        """Add a segmentation list.

        :param appears_after: seconds until the API knows it, so that a sensor has to wait for it
        """
        visible_from = self.clock.monotonic() + appears_after
        return self.put_list(SegmentationList(id=ids.list_id(name), name=name, visible_from=visible_from))

    def add_pipeline(self, name: str, stages: Sequence[str]) -> Pipeline:
        """Add a pipeline with these stages."""
        made = tuple(Stage(id=ids.stage_id(name, stage), name=stage) for stage in stages)
        return self.put_pipeline(Pipeline(id=ids.pipeline_id(name), name=name, stages=made))

    def start_automation(self, automation: Automation) -> None:
        """Record that an automation was started."""
        with self.lock:
            self._automations.append(automation)

    # -- records with an id, as a seed has them ----------------------------------------------------------

    def put_contact(self, contact: ContactRecord) -> ContactRecord:
        """Add a contact."""
        with self.lock:
            self._births[contact.email] += 1
            self._email_of_contact[contact.id] = contact.email
            return self._save_contact(contact)

    def put_deal(self, deal: DealRecord) -> DealRecord:
        """Add a deal."""
        with self.lock:
            self._births[deal.contact_id] += 1
            return self._save_deal(deal)

    def put_list(self, segmentation_list: SegmentationList) -> SegmentationList:
        """Add a segmentation list."""
        with self.lock:
            self._lists[segmentation_list.id] = segmentation_list
            return segmentation_list

    def put_pipeline(self, pipeline: Pipeline) -> Pipeline:
        """Add a pipeline."""
        with self.lock:
            self._pipelines[pipeline.id] = pipeline
            return pipeline

    def replace_with(self, other: CrmStore) -> None:
        """Replace all records, including started automations, by those of another store."""
        with self.lock:
            self._automations.clear()
            for mine, theirs in zip(self._tables(), other._tables(), strict=True):
                mine.clear()
                mine.update(theirs)

    def _tables(self) -> tuple[dict[str, Any], ...]:
        records = (self._contacts, self._deals, self._lists, self._pipelines)
        return (*records, self._email_of_contact, self._deal_of_contact, self._births)

    def _save_contact(self, contact: ContactRecord) -> ContactRecord:
        self._contacts[contact.email] = contact
        return contact

    def _save_deal(self, deal: DealRecord) -> DealRecord:
        if before := self._deals.get(deal.id):
            del self._deal_of_contact[before.contact_id]
        self._deals[deal.id] = deal
        self._deal_of_contact[deal.contact_id] = deal.id
        return deal
