"""Writes records to a file without loss: JSON lines, CSV or Parquet.

The same records give the same bytes, ``.gz`` included. Tables hold text: a mapping in a record becomes columns with
dotted names (``attributes.name``), a list or anything deeper becomes JSON text, and a number keeps its digits. A
missing value is null in Parquet and empty in CSV. Parquet can have types instead, which are inferred from the records.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Literal, cast, get_args

from crm_provider.files.typed_parquet import parquet_rows, text_fields, typed_rows
from crm_provider.values.json_types import TEXT, ColumnType, ObservedRecords, ObservedType
from crm_provider.values.json_values import json_text
from crm_provider.values.suggest import check_choice

Format = Literal["jsonl", "csv", "parquet"]
IfChanged = Literal["warn", "fail", "restart"]
ColumnTypes = Literal["text", "inferred"]
Since = Literal["last"]

SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
"""Format by suffix."""


def format_of(name: str, wanted: Format | None = None) -> tuple[Format, bool]:
    """The format of a file, and whether it is compressed with gzip.

    :param wanted: the format, regardless of the name
    :raises ValueError: if neither gives a format
    """
    if wanted is not None:
        check_choice("format", wanted, get_args(Format))
    zipped = name.lower().endswith(".gz")
    found = wanted or known_format(name)
    if found is None:
        raise ValueError(
            f"the name {name!r} does not show its format; end it with one of {', '.join(SUFFIXES)} (the first three "
            f"also with .gz), or give format="
        )
    if found == "parquet" and zipped:
        raise ValueError(f"{name!r}: a Parquet file is compressed within; leave out the .gz")
    return found, zipped


def known_format(name: str) -> Format | None:
    """The format that a name implies; None if it implies none."""
    stem = name.lower().removesuffix(".gz")
    return next((known for suffix, known in SUFFIXES.items() if stem.endswith(suffix)), None)


def check_column_types(value: object, kind: Format | None) -> None:
    """Refuse a value that is not one of :data:`ColumnTypes`, or types in a format that has none.

    :param kind: the format, None if it is not known yet
    :raises ValueError: naming the choices
    """
    check_choice("column_types", value, get_args(ColumnTypes))
    if value == "inferred" and kind not in (None, "parquet"):
        raise ValueError(f"column_types='inferred' is for Parquet files, but the format is {kind}")


def inferred_types(records: Iterable[Record], fields: Sequence[str] | None) -> dict[str, ColumnType]:
    """Name and type of each column of a table of these records.

    :param fields: the columns, by dotted names; by default all, mappings as structs
    """
    if fields is None:
        observed = ObservedRecords()
        for record in records:
            observed.note(record)
        found = observed.final()
        names = [name for name in FIRST if name in found] + sorted(found.keys() - set(FIRST))
        return {name: found[name] for name in names} or {"id": TEXT}
    columns = {name: ObservedType(exact="." in name) for name in fields}
    for record in records:
        for name, column in columns.items():
            column.note(field_value(record, name))
    return {name: column.final() for name, column in columns.items()}


def check_if_changed(value: object) -> None:
    """Refuse a value that is not an :data:`IfChanged`.

    :raises ValueError: naming the choices
    """
    check_choice("if_changed", value, get_args(IfChanged))


def check_changes_since(since: object, state_path: object, fields: object = None) -> None:
    """Check the arguments that ask for changes.

    :raises ValueError: if ``since`` is unknown, if it lacks a state file, or if the fields lack the id
    """
    if since not in (None, "last"):
        raise ValueError(f"changes_since is {since!r}; use 'last', or leave it out to get all records")
    if since is None and state_path is not None:
        raise ValueError("state_path is only for changes_since='last'; leave it out, or add changes_since")
    if since is not None and state_path is None:
        raise ValueError("changes_since='last' needs a state_path, where the run remembers the records that it read")
    if since is not None and isinstance(fields, (list, tuple)) and "id" not in fields:
        raise ValueError("fields must contain 'id' with changes_since: a removed record has nothing else")


Record = Mapping[str, Any]

FIRST = ("id", "email")
"""The first columns of a table; the others follow by name, so that their order is independent of the records."""

CHANGE = "crm_change"
"""The field of a record with the kind of its change: ``created``, ``updated`` or ``deleted``."""


def cell_text(value: Any) -> str | None:
    """A value as the text of a table; lists and mappings as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json_text(value)


def field_value(record: Record, name: str) -> Any:
    """A field by its dotted name (``attributes.name``), or None. It also finds names that contain dots."""
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    inner = record.get(head)
    return field_value(inner, rest) if dot and isinstance(inner, Mapping) else None


def flatten(record: Record) -> dict[str, Any]:
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
        """Add the columns of one record."""
        for name, value in flatten(record).items():
            self._filled[name] = self._filled.get(name, False) or value is not None

    def names(self) -> list[str]:
        """All columns, without an empty ``origin`` if ``origin.url`` exists."""
        parents = self._parents()
        kept = {name for name, filled in self._filled.items() if filled or name not in parents}
        return [name for name in FIRST if name in kept] + sorted(kept - set(FIRST))

    def has(self, field: str) -> bool:
        """Whether a record has a field, by its dotted name, or may have it: below a value, only one level is known."""
        return any(
            name == field
            or name.startswith(f"{field}.")
            or (field.startswith(f"{name}.") and name not in self._parents())
            for name in self._filled
        )

    def _parents(self) -> set[str]:
        return {name.partition(".")[0] for name in self._filled if "." in name}


def checked_fields(fields: Sequence[str] | None) -> tuple[str, ...] | None:
    """A projection as given by a user.

    :raises ValueError: if it is empty, not a list of names, or names a field twice
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


Add = Callable[[Record], None]
"""Writes one record."""

RISKY = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
"""Characters that a spreadsheet may interpret as the start of a formula."""

_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


@contextmanager
def record_writer(
    file: IO[bytes],
    kind: Format,
    *,
    columns: Sequence[str],
    projected: bool = False,
    formula_guard: bool = False,
    types: Mapping[str, ColumnType] | None = None,
) -> Iterator[Add]:
    """Write records to an open file, which is complete when the block ends.

    :param columns: of a table
    :param projected: JSON lines, too, have only these columns; otherwise they hold whole records
    :param formula_guard: CSV: an apostrophe before text that a spreadsheet could take for a formula
    :param types: Parquet: name and type of each column, in place of ``columns`` of text
    """
    if kind == "parquet":
        with _parquet_writer(file, columns, types) as add:
            yield add
        return
    text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
    try:
        if kind == "csv":
            yield _csv_writer(text, columns, guard=formula_guard)
        else:
            yield _json_writer(text, columns if projected else None)
    finally:
        text.detach()  # flushes; the caller closes the file


@contextmanager
def gzipped(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """A compressed file, without a name or a time in it."""
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        yield cast("IO[bytes]", packed)


def _json_writer(text: io.TextIOWrapper, columns: Sequence[str] | None) -> Add:
    def add(record: Record) -> None:
        shown = record if columns is None else {name: field_value(record, name) for name in columns}
        text.write(f"{json_text(shown)}\n")

    return add


def _csv_writer(text: io.TextIOWrapper, columns: Sequence[str], *, guard: bool) -> Add:
    shown = escape_formula if guard else _plain
    # lines end with CR LF, as in RFC 4180, or a lone CR in a value would not be quoted
    rows = csv.writer(_WithNuls(text))
    rows.writerow([_without_nul(shown(name)) for name in columns])

    def add(record: Record) -> None:
        rows.writerow([_without_nul(shown(cell_text(field_value(record, name)))) for name in columns])

    return add


NUL_MARK = "\udcfe"
"""Replaces NUL for the csv module, which rejects NUL in Python 3.10. No text decodes to it."""


class _WithNuls:
    """Restores the NULs."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, line: str, /) -> int:
        return self._text.write(line.replace(NUL_MARK, "\0"))


def _without_nul(value: str) -> str:
    return value.replace(NUL_MARK, "?").replace("\0", NUL_MARK) if "\0" in value or NUL_MARK in value else value


def _plain(value: str | None) -> str:
    return "" if value is None else value


def escape_formula(value: str | None) -> str:
    """Text that no spreadsheet interprets as a formula. Numbers with a sign, and so phone numbers, are unchanged."""
    if not value or value[0] not in RISKY or _NUMBER.fullmatch(value):
        return value or ""
    return f"'{value}"


@contextmanager
def _parquet_writer(file: IO[bytes], columns: Sequence[str], types: Mapping[str, ColumnType] | None) -> Iterator[Add]:
    if types is not None:
        with typed_rows(file, types) as add_row:
            yield lambda record: add_row([field_value(record, name) for name in types])
        return
    with parquet_rows(file, text_fields(columns)) as add_row:
        yield lambda record: add_row([_encodable(cell_text(field_value(record, name))) for name in columns])


def _encodable(value: str | None) -> str | None:
    return value if value is None else value.encode("utf-8", "replace").decode("utf-8")
