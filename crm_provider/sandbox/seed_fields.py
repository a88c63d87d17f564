"""The fields of a seed document: what is there, of the right kind, and names something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crm_provider.sandbox.choices import not_one_of
from crm_provider.sandbox.records import JsonObject


class SeedError(ValueError):
    """A seed that cannot be used; the message names the place in it."""


def required_text(record: Mapping[str, Any], field: str, place: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise SeedError(f"{place}.{field} must be a text")
    return value


def own_id(record: Mapping[str, Any], place: str) -> str | None:
    return text(record, "id", place)


def text(record: Mapping[str, Any], field: str, place: str) -> str | None:
    value = record.get(field)
    if value is not None and not isinstance(value, str):
        raise SeedError(f"{place}.{field} must be a text if it is there")
    return value


def mapping(record: Mapping[str, Any], field: str, place: str) -> JsonObject | None:
    value = record.get(field)
    if value is not None and not isinstance(value, Mapping):
        raise SeedError(f"{place}.{field} must be an object if it is there")
    return None if value is None else dict(value)


def several(record: Mapping[str, Any], field: str, place: str) -> Sequence[Any]:
    value = record.get(field, ())
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise SeedError(f"{place} must be a list")
    return value


def resolved(ids_by_name: Mapping[str, str], named: object, place: str) -> str:
    """The id that a document means by a name or an id."""
    word = str(named)
    if word in ids_by_name.values():
        return word
    if word not in ids_by_name:
        raise SeedError(not_one_of(place, named, ids_by_name))
    return ids_by_name[word]
