"""The API's operations, one function each, and the checks of what they receive.

An operation takes a request with a parsed body and returns the data of a success. It raises
:class:`~crm_provider.sandbox.responses.RefusedError` if the API refuses the request. The detail of a refusal names a
field, never its value.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from crm_provider.sandbox.responses import RefusedError
from crm_provider.sandbox.store import Automation, ContactRecord, CrmStore, JsonObject

PAGE_SIZE = 10
"""Records on a page. The API has no parameter for it."""

MAX_NESTING = 100
"""Levels of objects and arrays that a body may have."""

# The local part may hold nearly anything (RFC 5321): clients tend to get odd but legal addresses wrong.
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s/?#%.\x00-\x1f\x7f]+(\.[^@\s/?#%.\x00-\x1f\x7f]+)+")
_EMAIL_MAX = 254
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")


@dataclass(frozen=True, kw_only=True)
class ApiRequest:
    """The input of an operation.

    :param params: the values of the placeholders in the route's path, percent-decoded once
    :param query: the parameters of the query string
    :param body: the parsed body, empty if there is none
    """

    params: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ApiSuccess:
    """The output of an operation."""

    data: JsonObject
    status: int = 200


# -- contacts -----------------------------------------------------------------------------------------------


def create_contact(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``POST /contacts``."""
    email = _required_email(request.body)
    attributes = _contact_attributes(_optional_object(request.body, "attributes") or {})
    origin = _optional_object(request.body, "origin")
    return ApiSuccess(status=201, data=_brief(store.create_contact(email, attributes=attributes, origin=origin)))


def get_contact(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``GET /contacts/{email}``."""
    return ApiSuccess(data=store.contact(request.params["email"]).as_json(store.clock.monotonic()))


def update_contact(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``PUT /contacts/{email}``: the top level of the body holds the attributes; others keep their value."""
    attributes = _contact_attributes(request.body)
    return ApiSuccess(data=_brief(store.update_contact(request.params["email"], attributes)))


def delete_contact(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``DELETE /contacts/{email}``."""
    return ApiSuccess(data=_brief(store.delete_contact(request.params["email"])))


def list_contacts(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``GET /contacts?page=``."""
    now = store.clock.monotonic()
    records, page = _page(list(store.contacts.values()), request)
    return ApiSuccess(data={**page, "data": [contact.as_json(now) for contact in records]})


# -- deals --------------------------------------------------------------------------------------------------


def create_deal(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``POST /deals``."""
    deal = store.create_deal(
        contact_id=_uuid(request.body.get("contactId"), "contactId"),
        pipeline_id=_uuid(request.body.get("pipelineId"), "pipelineId"),
        stage_id=_uuid(request.body.get("stageId"), "stageId"),
        attributes=_deal_attributes(_optional_object(request.body, "attributes") or {}),
    )
    email = store.contact_with_id(deal.contact_id).email
    return ApiSuccess(status=201, data={"id": deal.id, "contactId": deal.contact_id, "email": email})


def get_deal(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``GET /deals/{dealId}``."""
    return ApiSuccess(data=store.deal(request.params["dealId"]).as_json())


def update_deal(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``PUT /deals/{dealId}``: changes what is sent. A deal cannot change its pipeline."""
    if "pipelineId" in request.body:
        raise RefusedError("INVALID_INPUT", "pipelineId: cannot be changed")
    deal = store.update_deal(
        request.params["dealId"],
        contact_id=_optional_uuid(request.body, "contactId"),
        stage_id=_optional_uuid(request.body, "stageId"),
        attributes=_deal_attributes(_optional_object(request.body, "attributes") or {}),
    )
    return ApiSuccess(data={"id": deal.id})


def delete_deal(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``DELETE /deals/{dealId}``."""
    return ApiSuccess(data={"id": store.delete_deal(request.params["dealId"]).id})


def list_deals(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``GET /deals?page=``."""
    records, page = _page(list(store.deals.values()), request)
    return ApiSuccess(data={**page, "data": [deal.as_json() for deal in records]})


# -- lists, verification, automations -----------------------------------------------------------------------


def list_segments(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``GET /segments?page=``."""
    records, page = _page(store.visible_lists, request)
    return ApiSuccess(data={**page, "data": [known.as_json() for known in records]})


def add_to_segments(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``POST /segments/add-contact/{email}``."""
    values = request.body.get("segmentedListsIds")
    if not isinstance(values, list) or not values:
        raise RefusedError("INVALID_INPUT", "segmentedListsIds: missing, empty or not a list")
    list_ids = [_uuid(value, f"segmentedListsIds[{index}]") for index, value in enumerate(values)]
    return ApiSuccess(data=_brief(store.add_to_lists(request.params["email"], list_ids)))


def verify_email(_store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``POST /email-verification/{email}``: a valid address outside the reserved domain ``.invalid`` is valid."""
    email = request.params["email"]
    valid = is_email(email) and not email.lower().endswith(".invalid")
    return ApiSuccess(data={"email": email, "status": "valid" if valid else "invalid"})


def start_automation(store: CrmStore, request: ApiRequest) -> ApiSuccess:
    """``POST /webhook/{webhookId}/c/{channelUid}/w/{workflowId}``."""
    fields = request.body.get("customFields", [])
    if not isinstance(fields, list) or not all(isinstance(f, dict) and "fieldName" in f for f in fields):
        raise RefusedError("INVALID_INPUT", "customFields: not a list of objects with fieldName and fieldValue")
    store.start_automation(
        Automation(
            webhook_id=request.params["webhookId"],
            channel_uid=request.params["channelUid"],
            workflow_id=request.params["workflowId"],
            email=_required_email(request.body),
            custom_fields=tuple(fields),
        )
    )
    return ApiSuccess(data={})


def _brief(contact: ContactRecord) -> JsonObject:
    return {"id": contact.id, "email": contact.email}


def _page(records: Sequence[Any], request: ApiRequest) -> tuple[Sequence[Any], JsonObject]:
    """The records of the requested page (none after the last page), and the fields that describe the page."""
    page = request.query.get("page", "0")
    if not re.fullmatch("[0-9]{1,9}", page):
        raise RefusedError("INVALID_INPUT", "page: not a number from 0")
    start = int(page) * PAGE_SIZE
    return records[start : start + PAGE_SIZE], {"page": int(page), "total": len(records)}


# -- checks of bodies and values ----------------------------------------------------------------------------


def parse_body(body: bytes) -> JsonObject:
    """The JSON object in a body."""
    if not body.strip():
        raise RefusedError("MISSING_BODY")
    try:
        parsed = json.loads(body, parse_constant=_reject_constant)
        # Python reads values that no response can repeat: half a surrogate pair, numbers too large for a float
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise RefusedError("INVALID_INPUT", "the body is not JSON") from error
    if not isinstance(parsed, dict) or _is_deeper(parsed, MAX_NESTING):
        raise RefusedError("INVALID_INPUT", "the body is not a JSON object, or nested too deeply")
    return parsed


def is_email(value: object) -> bool:
    """Whether the API accepts this as an email address."""
    return isinstance(value, str) and len(value) <= _EMAIL_MAX and _EMAIL.fullmatch(value) is not None


def _required_email(body: Mapping[str, Any]) -> str:
    if not is_email(body.get("email")):
        raise RefusedError("INVALID_INPUT", "email: missing or not an address")
    return str(body["email"])


def _uuid(value: object, name: str) -> str:
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError as error:
            raise RefusedError("INVALID_INPUT", f"{name}: not a UUID") from error
    raise RefusedError("INVALID_INPUT", f"{name}: missing or not a UUID")


def _optional_uuid(body: Mapping[str, Any], name: str) -> str | None:
    return _uuid(body[name], name) if name in body else None


def _optional_object(body: Mapping[str, Any], name: str) -> JsonObject | None:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise RefusedError("INVALID_INPUT", f"{name}: not an object")
    return value


def _contact_attributes(attributes: Mapping[str, Any]) -> JsonObject:
    """Attributes by name: no objects, ``phone`` as E.164, ``name`` as a string."""
    for name, value in attributes.items():
        if isinstance(value, dict):
            raise RefusedError("INVALID_INPUT", f"{name}: an object; an update has the attributes at the top level")
    if not _is_string_or_null(attributes.get("name")):
        raise RefusedError("INVALID_INPUT", "name: not a string")
    phone = attributes.get("phone")
    if phone is not None and not (isinstance(phone, str) and _E164.fullmatch(phone)):
        raise RefusedError("INVALID_INPUT", "phone: not E.164, for example +5531999999999")
    return dict(attributes)


def _deal_attributes(attributes: Mapping[str, Any]) -> JsonObject:
    """Attributes by name: ``pb_name`` and ``pb_amount`` as strings, ``pb_closingDate`` as date and time."""
    for name in ("pb_name", "pb_amount"):
        if not _is_string_or_null(attributes.get(name)):
            raise RefusedError("INVALID_INPUT", f"{name}: not a string")
    closing = attributes.get("pb_closingDate")
    if closing is not None and not _is_date_time(closing):
        raise RefusedError("INVALID_INPUT", "pb_closingDate: not a date and time in ISO 8601")
    return dict(attributes)


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_deeper(value: object, levels: int) -> bool:
    """Whether a JSON value has more than this many levels of objects and arrays."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _is_string_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_date_time(value: object) -> bool:
    if not isinstance(value, str) or "T" not in value:
        return False
    try:  # Python 3.10 reads neither Z nor fractions with other than 3 or 6 digits
        datetime.fromisoformat(re.sub(r"\.[0-9]+", "", value).replace("Z", "+00:00"))
    except ValueError:
        return False
    return True
