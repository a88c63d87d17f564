"""Typed Parquet extracts: as other programs read them, and loaded back."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.extract.changes import ChangeTracker
from crm_provider.extract.extractor import Extractor
from crm_provider.extract.partial_pages import Owner
from crm_provider.extract.writers import CHANGE, check_column_types
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.rows import Row
from crm_provider.load.sources.source import open_source

from .table_values import JSON_VALUES
from .test_extract import FakeClient

RECORDS: list[dict[str, Any]] = [
    {
        "id": "1", "email": "a@ex.co", "createdAt": "2025-12-22T18:11:43.719Z", "segmentedListsIds": ["x", "y"],
        "attributes": {"score": 7, "amount": Decimal("0.50"), "mixed": 1, "tags": ["a"], "due": "2026-01-31T12:00:00Z"},
    },
    {
        "id": "2", "email": "b@ex.co", "createdAt": "2025-12-22T18:11:43.000Z", "segmentedListsIds": [],
        "attributes": {"score": None, "mixed": "1", "vip": True}, "origin": {"url": "u"},
    },
]  # fmt: skip


def extracted(path: Path, records: list[dict[str, Any]], **options: Any) -> Path:
    client: Any = FakeClient(records)
    Extractor(client, "contacts", path, column_types="inferred", **options).run()
    return path


def test_types_follow_the_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        path = extracted(tmp_path / "c.parquet", RECORDS)
    table = pyarrow.parquet.read_table(path)
    struct = (
        "struct<amount: double, due: timestamp[us, tz=UTC], mixed: string, score: int64, tags: list<element: string>"
    )
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("id", "string"),
        ("email", "string"),
        ("attributes", f"{struct}, vip: bool>"),
        ("createdAt", "timestamp[us, tz=UTC]"),
        ("origin", "struct<url: string>"),
        ("segmentedListsIds", "list<element: string>"),
    ]
    first, second = table.to_pylist()
    assert first["createdAt"] == datetime(2025, 12, 22, 18, 11, 43, 719_000, timezone.utc)
    assert first["attributes"] == {
        "score": 7, "amount": 0.5, "mixed": "1", "tags": ["a"], "vip": None,
        "due": datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc),
    }  # fmt: skip
    assert (second["attributes"]["mixed"], second["segmentedListsIds"]) == ('"1"', [])
    assert (
        "Types of the columns: id: text, email: text, attributes: struct (amount: number, due: timesta" in caplog.text
    )
    assert "segmentedListsIds: list of text" in caplog.text


def test_chosen_fields_are_separate_columns(tmp_path: Path) -> None:
    path = extracted(tmp_path / "c.parquet", RECORDS, fields=["attributes.score", "createdAt", "attributes.gone"])
    table = pyarrow.parquet.read_table(path)
    assert [str(kind) for kind in table.schema.types] == ["int64", "timestamp[us, tz=UTC]", "string"]
    assert table.column("attributes.score").to_pylist() == [7, None]


def test_changes_only_have_the_kind_of_change(tmp_path: Path) -> None:
    tracker = ChangeTracker(tmp_path / "seen", FakeClient([]).settings, "contacts", Owner())
    table = pyarrow.parquet.read_table(extracted(tmp_path / "c.parquet", RECORDS, tracker=tracker))
    assert (str(table.schema.field(CHANGE).type), table.column(CHANGE).to_pylist()) == ("string", ["created"] * 2)


def test_empty_listing_is_an_empty_table(tmp_path: Path) -> None:
    assert pyarrow.parquet.read_schema(extracted(tmp_path / "c.parquet", [])).names == ["id"]


def test_only_parquet_has_types(tmp_path: Path) -> None:
    with pytest.raises(
        e.CrmInvalidValueError, match="column_types='inferred' is for Parquet files, but the format is csv"
    ):
        extracted(tmp_path / "c.csv", RECORDS)
    with pytest.raises(ValueError, match="column_types='real' is unknown; known: text, inferred"):
        check_column_types("real", None)


@given(attributes=st.lists(st.dictionaries(st.sampled_from("abc"), JSON_VALUES, max_size=3), min_size=1, max_size=4))
def test_load_gives_the_same_contacts(attributes: list[dict[str, Any]], tmp_path_factory: Any) -> None:
    records = [
        {"id": str(n), "email": f"p{n}@ex.co", "segmentedListsIds": [], "attributes": each}
        for n, each in enumerate(attributes)
    ]
    path = extracted(tmp_path_factory.mktemp("x") / "c.parquet", records)
    mapper = Mapper(None)
    found = [mapper(row).attributes for row in open_source(path).rows()]
    assert found == [mapper(Row(n, as_floats(record))).attributes for n, record in enumerate(records, start=1)]


def as_floats(value: Any) -> Any:
    """Numbers as a table holds them: a float if it is exact, otherwise an integer if it is whole."""
    if isinstance(value, Decimal):
        if Decimal(repr(float(value))) == value:
            return float(value)
        return int(value) if value == value.to_integral_value() else value
    if isinstance(value, dict):
        return {name: as_floats(item) for name, item in value.items()}
    return [as_floats(item) for item in value] if isinstance(value, list) else value
