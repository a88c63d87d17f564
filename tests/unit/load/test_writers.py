"""Records as columns, as text, and in files, which other libraries read back without loss."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.extract.writers import (
    Columns,
    cell_text,
    checked_fields,
    escape_formula,
    field_value,
    flatten,
    format_of,
    gzipped,
    record_writer,
)
from crm_provider.files import typed_parquet
from crm_provider.values.json_values import json_text, json_value

RECORDS: list[dict[str, Any]] = [
    {"id": "1", "n": Decimal("1.10"), "attributes": {"name": 'A "quoted", name\nof two lines'}, "lists": ["x"]},
    {"id": "2", "attributes": {"name": None}, "flag": True},
]
COLUMNS = ["id", "attributes.name", "flag", "lists", "n"]
TABLE = [
    {"id": "1", "attributes.name": 'A "quoted", name\nof two lines', "flag": None, "lists": '["x"]', "n": "1.10"},
    {"id": "2", "attributes.name": None, "flag": "true", "lists": None, "n": None},
]


def written(kind: Any, records: list[dict[str, Any]] = RECORDS, columns: list[str] = COLUMNS, **options: Any) -> bytes:
    file = io.BytesIO()
    with record_writer(file, kind, columns=columns, **options) as add:
        for record in records:
            add(record)
    return file.getvalue()


def test_json_lines() -> None:
    lines = written("jsonl").decode().splitlines()
    assert [json.loads(line, parse_float=Decimal) for line in lines] == RECORDS
    lines = written("jsonl", columns=["attributes.name", "flag"], projected=True).decode().splitlines()
    assert json.loads(lines[1]) == {"attributes.name": None, "flag": True}


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv").decode(), newline="")))
    assert rows == [{name: value or "" for name, value in row.items()} for row in TABLE]


def test_parquet() -> None:
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(written("parquet")))
    assert table.to_pylist() == TABLE
    assert {str(field.type) for field in table.schema} == {"string"}


def test_parquet_writes_row_groups_incrementally(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    monkeypatch.setattr(typed_parquet, "ROWS_AT_ONCE", 3)
    file = parquet.ParquetFile(io.BytesIO(written("parquet", [{"id": str(n)} for n in range(7)], ["id"])))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [3, 3, 1]
    assert file.read().column("id").to_pylist() == [str(n) for n in range(7)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_empty_file_can_be_read(kind: str) -> None:
    from pyarrow import parquet

    content = written(kind, [], ["id"])
    if kind == "parquet":
        assert parquet.read_table(io.BytesIO(content)).num_rows == 0
    else:
        assert content == {"jsonl": b"", "csv": b"id\r\n"}[kind]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_lone_surrogate_does_not_end_an_extract(kind: str) -> None:
    assert written(kind, [{"id": "a\ud83db"}], ["id"])


def test_gzip_is_reproducible_and_reveals_nothing() -> None:
    def packed() -> bytes:
        file = io.BytesIO()
        with gzipped(file) as inner, record_writer(inner, "csv", columns=COLUMNS) as add:
            add(RECORDS[0])
        return file.getvalue()

    assert packed() == packed()
    assert packed()[3:8] == b"\0\0\0\0\0"  # no name, no time
    assert gzip.decompress(packed()) == written("csv", RECORDS[:1])


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("a.jsonl", None, ("jsonl", False)),
        ("a.ndjson.gz", None, ("jsonl", True)),
        ("A.CSV", None, ("csv", False)),
        ("a.csv.gz", None, ("csv", True)),
        ("a.parquet", None, ("parquet", False)),
        ("a", "csv", ("csv", False)),
        ("a.txt.gz", "jsonl", ("jsonl", True)),
        ("a.csv", "parquet", ("parquet", False)),
    ],
)
def test_format_of_a_path(name: str, wanted: Any, expected: tuple[str, bool]) -> None:
    assert format_of(name, wanted) == expected


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("a.txt", None, "does not show its format.*jsonl.*give format="),
        ("a.gz", None, "does not show its format"),
        ("a.parquet.gz", None, "compressed within"),
        ("a.csv", "xlsx", "known: jsonl, csv, parquet"),
    ],
)
def test_unknown_format_is_refused(name: str, wanted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        format_of(name, wanted)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\uff1d1", "'\uff1d1"),
        ("+5531999999999", "+5531999999999"),
        ("-1200.50", "-1200.50"),
        ("a=b", "a=b"),
        ("", ""),
        (None, ""),
    ],
)
def test_escape_formula(value: str | None, shown: str) -> None:
    assert escape_formula(value) == shown


def test_formula_guard_is_an_option_and_covers_column_names() -> None:
    record = {"id": "1", "attributes": {"=x": "=1+1"}}
    assert written("csv", [record], ["id", "attributes.=x"]) == b"id,attributes.=x\r\n1,=1+1\r\n"
    assert written("csv", [{"=x": "=1"}], ["=x"], formula_guard=True) == b"'=x\r\n'=1\r\n"


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), min_size=1))
def test_csv_holds_any_text(texts: list[str]) -> None:
    content = written("csv", [{"a": text, "b": "x"} for text in texts], ["a", "b"]).decode("utf-8")
    assert [row[0] for row in csv.reader(io.StringIO(content, newline=""))][1:] == texts


def test_nul_and_lone_surrogate_in_csv() -> None:
    """The csv module of Python 3.10 does not accept NUL."""
    file = io.BytesIO()
    with record_writer(file, "csv", columns=["a\0", "b"]) as add:
        add({"a\0": "x\0y", "b": "\udcfe\0,"})
    assert file.getvalue() == b'a\0,b\r\nx\0y,"?\0,"\r\n'


# -- records as columns and as text -------------------------------------------------------------------------------

RECORD = {
    "id": "c-1",
    "attributes": {"name": "Ada", "a.b": "dotted", "deep": {"x": 1}},
    "segmentedListsIds": ["l-1"],
    "origin": None,
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=JSON, ascii_only=st.booleans())
def test_json_survives_a_round_trip(value: Any, ascii_only: bool) -> None:
    text = json_text(value, ascii_only=ascii_only)
    assert "\n" not in text
    assert text.encode("ascii" if ascii_only else "utf-8")
    back = json_value(text)
    assert normal(back) == normal(value)


def normal(value: Any) -> Any:
    """JSON with numbers as written; a Decimal without a fraction is read as an integer."""
    if isinstance(value, (Decimal, int)) and not isinstance(value, bool):
        return Decimal(str(value))
    if isinstance(value, list):
        return [normal(item) for item in value]
    return {k: normal(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("digits", ["1200.50", "0.10", "1E+5", "12345678901234567890.123456789", "-0.0", "1e400"])
def test_number_keeps_its_digits(digits: str) -> None:
    text = json_text(json_value(f'{{"n": [{digits}]}}'))
    assert json_value(text)["n"][0] == Decimal(digits)
    assert text.lower().replace("e+", "e") == f'{{"n": [{digits.lower().replace("e+", "e")}]}}'


def test_lone_surrogate_is_escaped() -> None:
    assert json.loads(json_text({"name": "\ud83d é"}).encode("utf-8")) == {"name": "\ud83d é"}
    assert json_text("é") == '"é"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", ""),
        ("x", "x"),
        (True, "true"),
        (7, "7"),
        (Decimal("1.10"), "1.10"),
        (["a", 1], '["a", 1]'),
        ({"a": Decimal("0.10")}, '{"a": 0.10}'),
        ([], "[]"),
    ],
)
def test_cell_text(value: Any, text: str | None) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "c-1"),
        ("attributes.name", "Ada"),
        ("attributes.a.b", "dotted"),
        ("attributes.deep.x", 1),
        ("attributes.deep", {"x": 1}),
        ("attributes.none", None),
        ("origin.url", None),
        ("id.x", None),
        ("none", None),
    ],
)
def test_field_value(name: str, value: Any) -> None:
    assert field_value(RECORD, name) == value


def test_an_attribute_without_a_name_keeps_its_value() -> None:
    record = {"attributes": {"": 1}}
    assert flatten(record) == {"attributes.": 1}
    assert field_value(record, "attributes.") == 1
    assert field_value({"attributes_name": "Ada"}, "attributes_name.") is None


def test_flatten() -> None:
    assert flatten(RECORD) == {
        "id": "c-1",
        "attributes.name": "Ada",
        "attributes.a.b": "dotted",
        "attributes.deep": {"x": 1},
        "segmentedListsIds": ["l-1"],
        "origin": None,
    }


def columns(*records: dict[str, Any]) -> list[str]:
    made = Columns()
    for record in records:
        made.note(record)
    return made.names()


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        ([{"z": 1, "email": "e", "id": "i", "a": 1}], ["id", "email", "a", "z"]),
        ([{"a": 1}, {"b": None}], ["a", "b"]),
        ([{"origin": None}, {"origin": {"url": "u"}}], ["origin.url"]),
        ([{"origin": "text"}, {"origin": {"url": "u"}}], ["origin", "origin.url"]),
        ([{"origin": None}], ["origin"]),
        ([{"attributes": {}}], []),
    ],
    ids=["none", "order", "empty column", "null and mapping", "text and mapping", "only null", "empty mapping"],
)
def test_columns(records: list[dict[str, Any]], expected: list[str]) -> None:
    assert columns(*records) == columns(*reversed(records)) == expected


@given(records=st.lists(st.dictionaries(st.sampled_from("abc"), st.none() | st.integers() | st.dictionaries(
    st.sampled_from("xy"), st.none() | st.integers(), max_size=2), max_size=3), max_size=5))  # fmt: skip
def test_columns_hold_every_value(records: list[dict[str, Any]]) -> None:
    names = columns(*records)
    for record in records:
        assert {n for n, value in flatten(record).items() if value is not None} <= set(names)
        assert all(field_value(record, name) == value for name, value in flatten(record).items())


@pytest.mark.parametrize("fields", ["email", [], [""], [1], ["id", "id"]], ids=str)
def test_invalid_projection_is_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"fields"):
        checked_fields(fields)


def test_projection_of_records() -> None:
    assert checked_fields(None) is None
    assert checked_fields(["email", "attributes.name"]) == ("email", "attributes.name")
