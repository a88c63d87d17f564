"""What the API accepts: the checks of bodies and values, before any rule of the CRM is asked.

What breaks a rule is refused as INVALID_INPUT (or MISSING_BODY); the detail names the field, never its value.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from crm_provider.contents import is_too_deep
from crm_provider.errors import CrmInvalidInputError, CrmMissingBodyError
from crm_provider.sandbox.problems import RefusedError
from crm_provider.sandbox.records import JsonObject

# The local part may hold nearly anything (RFC 5321): odd but legal addresses are what clients get wrong.
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s/?#%.\x00-\x1f\x7f]+(\.[^@\s/?#%.\x00-\x1f\x7f]+)+")
_EMAIL_MAX = 254
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")


def parse_body(body: bytes) -> JsonObject:
    """The JSON object in a body."""
    if not body.strip():
        raise RefusedError(CrmMissingBodyError)
    try:
        parsed = json.loads(body, parse_constant=_not_json)
        # what Python reads and no answer could say again: half a surrogate pair, a number beyond all floats
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise RefusedError(CrmInvalidInputError, "the body is not JSON") from error
    if not isinstance(parsed, dict) or is_too_deep(parsed):
        raise RefusedError(CrmInvalidInputError, "the body is not a JSON object, or nested too deeply")
    return parsed


def is_email(value: object) -> bool:
    """Whether this is an email address as the API takes it."""
    return isinstance(value, str) and len(value) <= _EMAIL_MAX and _EMAIL.fullmatch(value) is not None


def required_email(body: Mapping[str, Any]) -> str:
    """The field ``email``."""
    if not is_email(body.get("email")):
        raise RefusedError(CrmInvalidInputError, "email: missing or not an address")
    return str(body["email"])


def required_uuid(body: Mapping[str, Any], field: str) -> str:
    """A field that must hold a uuid."""
    return _uuid(body.get(field), field)


def optional_uuid(body: Mapping[str, Any], field: str) -> str | None:
    """A field that holds a uuid if it is there."""
    return _uuid(body[field], field) if field in body else None


def required_uuids(body: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """A field that must hold at least one uuid."""
    values = body.get(field)
    if not isinstance(values, list) or not values:
        raise RefusedError(CrmInvalidInputError, f"{field}: missing, empty or not a list")
    return tuple(_uuid(value, f"{field}[{index}]") for index, value in enumerate(values))


def optional_object(body: Mapping[str, Any], field: str) -> JsonObject | None:
    """A field that holds an object, or null, if it is there."""
    value = body.get(field)
    if value is not None and not isinstance(value, dict):
        raise RefusedError(CrmInvalidInputError, f"{field}: not an object")
    return value


def contact_attributes(attributes: Mapping[str, Any]) -> JsonObject:
    """A contact's attributes: single values by name, ``phone`` as E.164 and ``name`` as text."""
    for name, value in attributes.items():
        if isinstance(value, dict):
            raise RefusedError(
                CrmInvalidInputError, f"{name}: an object; an update has the attributes at the top level"
            )
    if not _is_text_or_null(attributes.get("name")):
        raise RefusedError(CrmInvalidInputError, "name: not a text")
    phone = attributes.get("phone")
    if phone is not None and not (isinstance(phone, str) and _E164.fullmatch(phone)):
        raise RefusedError(CrmInvalidInputError, "phone: not E.164, for example +5531999999999")
    return dict(attributes)


def deal_attributes(attributes: Mapping[str, Any]) -> JsonObject:
    """A deal's attributes: ``pb_name`` and ``pb_amount`` as text, ``pb_closingDate`` as date and time."""
    for name in ("pb_name", "pb_amount"):
        if not _is_text_or_null(attributes.get(name)):
            raise RefusedError(CrmInvalidInputError, f"{name}: not a text")
    closing = attributes.get("pb_closingDate")
    if closing is not None and not _is_moment(closing):
        raise RefusedError(CrmInvalidInputError, "pb_closingDate: not a date and time in ISO 8601")
    return dict(attributes)


def page_number(query: Mapping[str, str]) -> int:
    """The parameter ``page``: 0 or more, 0 if absent."""
    page = query.get("page", "0")
    if not re.fullmatch("[0-9]{1,9}", page):
        raise RefusedError(CrmInvalidInputError, "page: not a number from 0")
    return int(page)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_moment(value: object) -> bool:
    if not isinstance(value, str) or "T" not in value:
        return False
    try:  # Python 3.10 knows neither Z nor a fraction of other than 3 or 6 digits
        datetime.fromisoformat(re.sub(r"\.[0-9]+", "", value).replace("Z", "+00:00"))
    except ValueError:
        return False
    return True


def _uuid(value: object, field: str) -> str:
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError as error:
            raise RefusedError(CrmInvalidInputError, f"{field}: not a uuid") from error
    raise RefusedError(CrmInvalidInputError, f"{field}: missing or not a uuid")
