"""The columns of a database table for the records of a listing: their names, their types, and values that fit them.

The CRM declares no types. So a column's type comes from the user, from an existing table, or from the values of the
listing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Literal

from crm_provider.extract.writers import FIRST, Record, cell_text, flatten
from crm_provider.values.json_types import is_64_bit, json_kind, moment_of
from crm_provider.values.json_values import json_text

ColumnKind = Literal["text", "integer", "number", "boolean", "timestamp", "date", "json"]
"""The kind of values in a column."""

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\( *\d+ *(, *\d+ *)?\))?[A-Za-z ]*(\[\])?", re.ASCII)

NAMES: Mapping[str, ColumnKind] = {
    "timestamp": "timestamp", "datetime": "timestamp", "date": "date", "bool": "boolean", "tinyint(1)": "boolean",
    "json": "json", "numeric": "number", "decimal": "number", "real": "number", "double": "number", "float": "number",
    "int": "integer",
}  # fmt: skip
"""Part of a type's name -> kind of the column; the first match counts, and any other type holds text."""


def kind_of_type(declared: str) -> ColumnKind:
    """The kind of a column with a declared type."""
    name = declared.lower()
    if name.endswith("[]") or name.startswith(("interval", "point")):
        return "text"
    return next((kind for part, kind in NAMES.items() if part in name), "text")


def moment(value: Any) -> datetime | None:
    """A point in time in UTC; None unless the value is text in ISO 8601 with a zone."""
    found = moment_of(value) if isinstance(value, str) else None
    try:
        return None if found is None else found.astimezone(timezone.utc)
    except OverflowError:
        return None


_KINDS: Mapping[str | None, ColumnKind] = {"boolean": "boolean", "number": "number", "list": "json", "struct": "json"}


def kind_of(value: Any) -> ColumnKind:
    """The kind that a column needs for a value."""
    found = json_kind(value)
    if found == "integer":
        return "integer" if is_64_bit(value) else "number"
    if found == "text" and moment(value) is not None:
        return "timestamp"
    return _KINDS.get(found, "text")


class ColumnKinds:
    """The kinds that the columns need for all records of a listing."""

    def __init__(self) -> None:
        self._kinds: dict[str, ColumnKind | None] = {}

    def note(self, record: Record) -> None:
        """Take in one record."""
        for name, value in flatten(record).items():
            before = self._kinds.setdefault(name)
            if value is not None:
                self._kinds[name] = _wider(before, kind_of(value))

    def kinds(self) -> dict[str, ColumnKind]:
        """Field -> kind: ``id`` and ``email``, then the others by name. The fields of a mapping replace it."""
        parents = {name.partition(".")[0] for name in self._kinds if "." in name}
        found = {name: kind or "text" for name, kind in self._kinds.items() if kind or name not in parents}
        order = [*(name for name in FIRST if name in found), *sorted(set(found) - set(FIRST))]
        return {name: found[name] for name in order}


def _wider(one: ColumnKind | None, other: ColumnKind) -> ColumnKind:
    if one in (None, other):
        return other
    return "number" if {one, other} == {"integer", "number"} else "text"


@dataclass(frozen=True, kw_only=True)
class SqlColumn:
    """A column of a table.

    :param field: of the record, by its dotted name
    :param name: of the column
    :param kind: its kind, if ``declared`` does not give it
    :param declared: its type in the database's words; None: chosen by the kind
    """

    field: str
    name: str
    kind: ColumnKind = "text"
    declared: str | None = None


ColumnChoice = Mapping[str, "str | Mapping[str, str]"] | Sequence[str]
"""Fields as columns: their names, or field -> type, or field -> ``{"column": ..., "type": ...}``."""


def chosen_columns(given: Any) -> list[SqlColumn] | None:
    """The columns that a user has chosen; None for all.

    :raises ValueError: if a field, a name or a type is not valid
    """
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)) or not given:
        raise ValueError("columns must be a list of fields, or a mapping of fields to types, and not empty")
    pairs = given.items() if isinstance(given, Mapping) else [(name, {}) for name in given]
    found = [_chosen(name, choice) for name, choice in pairs]
    check_names(found)
    return found


def _chosen(field: Any, choice: Any) -> SqlColumn:
    if not isinstance(field, str) or not field.strip():
        raise ValueError("columns must name fields, such as 'attributes.name'")
    if isinstance(choice, str):
        choice = {"type": choice}
    if not isinstance(choice, Mapping) or set(choice) - {"type", "column"}:
        raise ValueError(f"columns[{field!r}] must be a type, or a mapping with 'type' and 'column'")
    declared, name = choice.get("type"), choice.get("column", column_name(field))
    if declared is not None and (not isinstance(declared, str) or not _TYPE.fullmatch(declared.strip())):
        raise ValueError(f"columns[{field!r}] has no valid type; write one such as 'varchar(100)' or 'timestamp'")
    if not isinstance(name, str):
        raise ValueError(f"columns[{field!r}] has a column name that is not text")
    kind = "text" if declared is None else kind_of_type(declared)
    return SqlColumn(field=field, name=name, kind=kind, declared=declared and declared.strip())


def column_name(field: str) -> str:
    """The name of a field's column: ``attributes.name`` is in ``attributes_name``."""
    return field.replace(".", "_")


NAME_LIMIT = 63
"""Bytes of a name: PostgreSQL cuts off the rest, MariaDB refuses a longer one."""


def check_names(columns: Iterable[SqlColumn]) -> None:
    """Refuse names that no database accepts, and names that some databases treat as equal.

    :raises ValueError: naming the fields
    """
    found = list(columns)
    for column in found:
        if not column.name.strip() or "\0" in column.name or len(column.name.encode(errors="replace")) > NAME_LIMIT:
            raise ValueError(
                f"the field {column.field[:100]!r} cannot have a column of its name: a name has 1 to {NAME_LIMIT} "
                "bytes; name its column with columns="
            )
    count = Counter(column.name.casefold() for column in found)
    same = [column.field for column in found if count[column.name.casefold()] > 1]
    if same:
        raise ValueError(
            f"the fields {', '.join(map(repr, same[:4]))} would have the same column; name their columns with columns="
        )


def fitted(value: Any, kind: ColumnKind) -> Any:
    """A value for a database's driver. A value that does not fit the column is unchanged: the database refuses it.

    :return: None, text, a number, a boolean or a point in time
    """
    if value is None:
        return None
    if kind in ("json", "text") or isinstance(value, (Mapping, list)):
        return _plain(json_text(value) if kind == "json" else cell_text(value) or "")
    if kind == "timestamp":
        return moment(value) or value
    if kind == "date":
        return value[:10] if moment(value) else value
    return _as_number(value) if kind in ("integer", "number") else value


def _as_number(value: Any) -> Any:
    if isinstance(value, float):
        return Decimal(repr(value))
    return int(value) if isinstance(value, bool) else value


def _plain(text: str) -> str:
    """Text without lone surrogates, which no database accepts."""
    return text.encode(errors="replace").decode()
