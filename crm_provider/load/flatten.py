"""Records as columns and as text, without loss: what a table or a line of JSON holds of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

Record = Mapping[str, Any]

FIRST = ("id", "email")
"""Columns that lead a table; the others follow by name, so that the order does not hang on that of the records."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """A JSON value in one line; ``Decimal`` keeps its digits.

    :param ascii_only: escape everything else; without it only halves of characters, which no encoding has
    """
    try:
        text = json.dumps(value, ensure_ascii=ascii_only)
    except TypeError:  # a Decimal is in it
        text = _exact_text(value, ascii_only=ascii_only)
    return text if ascii_only or not _SURROGATE.search(text) else json_text(value, ascii_only=True)


def _exact_text(value: Any, *, ascii_only: bool) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        pairs = (
            f"{json.dumps(k, ensure_ascii=ascii_only)}: {_exact_text(v, ascii_only=ascii_only)}"
            for k, v in value.items()
        )
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_exact_text(item, ascii_only=ascii_only) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def json_value(text: str | bytes) -> Any:
    """What :func:`json_text` wrote.

    :raises ValueError: if it is no JSON
    """
    return json.loads(text, parse_float=Decimal)


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
