"""Records as columns and as text, without loss: what a table or a line of JSON holds of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crm_provider.values.json_values import json_text

Record = Mapping[str, Any]

FIRST = ("id", "email")
"""Columns that lead a table; the others follow by name, so that the order does not hang on that of the records."""


def cell(value: Any) -> str | None:
    """A value as the text of a table; lists and mappings as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json_text(value)


def pick(record: Record, name: str) -> Any:
    """A field by its dotted name, ``attributes.name``; None if there is none. A name that has dots itself is found."""
    if name in record:
        return record[name]
    head, _, rest = name.partition(".")
    inner = record.get(head)
    return pick(inner, rest) if rest and isinstance(inner, Mapping) else None


def flat(record: Record) -> dict[str, Any]:
    """A record as columns: mappings one level deep become columns with dotted names."""
    columns: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            columns.update({f"{name}.{inner}": item for inner, item in value.items()})
        else:
            columns[name] = value
    return columns


class Columns:
    """The columns that a table of some records needs."""

    def __init__(self) -> None:
        self._filled: dict[str, bool] = {}

    def note(self, record: Record) -> None:
        """Take in what one record needs."""
        for name, value in flat(record).items():
            self._filled[name] = self._filled.get(name, False) or value is not None

    def names(self) -> list[str]:
        """All columns; not the empty ``origin`` where there is an ``origin.url``."""
        parents = {name.partition(".")[0] for name in self._filled if "." in name}
        kept = {name for name, filled in self._filled.items() if filled or name not in parents}
        return [name for name in FIRST if name in kept] + sorted(kept - set(FIRST))


def checked_fields(fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """A projection as given by a user.

    :raises ValueError: if it is empty, no list of names, or names a field twice
    """
    if fields is None:
        return None
    given: Sequence[object] = [] if isinstance(fields, str) else fields
    if not given or not all(isinstance(name, str) and name.strip() for name in given):
        raise ValueError("fields must be a list of names, such as ['id', 'email', 'attributes.name']")
    twice = sorted({name for name in fields if list(fields).count(name) > 1})
    if twice:
        raise ValueError(f"fields names {', '.join(map(repr, twice))} twice; name each field once")
    return tuple(fields)
