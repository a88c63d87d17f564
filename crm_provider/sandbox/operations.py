"""The API's calls, one function each: a request with a parsed body in, the data of a success out.

A call that the API refuses raises :class:`~crm_provider.sandbox.problems.RefusedError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crm_provider.errors import CrmInvalidInputError
from crm_provider.sandbox import validation as check
from crm_provider.sandbox.problems import RefusedError
from crm_provider.sandbox.records import Automation, Contact, JsonObject
from crm_provider.sandbox.store import Store

PAGE_SIZE = 10
"""The API's pages have 10 records; there is no parameter for it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call of a known route.

    :param params: the placeholders of the route's path, percent-decoded once
    :param query: the parameters after the ``?``
    :param body: the parsed body, empty where there is none
    """

    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Success:
    """What a call answers when it works."""

    data: JsonObject
    status: int = 200


# -- contacts -----------------------------------------------------------------------------------------------


def create_contact(store: Store, request: Request) -> Success:
    """``POST /contacts``."""
    email = check.required_email(request.body)
    attributes = check.contact_attributes(check.optional_object(request.body, "attributes") or {})
    origin = check.optional_object(request.body, "origin")
    return Success(status=201, data=_brief(store.create_contact(email, attributes=attributes, origin=origin)))


def get_contact(store: Store, request: Request) -> Success:
    """``GET /contacts/{email}``."""
    return Success(data=store.contact(request.params["email"]).as_json(store.clock.monotonic()))


def update_contact(store: Store, request: Request) -> Success:
    """``PUT /contacts/{email}``: the body's top level holds the attributes; those not sent are kept."""
    attributes = check.contact_attributes(request.body)
    return Success(data=_brief(store.update_contact(request.params["email"], attributes)))


def delete_contact(store: Store, request: Request) -> Success:
    """``DELETE /contacts/{email}``."""
    return Success(data=_brief(store.delete_contact(request.params["email"])))


def list_contacts(store: Store, request: Request) -> Success:
    """``GET /contacts?page=``."""
    now = store.clock.monotonic()
    shown, page = _page(list(store.contacts.values()), request)
    return Success(data={**page, "data": [contact.as_json(now) for contact in shown]})


# -- deals --------------------------------------------------------------------------------------------------


def create_deal(store: Store, request: Request) -> Success:
    """``POST /deals``."""
    deal = store.create_deal(
        contact_id=check.required_uuid(request.body, "contactId"),
        pipeline_id=check.required_uuid(request.body, "pipelineId"),
        stage_id=check.required_uuid(request.body, "stageId"),
        attributes=check.deal_attributes(check.optional_object(request.body, "attributes") or {}),
    )
    email = store.contact_with_id(deal.contact_id).email
    return Success(status=201, data={"id": deal.id, "contactId": deal.contact_id, "email": email})


def get_deal(store: Store, request: Request) -> Success:
    """``GET /deals/{dealId}``."""
    return Success(data=store.deal(request.params["dealId"]).as_json())


def update_deal(store: Store, request: Request) -> Success:
    """``PUT /deals/{dealId}``: changes what is sent. A deal cannot change its pipeline."""
    if "pipelineId" in request.body:
        raise RefusedError(CrmInvalidInputError, "pipelineId: cannot be changed")
    deal = store.update_deal(
        request.params["dealId"],
        contact_id=check.optional_uuid(request.body, "contactId"),
        stage_id=check.optional_uuid(request.body, "stageId"),
        attributes=check.deal_attributes(check.optional_object(request.body, "attributes") or {}),
    )
    return Success(data={"id": deal.id})


def delete_deal(store: Store, request: Request) -> Success:
    """``DELETE /deals/{dealId}``."""
    return Success(data={"id": store.delete_deal(request.params["dealId"]).id})


def list_deals(store: Store, request: Request) -> Success:
    """``GET /deals?page=``."""
    shown, page = _page(list(store.deals.values()), request)
    return Success(data={**page, "data": [deal.as_json() for deal in shown]})


# -- lists, verification, automations -----------------------------------------------------------------------


def list_segments(store: Store, request: Request) -> Success:
    """``GET /segments?page=``."""
    shown, page = _page(store.visible_lists, request)
    return Success(data={**page, "data": [known.as_json() for known in shown]})


def add_to_segments(store: Store, request: Request) -> Success:
    """``POST /segments/add-contact/{email}``."""
    list_ids = check.required_uuids(request.body, "segmentedListsIds")
    return Success(data=_brief(store.add_to_lists(request.params["email"], list_ids)))


def verify_email(_store: Store, request: Request) -> Success:
    """``POST /email-verification/{email}``: valid if it is an address outside the reserved domain ``.invalid``."""
    email = request.params["email"]
    valid = check.is_email(email) and not email.lower().endswith(".invalid")
    return Success(data={"email": email, "status": "valid" if valid else "invalid"})


def start_automation(store: Store, request: Request) -> Success:
    """``POST /webhook/{webhookId}/c/{channelUid}/w/{workflowId}``."""
    fields = request.body.get("customFields", [])
    if not isinstance(fields, list) or not all(isinstance(f, dict) and "fieldName" in f for f in fields):
        raise RefusedError(CrmInvalidInputError, "customFields: not a list of objects with fieldName and fieldValue")
    store.start_automation(
        Automation(
            webhook_id=request.params["webhookId"],
            channel_uid=request.params["channelUid"],
            workflow_id=request.params["workflowId"],
            email=check.required_email(request.body),
            custom_fields=tuple(fields),
        )
    )
    return Success(data={})


def _brief(contact: Contact) -> JsonObject:
    return {"id": contact.id, "email": contact.email}


def _page(records: Sequence[Any], request: Request) -> tuple[Sequence[Any], JsonObject]:
    """The records of the page that was asked for (none past the end), and the page's own fields."""
    number = check.page_number(request.query)
    shown = records[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]
    return shown, {"page": number, "total": len(records)}
