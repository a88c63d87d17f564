"""The rules of the CRM: what must exist, and what is in the way of what. Nothing of HTTP is in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crm_provider import errors as e
from crm_provider.sandbox import ids
from crm_provider.sandbox.clock import Clock, timestamp
from crm_provider.sandbox.problems import RefusedError
from crm_provider.sandbox.records import Automation, Contact, Deal, Pipeline, SegmentationList, Stage
from crm_provider.sandbox.tables import Tables


class Store(Tables):
    """Contacts, deals, pipelines and segmentation lists, changed as the API changes them.

    Methods raise :class:`~crm_provider.sandbox.problems.RefusedError` where the API would refuse.

    :param membership_delay: seconds until an added list shows on the contact
    """

    def __init__(self, clock: Clock, *, membership_delay: float = 0.0) -> None:
        super().__init__(clock)
        self.membership_delay = membership_delay

    # -- looking -------------------------------------------------------------------------------------------

    @property
    def visible_lists(self) -> list[SegmentationList]:
        """The segmentation lists that the API knows by now."""
        now = self.clock.monotonic()
        return [known for known in list(self._lists.values()) if known.visible_from <= now]

    def contact(self, email: str) -> Contact:
        """The contact with exactly this email (case included)."""
        if email not in self._contacts:
            raise RefusedError(e.CrmContactNotFoundError)
        return self._contacts[email]

    def contact_with_id(self, contact_id: str) -> Contact:
        """The contact with this id."""
        email = self.email_of(contact_id)
        if email is None:
            raise RefusedError(e.CrmContactNotFoundError)
        return self._contacts[email]

    def deal(self, deal_id: str) -> Deal:
        """The deal with this id."""
        if deal_id not in self._deals:
            raise RefusedError(e.CrmDealNotFoundError)
        return self._deals[deal_id]

    def pipeline(self, pipeline_id: str) -> Pipeline:
        """The pipeline with this id."""
        if pipeline_id not in self._pipelines:
            raise RefusedError(e.CrmPipelineNotFoundError)
        return self._pipelines[pipeline_id]

    def stage(self, pipeline_id: str, stage_id: str) -> Stage:
        """The stage with this id, which must be one of the pipeline's."""
        for stage in self.pipeline(pipeline_id).stages:
            if stage.id == stage_id:
                return stage
        raise RefusedError(e.CrmStageNotFoundError)

    def segmentation_list(self, list_id: str) -> SegmentationList:
        """The segmentation list with this id, if it has appeared."""
        found = self._lists.get(list_id)
        if found is None or found.visible_from > self.clock.monotonic():
            raise RefusedError(e.CrmSegmentationListNotFoundError)
        return found

    # -- contacts ------------------------------------------------------------------------------------------

    def create_contact(
        self, email: str, *, attributes: Mapping[str, Any] | None = None, origin: Mapping[str, Any] | None = None
    ) -> Contact:
        """A new contact; one with the same email is in the way."""
        with self.lock:
            if email in self._contacts:
                raise RefusedError(e.CrmContactAlreadyExistsError)
            return self.put_contact(
                Contact(
                    id=ids.contact_id(email, self._births[email] + 1),
                    email=email,
                    created_at=timestamp(self.clock.now()),
                    attributes=dict(attributes or {}),
                    origin=origin,
                )
            )

    def update_contact(self, email: str, attributes: Mapping[str, Any]) -> Contact:
        """Set these attributes and keep all others."""
        with self.lock:
            contact = self.contact(email)
            return self._keep_contact(replace(contact, attributes={**contact.attributes, **attributes}))

    def block_contact(self, email: str) -> Contact:
        """Mark a contact as unsubscribed and blacklisted, as of now."""
        with self.lock:
            now = timestamp(self.clock.now())
            return self._keep_contact(replace(self.contact(email), unsubscribed_at=now, blacklisted_at=now))

    def delete_contact(self, email: str) -> Contact:
        """Remove a contact, and its deal with it."""
        with self.lock:
            contact = self.contact(email)
            if deal := self.deal_of(contact.id):
                self._drop_deal(deal)
            return self._drop_contact(contact)

    def add_to_lists(self, email: str, list_ids: Sequence[str]) -> Contact:
        """Add a contact to lists: to all of them or, if one does not exist, to none."""
        with self.lock:
            contact = self.contact(email)
            wanted = [self.segmentation_list(list_id).id for list_id in list_ids]
            since = self.clock.monotonic() + self.membership_delay
            added = {list_id: since for list_id in wanted if list_id not in contact.memberships}
            return self._keep_contact(replace(contact, memberships={**contact.memberships, **added}))

    # -- deals ---------------------------------------------------------------------------------------------

    def create_deal(
        self, *, contact_id: str, pipeline_id: str, stage_id: str, attributes: Mapping[str, Any] | None = None
    ) -> Deal:
        """A new deal; a contact has at most one."""
        with self.lock:
            contact = self.contact_with_id(contact_id)
            stage = self.stage(pipeline_id, stage_id)
            if self.deal_of(contact.id):
                raise RefusedError(e.CrmContactAssociatedWithADealError)
            return self.put_deal(
                Deal(
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
    ) -> Deal:
        """Change what is given; the stage must be one of the deal's pipeline, the contact one without a deal."""
        with self.lock:
            deal = self.deal(deal_id)
            owner = self.contact_with_id(contact_id or deal.contact_id).id
            if self.deal_of(owner) not in (None, deal):
                raise RefusedError(e.CrmContactAssociatedWithADealError)
            stage = self.stage(deal.pipeline_id, stage_id or deal.stage_id)
            merged = {**deal.attributes, **(attributes or {})}
            return self._keep_deal(replace(deal, contact_id=owner, stage_id=stage.id, attributes=merged))

    def delete_deal(self, deal_id: str) -> Deal:
        """Remove a deal: its contact may have another one then."""
        with self.lock:
            return self._drop_deal(self.deal(deal_id))

    # -- what the API cannot create, and automations ---------------------------------------------------------

    def add_list(self, name: str, *, appears_after: float = 0.0) -> SegmentationList:
        """A new segmentation list.

        :param appears_after: seconds until the API knows it, so that a sensor has something to wait for
        """
        visible_from = self.clock.monotonic() + appears_after
        return self.put_list(SegmentationList(id=ids.list_id(name), name=name, visible_from=visible_from))

    def add_pipeline(self, name: str, stages: Sequence[str]) -> Pipeline:
        """A new pipeline with these stages."""
        made = tuple(Stage(id=ids.stage_id(name, stage), name=stage) for stage in stages)
        return self.put_pipeline(Pipeline(id=ids.pipeline_id(name), name=name, stages=made))

    def start_automation(self, automation: Automation) -> None:
        """Note that an automation was started."""
        with self.lock:
            self._automations.append(automation)
