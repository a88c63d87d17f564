"""Developer mode (header ``x-developer-mode: true``): fake answers, the real state untouched."""

from __future__ import annotations

from crm_provider.sandbox import ids
from crm_provider.sandbox.clock import Clock
from crm_provider.sandbox.records import Contact, Deal, SegmentationList, Stage
from crm_provider.sandbox.store import Store

HEADER = "x-developer-mode"

_PEOPLE = ("first@developer.example", "second@developer.example", "third@developer.example")
_CREATED_AT = "2025-01-01T00:00:00.000Z"


class DeveloperStore(Store):
    """A world made up for one call: whatever a call names exists, and nothing is in its way.

    Bodies are still checked. The store is thrown away after the call, so nothing is remembered.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        for email in _PEOPLE:
            self.put_deal(_made_up_deal(self._invent(email, ids.contact_id(email)).id))
        self.add_list("Developer list")

    def contact(self, email: str) -> Contact:
        return self.contacts.get(email) or self._invent(email, ids.contact_id(email))

    def contact_with_id(self, contact_id: str) -> Contact:
        known = (contact for contact in self.contacts.values() if contact.id == contact_id)
        return next(known, None) or self._invent(f"{contact_id}@developer.example", contact_id)

    def deal(self, deal_id: str) -> Deal:
        if deal_id in self.deals:
            return self.deals[deal_id]
        owner = self._invent(f"{deal_id}@developer.example", ids.contact_id(deal_id))
        return self.put_deal(_made_up_deal(owner.id, deal_id))

    def stage(self, pipeline_id: str, stage_id: str) -> Stage:
        return Stage(id=stage_id, name=f"Made up for pipeline {pipeline_id}")

    def segmentation_list(self, list_id: str) -> SegmentationList:
        return SegmentationList(id=list_id, name="Made up")

    def _invent(self, email: str, contact_id: str) -> Contact:
        attributes = {"name": "Developer Mode", "phone": "+15550100000"}
        return self.put_contact(Contact(id=contact_id, email=email, created_at=_CREATED_AT, attributes=attributes))


def _made_up_deal(contact_id: str, deal_id: str | None = None) -> Deal:
    return Deal(
        id=deal_id or ids.deal_id(contact_id),
        contact_id=contact_id,
        pipeline_id=ids.pipeline_id("Sales"),
        stage_id=ids.stage_id("Sales", "New"),
        created_at=_CREATED_AT,
        attributes={"pb_name": "Developer Mode", "pb_amount": "100"},
    )
