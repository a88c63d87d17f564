"""Column types inferred from values, and tables with these types, which return the same values."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.files import typed_parquet
from crm_provider.files.typed_parquet import MARK, typed_rows, unmarked
from crm_provider.values.json_types import JSON, TEXT, ColumnType, ObservedRecords, ObservedType, moment_of, number_of

from .load.table_values import JSON_VALUES, exact

BOOLEAN, INTEGER, NUMBER, TIMESTAMP = map(ColumnType, ("boolean", "integer", "number", "timestamp"))
Z = "2026-01-31T12:00:00Z"


def list_of(item: ColumnType) -> ColumnType:
    return ColumnType("list", item=item)


def struct(**fields: ColumnType) -> ColumnType:
    return ColumnType("struct", fields=tuple(fields.items()))


TYPES: dict[str, tuple[list[Any], ColumnType]] = {
    "nothing": ([], TEXT),
    "only null": ([None], TEXT),
    "text": (["a", None, ""], TEXT),
    "booleans": ([True, None], BOOLEAN),
    "a boolean is not a number": ([True, 1], JSON),
    "whole numbers": ([1, -(2**63), 2**63 - 1], INTEGER),
    "too large for 64 bits": ([2**63], JSON),
    "fractions": ([Decimal("0.10"), Decimal(-3)], NUMBER),
    "floats": ([0.5], NUMBER),
    "not a number": ([float("nan")], JSON),
    "whole and fractions": ([2**53, Decimal("0.5")], NUMBER),
    "a whole number that no float has": ([2**53 + 1, Decimal("0.5")], JSON),
    "digits that no float has": ([Decimal("0.12345678901234567890")], JSON),
    "a number beyond all floats": ([Decimal("1e400")], JSON),
    "a number and text": ([1, "1"], JSON),
    "moments": ([Z, "2026-01-31T12:00:00.123Z", None], TIMESTAMP),
    "moments in another form than a load writes": ([Z, "2026-01-31T12:00:00.000Z"], TEXT),
    "moments of another zone": (["2026-01-31T12:00:00+01:00"], TEXT),
    "a moment and text": ([Z, "soon"], TEXT),
    "a date": (["2026-01-31"], TEXT),
    "lone surrogate": (["\ud800"], JSON),
    "lists": ([["a"], [], None, [None]], list_of(TEXT)),
    "empty lists": ([[]], list_of(TEXT)),
    "lists of numbers": ([[1], [2]], list_of(INTEGER)),
    "lists of all kinds": ([[1], ["a"]], JSON),
    "structs": ([{"a": 1, "b": None}, {"b": "x", "a": 2}], struct(a=INTEGER, b=TEXT)),
    "structs with other fields": ([{"a": 1}, {"a": 1, "b": 2}], JSON),
    "structs with fields of all kinds": ([{"a": 1}, {"a": "x"}], JSON),
    "an empty struct": ([{}], JSON),
    "a struct with a field that has no name": ([{"\ud800": 1}], JSON),
    "lists of structs": ([[{"a": 1}], [{"a": 2}]], list_of(struct(a=INTEGER))),
    "a value that JSON does not know": ([{1}], JSON),
}


@pytest.mark.parametrize("name", TYPES)
def test_type_of_values(name: str) -> None:
    values, wanted = TYPES[name]
    observed = ObservedType()
    for value in values:
        observed.note(value)
    assert observed.final() == wanted
    assert observed.is_known is any(value is not None for value in values)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-12-22T18:11:43.719Z", datetime(2025, 12, 22, 18, 11, 43, 719_000, timezone.utc)),
        ("2025-12-22T18:11:43.7Z", datetime(2025, 12, 22, 18, 11, 43, 700_000, timezone.utc)),
        ("2025-12-22T18:11:43-03:00", datetime(2025, 12, 22, 18, 11, 43, 0, timezone(timedelta(hours=-3)))),
        ("2025-02-30T18:11:43Z", None),
        ("2025-12-22T18:11:43", None),
        ("2025-12-22T18:11:43.1234567Z", None),
    ],
)
def test_moments(text: str, moment: datetime | None) -> None:
    assert moment_of(text) == moment


def test_columns_of_records() -> None:
    observed = ObservedRecords()
    records: list[dict[str, Any]] = [
        {"id": "1", "createdAt": "2025-12-22T18:11:43.000Z", "attributes": {"b": 1}, "odd": {"a": 1}, "origin": None},
        {"id": "2", "createdAt": None, "attributes": {"a": "x", "b": "y"}, "odd": "text", "empty": {}},
        {"id": "3", "createdAt": "0001-01-01T00:00:00+10:00", "attributes": {}, "origin": {"url": "u"}},
        {"id": "4", "nameless": {"\ud800": 1}},
    ]
    for record in records[:2]:
        observed.note(record)
    assert observed.final()["createdAt"] == TIMESTAMP, "of a record, not of its attributes, so it is not loaded back"
    for record in records[2:]:
        observed.note(record)
    assert observed.final() == {
        "id": TEXT,
        "createdAt": TEXT,  # one is before the year 1 in UTC
        "attributes": struct(a=TEXT, b=JSON),
        "odd": JSON,
        "origin": struct(url=TEXT),
        "nameless": JSON,
    }


# -- tables -------------------------------------------------------------------------------------------------


def read_back(file: io.BytesIO) -> list[dict[str, Any]]:
    table = pyarrow.parquet.read_table(file)
    decode = unmarked(table.schema) or (lambda row: row)
    return [decode(row) for row in table.to_pylist()]


@given(records=st.lists(st.dictionaries(st.sampled_from("abc"), JSON_VALUES, max_size=3), min_size=1, max_size=4))
def test_table_returns_the_same_values(records: list[dict[str, Any]]) -> None:
    records = [{"id": "1", **record} for record in records]
    observed = ObservedRecords()
    for record in records:
        observed.note(record)
    columns = observed.final()
    file = io.BytesIO()
    with typed_rows(file, columns) as add:
        for record in records:
            add([record.get(name) for name in columns])
    for record, found in zip(records, read_back(file), strict=True):
        for name in columns:
            assert without_nulls(exact(found[name])) == without_nulls(record.get(name))


def without_nulls(value: Any) -> Any:
    """A missing field of a record's mapping is null. An empty mapping has only nulls."""
    return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("text", "number"), [("0.10", 0.1), ("1e3", 1000.0), ("0.1234567890123456789", Decimal("0.1234567890123456789"))]
)
def test_number_without_an_exact_float_stays_exact(text: str, number: float | Decimal) -> None:
    found = number_of(text)
    assert (found, type(found)) == (number, type(number))


def test_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed_parquet, "ROWS_AT_ONCE", 2)
    file = io.BytesIO()
    with typed_rows(file, {"n": INTEGER}) as add:
        for n in range(5):
            add([n])
    found = pyarrow.parquet.ParquetFile(file)
    assert [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)] == [2, 2, 1]
    assert [row["n"] for row in read_back(file)] == [0, 1, 2, 3, 4]


def test_table_without_rows_has_its_columns() -> None:
    file = io.BytesIO()
    with typed_rows(file, {"a": TIMESTAMP, "b": JSON}):
        pass
    schema = pyarrow.parquet.read_schema(file)
    assert [(field.name, str(field.type)) for field in schema] == [("a", "timestamp[us, tz=UTC]"), ("b", "string")]


def test_non_json_text_marked_as_json() -> None:
    schema = pyarrow.schema([pyarrow.field("a", pyarrow.string(), metadata=MARK)])
    decode = unmarked(schema)
    assert decode is not None
    assert [decode({"a": text}) for text in ("[1]", "no json", None)] == [{"a": [1]}, {"a": "no json"}, {"a": None}]
