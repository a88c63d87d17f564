"""The simplest description of a correct load: what each row asks for, and its possible results.

This module does not know the engine. Its rules are those of the documentation, and leave open what that leaves open.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .fake_crm import key_of
from .scenario import LoadSpec

LEFT_OUT = object()


@dataclass(frozen=True)
class Wanted:
    """The request of a row.

    :param email: the address as sent
    :param status: ``send``, ``invalid``, ``suppressed``, ``duplicate`` or ``ambiguous``
    """

    number: int
    key: str
    email: str
    attributes: Mapping[str, Any]
    status: str


def wanted_of(rows: Mapping[int, Mapping[str, Any]], spec: LoadSpec) -> dict[int, Wanted]:
    """The request of each row, by its number."""
    keys = {number: _key(values.get("email")) for number, values in rows.items()}
    people = {_hash(entry) for entry in spec.suppression}
    suppressed = {number for number, key in keys.items() if key and _hash(key) in people}
    by_key: dict[str, list[int]] = {}
    for number, key in keys.items():
        if key and number not in suppressed:
            by_key.setdefault(key, []).append(number)
    found = {}
    for number, values in rows.items():
        key = keys[number]
        if not key:
            status = "invalid"
        elif number in suppressed:
            status = "suppressed"
        else:
            status = _of_several(number, by_key[key], spec.duplicates)
        found[number] = Wanted(number, key, _spelled(values.get("email")), _attributes(values, spec.empty), status)
    return found


def _of_several(number: int, numbers: list[int], duplicates: str) -> str:
    if len(numbers) == 1:
        return "send"
    if duplicates == "reject":
        return "ambiguous"
    return "send" if number == (max(numbers) if duplicates == "last" else min(numbers)) else "duplicate"


def _key(email: Any) -> str:
    """The contact of a row, "" if it has none."""
    if not isinstance(email, str) or not re.fullmatch(r"[^\s@]+@[^\s@]+", email.strip()):
        return ""
    return key_of(email)


def _spelled(email: Any) -> str:
    """The address as sent, in its own case."""
    return unicodedata.normalize("NFC", email.strip()) if isinstance(email, str) else ""


def _hash(entry: str) -> str:
    return entry if re.fullmatch("[0-9a-f]{64}", entry) else hashlib.sha256(key_of(entry).encode()).hexdigest()


def _attributes(values: Mapping[str, Any], empty: str) -> dict[str, Any]:
    found = {name: _cell(value, empty) for name, value in values.items() if name != "email"}
    return {name: value for name, value in found.items() if value is not LEFT_OUT}


def _cell(value: Any, empty: str) -> Any:
    if value is None or (isinstance(value, str) and not value.strip()):
        return {"skip": LEFT_OUT, "clear": "", "null": None, "keep": value}[empty]
    return value.strip() if isinstance(value, str) else value


def same(found: Any, wanted: Any) -> bool:
    """Whether a value of the CRM equals the wanted one. A number equals its text; a boolean equals nothing else."""
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(_exactly, found, wanted))
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, (str, int, float)) and isinstance(wanted, (str, int, float)):
        return found == wanted or str(found) == str(wanted)
    return _exactly(found, wanted)


def _exactly(found: Any, wanted: Any) -> bool:
    if isinstance(found, bool) is not isinstance(wanted, bool):
        return False
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_exactly, found, wanted))
    return bool(found == wanted)


def has_values(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a contact shows all the values."""
    return all(name in found and same(found[name], value) for name, value in wanted.items())
