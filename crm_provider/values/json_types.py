"""Types for the JSON values of a column, so that a typed table returns the same values.

Values of several kinds, and those that no type of a table holds exactly, have the type ``json``: their JSON text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from crm_provider.values.json_values import ConversionError, utc_text

TypeName = Literal["boolean", "integer", "number", "text", "timestamp", "list", "struct", "json"]

MAX_EXACT_INTEGER = 2**53
"""Whole numbers up to this size are exact as a float of 64 bits."""


@dataclass(frozen=True)
class ColumnType:
    """The type of a column.

    :param item: type of the values of a list
    :param fields: name and type of the fields of a struct
    """

    name: TypeName
    item: ColumnType | None = None
    fields: tuple[tuple[str, ColumnType], ...] = ()

    def __str__(self) -> str:
        if self.item is not None:
            return f"list of {self.item}"
        return f"struct ({', '.join(f'{name}: {kind}' for name, kind in self.fields)})" if self.fields else self.name


TEXT, JSON = ColumnType("text"), ColumnType("json")

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")

_ODD = "odd"
"""The kind of a value that only its JSON text holds exactly."""


def moment_of(text: str) -> datetime | None:
    """The moment of a text in ISO 8601 with a zone; None for any other text.

    >>> moment_of("2024-01-31T12:00:00Z")
    datetime.datetime(2024, 1, 31, 12, 0, tzinfo=datetime.timezone.utc)
    """
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    fraction, zone = found[1] or "", found[2]
    try:  # Python 3.10 reads neither Z nor a fraction of two digits
        return datetime.fromisoformat(f"{text[:19]}.{fraction[1:]:0<6}{'+00:00' if zone == 'Z' else zone}")
    except ValueError:
        return None


class ObservedType:
    """Learns the type of a column from its values.

    :param exact: a text is a timestamp only if a load converts it back to the same text
    """

    def __init__(self, *, exact: bool = True) -> None:
        self._exact = exact
        self._kinds: set[Any] = set()
        self._are_moments = True
        self._has_wide = False
        self._item: ObservedType | None = None
        self._fields: dict[str, ObservedType] | None = None

    def note(self, value: Any) -> None:
        """Add one value; None has no effect."""
        if value is None:
            return
        kind = _kind_of(value)
        self._kinds.add(kind)
        if kind == "text":
            self._are_moments = self._are_moments and _is_moment(value, exact=self._exact)
        elif kind == "integer":
            self._has_wide |= abs(value) > MAX_EXACT_INTEGER
        elif kind == "list":
            self._item = self._item or ObservedType()
            for item in value:
                self._item.note(item)
        elif kind == "struct":
            self._note_fields(value)

    def _note_fields(self, value: Mapping[str, Any]) -> None:
        if self._fields is None:
            self._fields = {name: ObservedType() for name in value}
        # a table has no empty struct, and null for a missing field
        if not value or self._fields.keys() != value.keys() or not _are_names(value):
            self._kinds.add(_ODD)
            return
        for name, item in value.items():
            self._fields[name].note(item)

    @property
    def is_known(self) -> bool:
        """Whether there was a value."""
        return bool(self._kinds)

    def final(self) -> ColumnType:
        """The type of all values so far; text if there was none."""
        kinds = self._kinds
        if kinds == {"integer", "number"}:
            return JSON if self._has_wide else ColumnType("number")
        if len(kinds) > 1 or _ODD in kinds:
            return JSON
        if self._item is not None:
            item = self._item.final()
            return JSON if item == JSON else ColumnType("list", item=item)
        if self._fields is not None:
            fields = tuple((name, observed.final()) for name, observed in self._fields.items())
            return JSON if any(inner == JSON for _, inner in fields) else ColumnType("struct", fields=fields)
        if kinds == {"text"} and self._are_moments:
            return ColumnType("timestamp")
        return ColumnType(next(iter(kinds), "text"))


class ObservedRecords:
    """Learns the columns of a table of records.

    A mapping in a record is a struct whose fields may be missing: for a record's ``attributes`` null and missing are
    the same.
    """

    def __init__(self) -> None:
        self._plain: dict[str, ObservedType] = {}
        self._nested: dict[str, dict[str, ObservedType]] = {}

    def note(self, record: Mapping[str, Any]) -> None:
        """Add one record."""
        for name, value in record.items():
            if isinstance(value, Mapping) and _are_names(value):
                fields = self._nested.setdefault(name, {})
                for inner, item in value.items():
                    fields.setdefault(inner, ObservedType()).note(item)
            else:
                self._plain.setdefault(name, ObservedType(exact=False)).note(value)

    def final(self) -> dict[str, ColumnType]:
        """Name and type of each column. A mapping that was empty in all records has none."""
        found = {name: observed.final() for name, observed in self._plain.items() if name not in self._nested}
        for name, fields in self._nested.items():
            if name in self._plain and self._plain[name].is_known:
                found[name] = JSON
            elif fields:
                inner = tuple((field, fields[field].final()) for field in sorted(fields))
                found[name] = ColumnType("struct", fields=inner)
        return found


_TYPES: tuple[tuple[Any, TypeName], ...] = (
    (str, "text"), (bool, "boolean"), (int, "integer"), ((float, Decimal), "number"), (Mapping, "struct"),
    ((list, tuple), "list"),
)  # fmt: skip
"""In this order, because Python treats a boolean as a whole number."""


def json_kind(value: Any) -> TypeName | None:
    """The kind of a JSON value, even if no column holds it exactly; None for null and values outside JSON.

    >>> [json_kind(value) for value in (True, 1, 0.5, "x", [], {}, None)]
    ['boolean', 'integer', 'number', 'text', 'list', 'struct', None]
    """
    return next((name for types, name in _TYPES if isinstance(value, types)), None)


def is_64_bit(value: int) -> bool:
    """Whether a column of whole numbers holds this one."""
    return -(2**63) <= value < 2**63


def _kind_of(value: Any) -> str:
    kind = json_kind(value)
    return kind if kind is not None and _is_held(kind, value) else _ODD


def _is_held(kind: TypeName, value: Any) -> bool:
    """Whether a table holds a value exactly."""
    if kind == "text":
        return not any("\ud800" <= sign <= "\udfff" for sign in value)
    if kind == "integer":
        return is_64_bit(value)
    return kind != "number" or _is_float(value)


def _are_names(fields: Mapping[str, Any]) -> bool:
    """Whether columns can have these names."""
    return all(_kind_of(name) == "text" for name in fields)


def number_of(text: str) -> float | Decimal:
    """A number with a fraction as a float, or a ``Decimal`` if no float is that number.

    >>> number_of("0.10"), number_of("0.1234567890123456789")
    (0.1, Decimal('0.1234567890123456789'))
    """
    exact = Decimal(text)
    return float(exact) if _is_float(exact) else exact


def _is_float(value: float | Decimal) -> bool:
    """Whether a float of 64 bits is this number."""
    number = float(value)
    return math.isfinite(number) and (isinstance(value, float) or Decimal(repr(number)) == value)


def _is_moment(text: str, *, exact: bool) -> bool:
    moment = moment_of(text)
    if moment is None:
        return False
    try:
        return utc_text(moment) == text or not exact
    except ConversionError:
        return False
