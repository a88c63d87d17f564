"""What the CRM holds. Records are values: a change makes a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JsonObject = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contact:
    """A contact.

    :param memberships: segmentation lists by id, and the monotonic time from which each shows
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
        """The contact as the API shows it.

        :param now: monotonic time; memberships that begin later are left out
        """
        shown = {
            "id": self.id,
            "email": self.email,
            "status": self.status,
            "source": self.source,
            "origin": dict(self.origin) if self.origin is not None else None,
            "segmentedListsIds": [list_id for list_id, since in self.memberships.items() if since <= now],
            "createdAt": self.created_at,
            "attributes": dict(self.attributes),
        }
        # only there when set: absent on a contact in good standing
        dates = {"unsubscribedAt": self.unsubscribed_at, "blacklistedAt": self.blacklisted_at}
        return shown | {name: date for name, date in dates.items() if date is not None}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of a pipeline."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline and its stages in order."""

    id: str
    name: str
    stages: tuple[Stage, ...]

    def as_json(self) -> JsonObject:
        """The pipeline as a seed document has it (no call of the API shows one)."""
        stages = [{"id": stage.id, "name": stage.name} for stage in self.stages]
        return {"id": self.id, "name": self.name, "stages": stages}


@dataclass(frozen=True, kw_only=True)
class Deal:
    """A deal of one contact in one stage."""

    id: str
    contact_id: str
    pipeline_id: str
    stage_id: str
    created_at: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> JsonObject:
        """The deal as the API shows it."""
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
        """The list as the API shows it."""
        return {"id": self.id, "name": self.name}


@dataclass(frozen=True, kw_only=True)
class Automation:
    """One start of an automation through its webhook."""

    webhook_id: str
    channel_uid: str
    workflow_id: str
    email: str
    custom_fields: tuple[Mapping[str, Any], ...] = ()
