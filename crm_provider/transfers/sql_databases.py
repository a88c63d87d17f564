"""What differs between databases when a table is created and filled: types, quotes, catalogues, updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crm_provider.extract.columns import ColumnKind

Types = Mapping[ColumnKind, str]


@dataclass(frozen=True, kw_only=True)
class Database:
    """What differs between databases.

    :param types: column types for a created table; empty if the user must choose them
    :param key_type: type of the id, because text of any length may not be indexable
    :param word_format: quotes a name
    :param placeholder: placeholder of a parameter; None: the hook's
    :param columns_sql: query for the names and types of a table's columns, for its schema (or None) and its name
    :param update_sql: updates the target from the staging table
    :param fold: maps names of the same column to equal keys
    """

    types: Types
    key_type: str = ""
    word_format: str = '"{}"'
    placeholder: str | None = None
    columns_sql: str | None = None
    update_sql: str | None = None
    fold: Callable[[str], str] = str.casefold


def _ascii_lower(name: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


_UPDATE_FROM = "UPDATE {target} AS t SET {pairs} FROM {staging} AS s WHERE t.{key} = s.{key}{only}"

POSTGRES = Database(
    types={
        "text": "TEXT", "integer": "BIGINT", "number": "NUMERIC", "boolean": "BOOLEAN", "timestamp": "TIMESTAMPTZ",
        "date": "DATE", "json": "JSONB",
    },
    key_type="TEXT",
    columns_sql="SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = "
    "to_regclass(CASE WHEN %s::text IS NULL THEN '' ELSE quote_ident(%s) || '.' END || quote_ident(%s)) "
    "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    update_sql=_UPDATE_FROM,
    fold=str,
)  # fmt: skip
MYSQL = Database(
    types={
        "text": "LONGTEXT", "integer": "BIGINT", "number": "DECIMAL(65,10)", "boolean": "BOOLEAN",
        "timestamp": "DATETIME(6)", "date": "DATE", "json": "JSON",
    },
    key_type="VARCHAR(191)",
    word_format="`{}`",
    columns_sql="SELECT column_name, column_type FROM information_schema.columns WHERE "
    "(%s IS NULL AND table_schema = DATABASE() OR table_schema = %s) AND table_name = %s ORDER BY ordinal_position",
    update_sql="UPDATE {target} AS t JOIN {staging} AS s ON t.{key} = s.{key}{only} SET {qualified}",
)  # fmt: skip
SQLITE = Database(
    types={
        "text": "TEXT", "integer": "INTEGER", "number": "TEXT", "boolean": "BOOLEAN", "timestamp": "TIMESTAMP",
        "date": "DATE", "json": "TEXT",
    },
    key_type="TEXT",
    placeholder="?",
    columns_sql="SELECT name, type FROM pragma_table_info(?3, COALESCE(?1, ?2, 'main'))",
    update_sql=_UPDATE_FROM,
    fold=_ascii_lower,
)  # fmt: skip
OTHER = Database(types={"timestamp": "TIMESTAMP"})

DATABASES: Mapping[str, Database] = {
    "psycopg2": POSTGRES, "psycopg": POSTGRES, "sqlite3": SQLITE,
    "MySQLdb": MYSQL, "pymysql": MYSQL, "mysql": MYSQL,
}  # fmt: skip
"""By the driver of a connection."""


# -- values and errors ----------------------------------------------------------------------------------------


def for_sqlite(value: Any) -> Any:
    """A value for SQLite's driver; numbers keep their digits as text."""
    if isinstance(value, (bool, int, str, bytes, type(None))):
        return int(value) if isinstance(value, bool) else value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def without(row: Sequence[Any], n: int) -> tuple[Any, ...]:
    """A row with null in one place."""
    return (*row[:n], None, *row[n + 1 :])


def as_text(value: Any) -> str:
    """A text of a catalogue, which some drivers return as bytes."""
    return value.decode() if isinstance(value, (bytes, bytearray)) else str(value)


def is_about_values(error: BaseException) -> bool:
    """Whether a driver's error is about values, and may show them."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"DataError", "IntegrityError"})


def error_name(error: BaseException) -> str:
    """The class of an error, with the state or number that the database gave, because its text may show values."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    return " ".join(str(part) for part in (type(error).__name__, state or number) if part)
