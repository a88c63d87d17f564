"""Sensor on contacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from crm_provider.links import CrmContactLink
from crm_provider.operators.base import contact_email_of
from crm_provider.questions import ContactIs
from crm_provider.sensors.base import CrmSensor


class CrmContactSensor(CrmSensor):
    """Waits until a contact exists and, if they are given, has a status and attribute values.

    XCom: ``{"id": <contact id>, "status": ...}``.

    :param contact_email: the contact's address. ``email`` alone is taken for it; with both, ``email`` is
        Airflow's own: where alerts about the task go
    :param status: the status that it must have; ``active`` is the only documented one
    :param attributes: attribute values that it must have
    """

    template_fields: Sequence[str] = ("contact_email", "status", "attributes", *CrmSensor.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"attributes": "json"}
    operator_extra_links = (CrmContactLink(),)
    policy_name = "CrmContactSensor"

    def __init__(
        self,
        *,
        contact_email: str | None = None,
        status: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        contact_email = contact_email_of(self, contact_email, kwargs)
        super().__init__(**kwargs)
        self.contact_email = contact_email
        self.status = status
        self.attributes = attributes

    def question(self) -> ContactIs:
        return ContactIs(email=self.contact_email, status=self.status, attributes=self.attributes)
