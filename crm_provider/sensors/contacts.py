"""Sensor on contacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from crm_provider.observability.links import CrmContactLink
from crm_provider.sensors.base import CrmSensor
from crm_provider.tasks.arguments import rendered
from crm_provider.waiting.conditions import ContactIs

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from typing_extensions import Unpack

    from crm_provider.tasks.arguments import CrmSensorArguments, Templated


class CrmContactSensor(CrmSensor):
    """Waits until a contact exists and has the given status and attribute values.

    XCom: ``{"id": <contact id>, "status": ...}``.

    :param contact_email: the contact's address
    :param status: the expected status; ``active`` is the only documented one
    :param attributes: the expected attribute values
    """

    template_fields: Sequence[str] = ("contact_email", "status", "attributes", *CrmSensor.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {"attributes": "json"}
    operator_extra_links = (CrmContactLink(),)
    policy_name = "CrmContactSensor"

    def __init__(
        self,
        *,
        contact_email: Templated[str],
        status: Templated[str] | None = None,
        attributes: Templated[Mapping[str, Any]] | None = None,
        **kwargs: Unpack[CrmSensorArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.contact_email = rendered(contact_email)
        self.status = rendered(status)
        self.attributes = rendered(attributes)

    if TYPE_CHECKING:

        @classmethod
        def partial(
            cls,
            *,
            contact_email: Templated[str] = ...,
            status: Templated[str] | None = ...,
            attributes: Templated[Mapping[str, Any]] | None = ...,
            **kwargs: Unpack[CrmSensorArguments],
        ) -> OperatorPartial: ...

    def condition(self) -> ContactIs:
        return ContactIs(email=self.contact_email, status=self.status, attributes=self.attributes)
