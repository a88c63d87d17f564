"""Malformed rejected rows are rejected again until someone corrects them, each with its location."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.preflight import check
from crm_provider.load.rejects.file import RejectedRows, RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.rows import InvalidRow
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.temp_tables import RowStatus

DATA = Path(__file__).parent / "data"

MAPPINGS = [None, {"email": "email", "city": "city", "name": "name"}]


def load(source: Any, rejects: Path, mapping: Any = None) -> list[tuple[str, dict[str, Any]]]:
    """Write rows that a load never sends to the rejects file, as the load does.

    :return: the contacts that it would send
    """
    mapper, sent = Mapper(mapping), []
    found = check(source, mapper, ContactOptions())
    file = RejectsFile.of(rejects, source)
    file.start()
    for item in found.staged.rows():
        if item.status is RowStatus.SEND:
            contact = mapper(item.row)
            sent.append((contact.email, dict(contact.attributes)))
            continue
        with pytest.raises(InvalidRow) as invalid:
            mapper(item.row)
        file.write(Reject(item.row.number, item.row.values, "INVALID_VALUE", str(invalid.value), retryable=False))
    found.staged.close()
    file.finish()
    return sent


def messages(path: Path) -> list[str]:
    if path.suffix == ".csv":
        return [row["_message"] for row in csv.DictReader(io.StringIO(path.read_text(), newline=""))]
    return [json.loads(line)["message"] for line in path.read_text().splitlines()]


CAIO = ("c@ex.co", {"name": "Caio", "city": "SP"})


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_uncorrected_rows_are_rejected_every_time(suffix: str, mapping: Any, tmp_path: Path) -> None:
    path = DATA / "ragged.csv"
    first = tmp_path / f"first.{suffix}"
    assert load(open_source(path), first, mapping) == [CAIO]
    assert messages(first) == [
        f"{path}, line 2 (row 1): cannot be read; has 4 fields, the header has 3",
        f"{path}, line 3 (row 2): cannot be read; has 2 fields, the header has 3",
    ]
    second, third = tmp_path / f"second.{suffix}", tmp_path / f"third.{suffix}"
    assert load(RejectedRows(first), second, mapping) == []
    line = 2 if suffix == "csv" else 1
    again = "the row does not have the form of its source, as when it was rejected"
    extra = "put its values into the columns and remove __extra__ (in CSV: empty _cells)"
    assert messages(second) == [
        f"{first}, line {line} (row 1): cannot be read; {again}; {extra}",
        f"{first}, line {line + 1} (row 2): cannot be read; {again}; correct its values",
    ]
    assert load(RejectedRows(second), third, mapping) == []
    assert len(messages(third)) == 2


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_corrected_json_rows_are_loaded(mapping: Any, tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl"
    load(open_source(DATA / "ragged.csv"), first, mapping)
    a, b = [json.loads(line) for line in first.read_text().splitlines()]
    a["values"] = {"email": "a@ex.co", "name": "Silva, Ana", "city": "BH"}
    b["values"]["city"] = "RJ"
    first.write_text(f"{json.dumps(a)}\n{json.dumps(b)}\n", encoding="utf-8")
    assert load(RejectedRows(first), tmp_path / "second.jsonl", mapping) == [
        ("a@ex.co", {"name": "Silva, Ana", "city": "BH"}), ("b@ex.co", {"name": "Bia", "city": "RJ"}),
    ]  # fmt: skip


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_corrected_csv_rows_are_loaded(mapping: Any, tmp_path: Path) -> None:
    first = tmp_path / "first.csv"
    load(open_source(DATA / "ragged.csv"), first, mapping)
    header, a, b = csv.reader(io.StringIO(first.read_text(), newline=""))
    column = {name: position for position, name in enumerate(header)}
    a[column["name"]], a[column["city"]], a[column["_cells"]] = "Silva, Ana", "BH", ""
    b[column["city"]] = "RJ"  # in a spreadsheet; the content of _cells stays
    with first.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, a, b])
    assert load(RejectedRows(first), tmp_path / "second.jsonl", mapping) == [
        ("a@ex.co", {"name": "Silva, Ana", "city": "BH"}), ("b@ex.co", {"name": "Bia", "city": "RJ"}),
    ]  # fmt: skip


def test_remaining_extra_fields_are_not_a_correction(tmp_path: Path) -> None:
    first = tmp_path / "first.jsonl"
    load(open_source(DATA / "ragged.csv"), first)
    a = json.loads(first.read_text().splitlines()[0])
    a["values"]["name"] = "Silva, Ana"
    first.write_text(f"{json.dumps(a)}\n", encoding="utf-8")
    assert load(RejectedRows(first), tmp_path / "second.jsonl") == []


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_other_unreadable_rows(suffix: str, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"email": "a@ex.co", "n": 1.50}\n{"email": "b@ex.co"\n[1e30, 0.10]\n', encoding="utf-8")
    for source, sent in (
        (open_source(lines), [("a@ex.co", {"n": "1.50"})]),
        (open_source([{"email": "b@ex.co", 1: 0.1}, ["x", 1e22], {"email": "a@ex.co"}]), [("a@ex.co", {})]),
    ):
        assert load(source, tmp_path / f"first.{suffix}") == sent
        rejected = RejectedRows(tmp_path / f"first.{suffix}")
        assert load(rejected, tmp_path / f"second.{suffix}") == []
        assert len(messages(tmp_path / f"second.{suffix}")) == 2


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_reject_names_file_line_and_row(suffix: str, tmp_path: Path) -> None:
    for name, text in (("1.csv", "email,age\na@ex.co,1\n"), ("2.csv", "email,age\nb@ex.co,2\n\nc@ex.co,secret\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    mapping = {"email": "email", "age": {"column": "age", "type": "integer"}}
    rejects = tmp_path / f"r.{suffix}"
    load(open_source(tmp_path / "[12].csv"), rejects, mapping)
    (message,) = messages(rejects)
    assert message.startswith(f"{tmp_path}/2.csv, line 4 (row 2): age: not a number;")
    load(RejectedRows(rejects), tmp_path / f"again.{suffix}", mapping)
    (message,) = messages(tmp_path / f"again.{suffix}")
    assert message.startswith(f"{rejects}, line {2 if suffix == 'csv' else 1} (row 1): age: not a number;")
