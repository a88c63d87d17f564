"""Columns of a row that are paths into nested values: ``properties.email``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from crm_provider.load.source_options import HeaderLine


def has_column(columns: Collection[str], name: str | None) -> bool:
    """Whether rows with these columns may have a value of a name, which may be a path into a nested one."""
    if name is None or name in columns:
        return name is not None
    parts = name.split(".")
    return any(".".join(parts[:n]) in columns for n in range(1, len(parts))) and not isinstance(columns, HeaderLine)


def value_at(row: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of a column; if there is none, that at a path into nested ones: ``properties.email``."""
    if name in row:
        return row[name]
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        inner = row.get(".".join(parts[:n]))
        if isinstance(inner, Mapping):
            found = value_at(inner, ".".join(parts[n:]), default)
            if found is not default:
                return found
    return default
