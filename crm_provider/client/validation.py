"""Checks of single values before anything is sent. An error names the field, the problem and the fix, not the value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from crm_provider.errors import CrmInvalidValueError
from crm_provider.values.addresses import NotOneAddress, one_address
from crm_provider.values.counted import counted
from crm_provider.values.json_values import ConversionError, json_safe, plain

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NATIVE = "give the output of a task (XComArg), or set render_template_as_native_obj=True for the DAG"

RESERVED_ATTRIBUTES = frozenset({"email", "attributes", "origin"})
"""Names of other fields in the body of a contact. An attribute of the same name would overwrite the field."""

RESERVED_DEAL_ATTRIBUTES = frozenset({"attributes", "contactId", "pipelineId", "stageId"})
"""Reserved names in the body of a deal."""


def email(value: Any, field: str = "email") -> str:
    """The one email address in a value, in the case given: it is not known whether the CRM ignores case.

    Text around the address is removed, see :func:`~crm_provider.values.addresses.one_address`.

    :raises CrmInvalidValueError: if it is not text, or not exactly one address
    """
    if not isinstance(value, str):
        raise CrmInvalidValueError(f"{field} must be text but is {_kind(value)}; give one email address")
    try:
        return one_address(value)
    except NotOneAddress as wrong:
        raise CrmInvalidValueError(f"{field} {wrong}") from None


def uuid(value: Any, field: str) -> str:
    """An id of the CRM, given as text or as ``uuid.UUID``.

    :raises CrmInvalidValueError: if it is not a UUID
    """
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, str) and _UUID.fullmatch(value):
        return value
    if value in (None, "None"):
        found = "None" if value is None else "the text 'None'"
        raise CrmInvalidValueError(
            f"{field} is {found}, not a UUID: the task or template that it is "
            "from gave no value. Use the result of a task that has one, or copy the id from the CRM (like "
            "123e4567-e89b-12d3-a456-426614174000)"
        )
    shown = f"text of {counted(len(value), 'character')}" if isinstance(value, str) else _kind(value)
    raise CrmInvalidValueError(
        f"{field} is {shown}, not a UUID; copy the id from the CRM (like 123e4567-e89b-12d3-a456-426614174000)"
    )


def several(value: Any) -> tuple[Any, ...]:
    """One value or several as a tuple; the values are not checked."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)


def uuids(values: Any, field: str) -> list[str]:
    """One id or several, without repetitions, in the order given.

    :raises CrmInvalidValueError: if there is none or one is not a UUID
    """
    refuse_list_as_text(values, field)
    found = list(dict.fromkeys(uuid(value, f"{field}[{n}]") for n, value in enumerate(several(values))))
    if not found:
        raise CrmInvalidValueError(f"{field} is empty; give at least one id")
    return found


def attributes(
    values: Any, field: str = "attributes", *, reserved: frozenset[str] = RESERVED_ATTRIBUTES
) -> dict[str, Any]:
    """Attributes in the API's form: names to JSON values.

    :raises CrmInvalidValueError: if there is none, a name is empty or reserved, or a value has no JSON form
    """
    if not isinstance(values, Mapping):
        if isinstance(values, str) and values.lstrip().startswith("{"):
            raise CrmInvalidValueError(f"{field} must be a mapping of name to value but is the text of one; {_NATIVE}")
        raise CrmInvalidValueError(
            f"{field} must be a mapping of name to value but is {_kind(values)}; give it as {{'name': value}}"
        )
    if not values:
        raise CrmInvalidValueError(f"{field} is empty; give at least one, or leave the argument out")
    for name in values:
        if not isinstance(name, str) or not name.strip():
            raise CrmInvalidValueError(f"{field} has a name that is empty or not text; use the CRM's name of the field")
        if "{{" in name or "{%" in name:
            raise CrmInvalidValueError(f"{field} has a template as a name; Airflow renders values only; give the name")
        if name in reserved:
            raise CrmInvalidValueError(f"{field}[{name!r}] is not an attribute; use the argument of that name")
    return {name: json_value(value, f"{field}[{name!r}]") for name, value in values.items()}


FLOAT_AS_TEXT = re.compile(r"\+?(?:\d+(?:[.,]\d+)?[eE]\+?\d+|\d{5,}[.,]0{1,2})", re.ASCII)
"""A long number as spreadsheets (``5.51E+12``) and pandas (``5511999998888.0``) write it, also after a ``+``."""


def phone_is_text(attributes: Any) -> None:
    """Refuse a number for the attribute ``phone``: a number has no ``+`` and no leading zeros.

    :raises CrmInvalidValueError: if it is a number, or the text that a program has made of a float
    """
    phone = attributes.get("phone") if isinstance(attributes, Mapping) else None
    if isinstance(plain(phone), (int, float, Decimal)):
        raise CrmInvalidValueError(
            f"attributes['phone'] must be text with a + (E.164) but is {_kind(phone)}, which has no +; give text, "
            "in a template too: '+{{ ... }}'"
        )
    if isinstance(phone, str) and FLOAT_AS_TEXT.fullmatch(phone.strip()):
        kind, fix = float_as_text(phone)
        raise CrmInvalidValueError(f"attributes['phone'] is {kind}; {fix}")


def float_as_text(written: str) -> tuple[str, str]:
    """What has happened to a phone number that matches :data:`FLOAT_AS_TEXT`, and what to do about it."""
    if {"e", "E"} & set(written):
        return "a phone number that a spreadsheet has shortened", "format its column as text, and fill it in again"
    return "a phone number in the form of a float", "write its column as text in the source"


def json_value(value: Any, field: str) -> Any:
    """A value in its JSON form, see :func:`~crm_provider.values.json_values.json_safe`.

    :raises CrmInvalidValueError: naming the place and the type
    """
    try:
        return json_safe(value)
    except ConversionError as wrong:
        raise CrmInvalidValueError(f"{f'{field}{wrong.where}'[:200]} is {wrong}") from None


def text(value: Any, field: str) -> str:
    """A text. A whole number is converted to its digits, because a natively rendered template makes numbers of digits.

    :raises CrmInvalidValueError: if it is something else, or empty
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(json_value(value, field))
    if not isinstance(value, str):
        raise CrmInvalidValueError(f"{field} must be text but is {_kind(value)}; give one text")
    if not value.strip():
        raise CrmInvalidValueError(f"{field} is empty; give a text")
    return value


def boolean(value: Any, field: str) -> bool:
    """A switch that is not rendered from a template. Any text would count as true, also ``"false"``.

    :raises CrmInvalidValueError: if it is neither True nor False
    """
    if not isinstance(value, bool):
        raise CrmInvalidValueError(not_boolean(value, field))
    return value


def not_boolean(value: Any, field: str) -> str:
    """What is wrong with a value that is neither True nor False."""
    return f"{field} must be True or False but is {_kind(value)}{_not_rendered(value)}"


def count(value: Any, field: str, *, least: int = 1, most: int | None = None) -> int:
    """A whole number that is not rendered from a template.

    :param least: the smallest valid number
    :param most: the largest valid number; None: no limit
    :raises CrmInvalidValueError: if it is not a whole number, or not between them
    """
    if wrong := not_count(value, field, least=least, most=most):
        raise CrmInvalidValueError(wrong)
    return int(value)


def not_count(value: Any, field: str, *, least: int = 1, most: int | None = None) -> str:
    """What is wrong with a value that is not such a whole number; empty if it is one."""
    wanted = f"at least {least}" if most is None else f"{least} to {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{field} must be a whole number, {wanted}, but is {_kind(value)}{_not_rendered(value)}"
    return "" if least <= value and (most is None or value <= most) else f"{field} is {value}; give {wanted}"


def _not_rendered(value: Any) -> str:
    if hasattr(value, "resolve"):  # as Airflow's references to the results of other tasks have it
        return "; the result of another task cannot be given here"
    is_template = isinstance(value, str) and ("{{" in value or "{%" in value)
    return "; templates are not rendered here" if is_template else ""


def refuse_list_as_text(value: Any, field: str) -> None:
    """Refuse the text of a list, which a template renders unless it renders natively.

    :raises CrmInvalidValueError: if it is the text of a list
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        raise CrmInvalidValueError(f"{field} is the text of a list; {_NATIVE}")


def path_part(value: Any, field: str) -> str:
    """Text that can be one part of a path after percent-encoding.

    :raises CrmInvalidValueError: if it is empty, ``.`` or ``..``, or has control characters
    """
    if not isinstance(value, str) or not value.strip() or value in (".", ".."):
        raise CrmInvalidValueError(f"{field} must be text, not empty and not '.' or '..'; give the id")
    if any(not c.isprintable() for c in value):
        raise CrmInvalidValueError(f"{field} has a control character; remove it")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    kind = type(value)
    return f"of type {'numpy.' if kind.__module__ == 'numpy' else ''}{kind.__name__}"
