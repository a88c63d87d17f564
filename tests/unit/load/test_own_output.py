"""An extract is a source: it loads back into the same contacts, without a mapping."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crm_provider.extract.writers import Columns, Format, record_writer
from crm_provider.load.mapping.columns import is_error_value
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.preflight import check
from crm_provider.load.rows import Contact, InvalidRow, Row
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.temp_tables import RowStatus

FORMATS: tuple[Format, ...] = get_args(Format)


def record(email: str, attributes: Any, origin: Any = None) -> dict[str, Any]:
    """A contact as the CRM lists it."""
    return {
        "id": "3f2b1c9e-0000-4000-8000-000000000001", "email": email, "status": "active", "source": "PublicApi",
        "origin": origin, "segmentedListsIds": ["3f2b1c9e-0000-4000-8000-000000000002"],
        "createdAt": "2025-12-22T18:11:43.719Z", "attributes": attributes,
    }  # fmt: skip


def extracted(path: Path, form: Format, records: list[dict[str, Any]], fields: list[str] | None = None) -> Path:
    columns = Columns()
    for one in records:
        columns.note(one)
    with (
        path.open("wb") as file,
        record_writer(file, form, columns=fields or columns.names(), projected=fields is not None) as add,
    ):
        for one in records:
            add(one)
    return path


def loaded(path: Path) -> list[Contact]:
    mapper = Mapper()
    found = check(open_source(path), mapper, ContactOptions(duplicates="first"))
    assert found.problem_lines() == []
    contacts = [
        item.record for item in found.staged.rows() if item.record is not None and item.status is RowStatus.SEND
    ]
    found.staged.close()
    return contacts


LONG = "x" * 140_000

RECORDS = [
    record("a@ex.co", {"name": "Ana", "crm.tier": "gold", "note": 'a, "b"\r\nc\n\nd\te'}, {"url": "https://x.io/"}),
    record("b@ex.co", {"name": None, "note": LONG, "nul": "a\0b\0\0c"}),
    record("c@ex.co", {"note": "line\n" * 30_000 + "end", "name": " spaces "}, {"utmSource": "web"}),
    record("d@ex.co", {}),
    record("e@ex.co", None),
    record("f@ex.co", {f"field {n}": LONG for n in range(14)}),
]

CONTACTS = [
    Contact("a@ex.co", {"name": "Ana", "crm.tier": "gold", "note": 'a, "b"\r\nc\n\nd\te'}, {"url": "https://x.io/"}),
    Contact("b@ex.co", {"note": LONG, "nul": "a\0b\0\0c"}),
    Contact("c@ex.co", {"note": "line\n" * 30_000 + "end", "name": "spaces"}, {"utmSource": "web"}),
    Contact("d@ex.co", {}),
    Contact("e@ex.co", {}),
    Contact("f@ex.co", {f"field {n}": LONG for n in range(14)}),
]


@pytest.mark.parametrize("form", FORMATS)
def test_extract_loads_back_into_the_same_contacts(
    form: Format, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "crm_provider.load.mapping.mapper")
    assert loaded(extracted(tmp_path / f"contacts.{form}", form, RECORDS)) == CONTACTS
    (line,) = [text for text in caplog.messages if text.startswith("Without a mapping")]
    for name in ("id", "status", "source", "segmentedListsIds", "createdAt"):
        assert repr(name) in line
    assert "read-only in the CRM" in line
    assert "name'" not in line


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("fields", "attributes"),
    [(["email", "attributes.name"], {"name": "Ana"}), (["id", "email", "segmentedListsIds"], {})],
)
def test_extract_of_some_fields_loads_back(
    form: Format, fields: list[str], attributes: dict[str, Any], tmp_path: Path
) -> None:
    assert loaded(extracted(tmp_path / f"contacts.{form}", form, RECORDS[:1], fields)) == [
        Contact("a@ex.co", attributes)
    ]


@pytest.mark.parametrize("origin", [{}, {"origin": None}, {"origin": {}}, {"origin": {"url": "https://x.io/"}}])
def test_line_without_attributes_and_lists_is_recognised_as_extract(origin: dict[str, Any]) -> None:
    row = {"id": "7", "email": "a@ex.co", "status": "active", "createdAt": "2025-12-22T18:11:43.719Z"}
    contact = Mapper()(Row(1, {**row, **origin, "attributes": {}}))
    assert contact == Contact("a@ex.co", {}, origin.get("origin") or None)


def test_json_lines_keep_types(tmp_path: Path) -> None:
    attributes = {"score": 12345678901234567, "vip": True, "tags": ["a", "b"], "address": {"city": "BH"}}
    path = extracted(tmp_path / "contacts.jsonl", "jsonl", [record("a@ex.co", attributes)])
    assert loaded(path) == [Contact("a@ex.co", attributes)]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_hold_digits_and_json_as_text(form: Format, tmp_path: Path) -> None:
    attributes = {"score": 12345678901234567, "vip": True, "tags": ["a", "b"]}
    path = extracted(tmp_path / f"contacts.{form}", form, [record("a@ex.co", attributes)])
    assert loaded(path) == [Contact("a@ex.co", {"score": "12345678901234567", "vip": "true", "tags": '["a", "b"]'})]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"attributes": "name=Ana"}, "attributes: not a nested value; give the load a mapping"),
        ({"attributes": {"email": "x"}}, "attributes.email: no attribute can have the name of this column"),
        ({"attributes.origin": "x"}, "attributes.origin: no attribute can have the name of this column"),
    ],
)
def test_row_similar_to_an_extract_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRow, match=problem):
        Mapper()(Row(1, {"email": "a@ex.co", **values}))


def test_columns_of_other_tables_stay_attributes() -> None:
    row = {"email": "a@ex.co", "id": "7", "status": "new", "source": "fair"}
    assert Mapper()(Row(1, row)) == Contact("a@ex.co", {"id": "7", "status": "new", "source": "fair"})


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30).filter(
    lambda text: not is_error_value(text.strip())
)
NAMES = st.text("abc .é", min_size=1, max_size=5).filter(lambda name: name.strip() == name)


@given(attributes=st.lists(st.dictionaries(NAMES, TEXTS, max_size=4), min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_text_survives_extract_and_load(attributes: list[dict[str, str]], tmp_path: Path) -> None:
    records = [record(f"{n}@ex.co", texts) for n, texts in enumerate(attributes)]
    expected = [
        Contact(f"{n}@ex.co", {name: text.strip() for name, text in texts.items() if text.strip()})
        for n, texts in enumerate(attributes)
    ]
    for form in FORMATS:
        path = extracted(tmp_path / f"contacts.{form}", form, records)
        assert loaded(path) == expected, json.dumps(records)
