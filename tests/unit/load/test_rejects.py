"""The rejects file: each rejected row once, unchanged, after any failure; and its use as a source."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import re
import stat
import uuid
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upath import UPath

from crm_provider.files.paths import CannotWrite, is_local
from crm_provider.files.row_lines import RowsLost
from crm_provider.load.rejects.file import NoRejects, RejectedRows, RejectsFile
from crm_provider.load.rejects.formats import Reject
from crm_provider.load.rows import EarlierCreation, SourceError
from crm_provider.load.sources.source import open_source

FORMATS = ["jsonl", "csv"]


@pytest.fixture(params=[("disk", "jsonl"), ("disk", "csv"), ("store", "jsonl"), ("store", "csv")], ids="-".join)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    place, suffix = request.param
    name = uuid.uuid4().hex
    return tmp_path / name / f"r.{suffix}" if place == "disk" else UPath(f"memory://rejects/{name}/r.{suffix}")


def reject(number: int, **values: Any) -> Reject:
    return Reject(
        number, values or {"email": f"{number}@b.com"}, "INVALID_INPUT", "Invalid JSON body.", "Correct it.",
        f"request-{number}", retryable=number % 2 == 0,
    )  # fmt: skip


def written(path: Any, *rejects: Reject, **options: Any) -> RejectsFile:
    file = RejectsFile(path, **options)
    file.start()
    for one in rejects:
        file.write(one)
    file.finish()
    return file


def values_of(path: Any, **options: Any) -> list[Any]:
    return [row.values for row in RejectedRows(path, **options).rows()]


def folder(path: Any) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.exists() else []


# -- contents -------------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    written(path, Reject(7, {"email": "ü", "n": 1}, "T", "M", "A", "id", retryable=True))
    assert path.read_text() == (
        '{"row": 7, "values": {"email": "ü", "n": 1}, "type": "T", "message": "M", "suggested_action": "A", '
        '"request_id": "id", "retryable": true}\n'
    )


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    written(path, Reject(7, {"email": "a@b.com", "phone": "+55"}, "T", "M", "A", None, retryable=True))
    assert list(csv.DictReader(io.StringIO(path.read_text()))) == [
        {
            "_row": "7", "email": "a@b.com", "phone": "'+55", "_type": "T", "_message": "M", "_suggested_action": "A",
            "_request_id": "", "_original_row": "", "_cells": "", "_retryable": "yes",
        }
    ]  # fmt: skip


@pytest.mark.parametrize("start", [*"=+-@\t\r\n", "\uff1d"])
def test_no_cell_is_a_formula(start: str, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    column = f"{start}column"
    written(path, Reject(1, {column: f"{start}1+1"}, f"{start}T", f"{start}M", f"{start}A", f"{start}id"))
    for cells in csv.reader(io.StringIO(path.read_bytes().decode(), newline="")):
        assert not any(cell.startswith(start) for cell in cells)
    assert values_of(path) == [{column: f"{start}1+1"}]


def test_values_without_a_json_form(path: Any) -> None:
    when = datetime.datetime(2025, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
    uid = uuid.UUID(int=1)
    values = {
        "money": Decimal("1.10"), "big": Decimal("12345678901234567890.123456789"), "none": None, "when": when,
        "day": when.date(), "time": when.time(), "raw": b"\xff", "id": uid, "nan": float("nan"), "many": {1},
        "inner": {"a": [Decimal("0.1"), (1, True)], 5: None}, "huge": 1 << 20_000, "dnan": Decimal("NaN"),
    }  # fmt: skip
    written(path, reject(1, **values))
    assert values_of(path) == [
        {
            "money": Decimal("1.10"), "big": Decimal("12345678901234567890.123456789"), "none": None,
            "when": "2025-01-02T03:04:05.000006+00:00", "day": "2025-01-02", "time": "03:04:05.000006", "raw": "/w==",
            "id": str(uid), "nan": "nan", "many": [1], "inner": {"a": [Decimal("0.1"), [1, True]], "5": None},
            "huge": hex(1 << 20_000), "dnan": "NaN",
        }
    ]  # fmt: skip
    assert str(values_of(path)[0]["money"]) == "1.10"


def test_endlessly_nested_row_does_not_end_the_load(path: Any) -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    written(path, reject(1, deep=deep))
    assert "nested too deeply" in str(values_of(path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ROWS = st.lists(st.dictionaries(st.text(), st.text() | VALUES, max_size=4), min_size=1, max_size=5)


@pytest.mark.parametrize("suffix", FORMATS)
@given(rows=ROWS, text=st.text())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_rejects_survive_a_round_trip(
    suffix: str, rows: list[dict[str, Any]], text: str, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("r") / f"r.{suffix}"
    written(path, *(Reject(n, values, text, text, text, text) for n, values in enumerate(rows, start=5)))
    source = RejectedRows(path)
    found = list(source.rows())
    assert [dict(row.values) for row in found] == rows
    assert [row.number for row in found] == list(range(1, len(rows) + 1))
    assert [source.original(row.number) for row in found] == list(range(5, 5 + len(rows)))


def test_csv_columns_are_those_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    rows = [{"b": "1"}, {"a": "2", "b": "3", "c": "4"}]
    written(path, *(reject(n, **row) for n, row in enumerate(rows, start=1)), columns=("a", "b"))
    source = RejectedRows(path)
    assert (source.header, source.columns) == (("a", "b"), None)
    assert [row.values for row in source.rows()] == rows


# -- start, kill, resume --------------------------------------------------------------------------------------


def test_no_file_without_rejects_and_a_stale_one_is_removed(path: Any) -> None:
    written(path, reject(1))
    assert folder(path) == [path.name]
    assert written(path).count == 0
    assert folder(path) == []


def test_rejects_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.csv"
    written(path, reject(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", ["id,email\n1,a@b.com\n", "{}", "x", '{"rows": 1}\n', b"\xff\xfe"])
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("way", ["start", "resume"])
def test_foreign_file_is_never_overwritten(content: str | bytes, suffix: str, way: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{suffix}"
    body = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(body)
    file = RejectsFile(path)
    with pytest.raises(SourceError, match="would be overwritten"):
        file.start() if way == "start" else file.resume(lambda n: True)
    assert path.read_bytes() == body


@given(
    rejected=st.lists(st.integers(1, 30), unique=True, max_size=12),
    saved=st.integers(0, 12),
    data=st.data(),
    suffix=st.sampled_from(FORMATS),
)
def test_kill_at_any_byte_and_resume(
    rejected: list[int], saved: int, data: st.DataObject, suffix: str, tmp_path_factory: Any
) -> None:
    """A checkpoint covers the first rows, synced before it was saved. A kill truncates the file anywhere after them."""
    path = tmp_path_factory.mktemp("r") / f"r.{suffix}"
    known = set(rejected[:saved])
    first = RejectsFile(path)
    first.start()
    synced = 0
    for n, number in enumerate(rejected, start=1):
        first.write(awkward(number))
        synced = path.stat().st_size if n == len(known) else synced
    first.sync()
    if rejected:
        body = path.read_bytes()
        path.write_bytes(body[: data.draw(st.integers(synced, len(body)))])
    second = RejectsFile(path)
    second.resume(known.__contains__)
    assert second.count == len(known)
    for number in rejected:
        if number not in known:
            second.write(awkward(number))
    second.finish()
    assert path.exists() == bool(rejected)
    if rejected:
        source = RejectedRows(path)
        found = [source.original(row.number) for row in source.rows()]
        assert sorted(found) == sorted(rejected)
        assert values_of(path) == [awkward(number).values for number in found]


def awkward(number: int) -> Reject:
    return reject(number, text=f'a "quoted"\n{{"row":,\r\n=ü{number}', empty=None)


def test_store_keeps_synced_rows(path: Any) -> None:
    first = RejectsFile(path)
    first.start()
    for number in (1, 2):
        first.write(reject(number))
        assert first.has_unsynced
        first.sync()
        assert not first.has_unsynced
    second = RejectsFile(path)
    second.resume(lambda number: number <= 2)
    assert (second.count, second.is_local) == (2, is_local(path))
    second.write(reject(3))
    second.finish()
    source = RejectedRows(path)
    assert [source.original(row.number) for row in source.rows()] == [1, 2, 3]
    assert folder(path) == [path.name]


# -- reading rejects ------------------------------------------------------------------------------------------


def test_retryable_only_reads_transient_errors(path: Any) -> None:
    written(path, *map(reject, range(1, 6)))
    source = RejectedRows(path, retryable_only=True)
    assert [(row.number, row.values) for row in source.rows()] == [(1, {"email": "2@b.com"}), (2, {"email": "4@b.com"})]
    assert [source.original(n) for n in (1, 2)] == [2, 4]


def test_rejects_of_rejects_keep_the_first_number(path: Any) -> None:
    written(path, *map(reject, (10, 20, 30)))
    again = path.parent / f"again{path.suffix}"
    once = RejectedRows(path)
    rows = list(once.rows())
    written(again, *(reject(row.number, **row.values) for row in rows[1:]), original=once.original)
    twice = RejectedRows(again)
    assert [row.number for row in twice.rows()] == [1, 2]
    assert [twice.original(n) for n in (1, 2)] == [20, 30]
    assert [json_row(again, n) for n in (0, 1)] == [2, 3]


def json_row(path: Any, n: int) -> int:
    line = path.read_text().splitlines()[n + (path.suffix == ".csv")]
    return int(line.partition(",")[0]) if path.suffix == ".csv" else json.loads(line)["row"]


def test_edited_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    written(path, reject(1, name="A", phone="+1"), reject(2, name="B", phone="+2"))
    edited = path.read_text().replace("'+2", "+22").replace("\n", "\r\n").rstrip()
    path.write_bytes(f"\ufeff{edited}".encode())
    assert values_of(path) == [{"name": "A", "phone": "+1"}, {"name": "B", "phone": "+22"}]
    path = tmp_path / "r.jsonl"
    written(path, reject(1), reject(2))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\r\n").rstrip())
    assert values_of(path) == [{"email": "1@b.com"}, {"email": "2@b.com"}]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_saved_again_with_another_delimiter(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    given = [{"name": "Ada; L., M.", "phone": "+1", "note": 'a "b"', "n": 7}, {"name": "", "phone": "", "note": "x"}]
    written(path, reject(1, **given[0]), reject(2, **given[1]))
    with path.open(newline="") as file:
        saved = list(csv.reader(file))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows([*saved[:2], ["" for _ in saved[0]], *saved[2:]])
    assert values_of(path) == given


def test_header_with_more_semicolons_than_commas_is_read_with_commas(tmp_path: Path) -> None:
    path, name = tmp_path / "r.csv", ";".join("abcdefghijklmnop")
    written(path, reject(1, **{name: "1;2"}))
    assert values_of(path) == [{name: "1;2"}]


def test_missing_rejects_file(path: Any) -> None:
    with pytest.raises(NoRejects, match=f"there is no rejects file {re.escape(str(path))}, or"):
        RejectedRows(path)


SECRET = "ann@secret.example"
GOOD = f'{{"row": 1, "values": {{"email": "{SECRET}"}}, "type": "T", "retryable": true}}'
HEAD = "_row,email,_type,_message,_suggested_action,_request_id,_original_row,_cells,_retryable"


@pytest.mark.parametrize(
    ("suffix", "lines", "said"),
    [
        ("jsonl", [GOOD, GOOD[:-20]], "row 2 .*not a complete JSON object"),
        ("jsonl", [GOOD, f'["{SECRET}"]'], "row 2 .*not a JSON object"),
        ("jsonl", [GOOD, "[" * 200_000], "row 2 .*not a complete JSON object"),
        ("jsonl", [GOOD.replace('"row"', '"rows"')], "row 1 .*'row' is missing"),
        ("jsonl", [GOOD.replace("true", '"yes"')], "row 1 .*'retryable' is missing or not of type bool"),
        ("csv", ["id,email", f"1,{SECRET}"], r"^/\S+/r.csv is not a rejects file; give the load's rejects_path$"),
        ("jsonl", [f'{{"email": "{SECRET}"}}'], r"^/\S+/r.jsonl is not a rejects file; give the load's rejects_path$"),
        ("jsonl", [GOOD, "{}"], "row 2 .*'row' is missing"),
        ("csv", [HEAD.replace("_cells,", "")], "row 1 .*its first line is not _row, the row's columns, _type, .*"),
        ("csv", [HEAD, f"1,{SECRET},T,M"], "row 2 .*4 cells and not 9"),
        ("csv", [HEAD, f"1,{SECRET},T,M,A,,,,ye"], "row 2 .*_retryable is not yes or no"),
        ("csv", [HEAD, f"x,{SECRET},T,M,A,,,,yes"], "row 2 .*_row is not a number"),
        ("csv", [HEAD, f'1,{SECRET},T,M,A,,,"{{""json"":[""email""]}}",yes'], "row 2 .*_cells"),
        ("csv", [HEAD, f'1,{SECRET},T,M,A,,,"{{""json"":[""other""]}}",yes'], "row 2 .*_cells"),
        ("csv", [HEAD, f"1,{SECRET},T,M,A,,,7,yes"], "row 2 .*_cells"),
        ("csv", [HEAD, f'1,"{SECRET}"x,T,M,A,,,,yes'], "row 2 .*not a CSV record"),
    ],
)
def test_error_names_the_line(suffix: str, lines: list[str], said: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{suffix}"
    path.write_text("\n".join(lines))
    with pytest.raises(SourceError, match=said) as caught:
        list(RejectedRows(path).rows())
    assert SECRET not in str(caught.value)


def test_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_bytes(f"{HEAD}\n1,é,T,M,A,,,,yes\n".encode("latin-1"))
    with pytest.raises(SourceError, match="not UTF-8"):
        list(RejectedRows(path).rows())


@pytest.mark.parametrize("name", ["r.csv.gz", "r.parquet"])
def test_unsupported_formats(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="jsonl"):
        RejectsFile(tmp_path / name)
    with pytest.raises(SourceError, match="jsonl"):
        RejectedRows(tmp_path / name)


# -- two concurrent tries -------------------------------------------------------------------------------------


def numbers_in(path: Any) -> list[int]:
    source = RejectedRows(path)
    return [source.original(row.number) for row in source.rows()]


def resumed(path: Any, *done: int) -> RejectsFile:
    file = RejectsFile(path)
    file.resume(done.__contains__)
    return file


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("suffix", FORMATS)
def test_abandoned_try_that_still_runs_duplicates_nothing(tmp_path: Path, suffix: str, before: int) -> None:
    """As after the death of a scheduler: the next try starts while the last one still runs for some seconds."""
    path = tmp_path / f"r.{suffix}"
    old = written(path, *[reject(1)] * before)
    new = resumed(path, 1)
    for one, writes in [(3, old), (2, new), (2, old), (4, new), (5, old)]:
        writes.write(reject(one))
    old.sync()
    new.finish(before + 2)
    assert numbers_in(path) == [*[1] * before, 3, 2, 4, 5]
    assert new.count == before + 4


@pytest.mark.parametrize("first_to_end", ["old", "new"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_end_of_one_try_loses_no_row_of_the_other(tmp_path: Path, suffix: str, first_to_end: str) -> None:
    path = tmp_path / f"r.{suffix}"
    old = RejectsFile(path)
    old.start()
    for number in (1, 2):
        old.write(reject(number))
    old.sync()
    new = resumed(path, 1, 2)
    for number in (3, 4):
        new.write(reject(number))
    new.sync()
    one, other = (old, new) if first_to_end == "old" else (new, old)
    for number in (4, 5) if one is old else (5,):
        one.write(reject(number, by="the first to end"))
    one.finish()
    assert sorted(numbers_in(path)) == [1, 2, 3, 4, 5]
    other.write(reject(6))
    other.finish()
    assert sorted(numbers_in(path)) == [1, 2, 3, 4, 5, 6]
    assert other.count == 6


def test_duplicate_lines_stay_if_the_other_try_writes_during_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.jsonl"
    old, new = RejectsFile(path), RejectsFile(path)
    for file in (old, new):
        file.write(reject(1, by=f"{id(file)}"))
    fsync = os.fsync

    def fsync_while_the_other_writes(number: int) -> None:
        monkeypatch.undo()
        fsync(number)
        old.write(reject(2))

    new.sync()
    monkeypatch.setattr(os, "fsync", fsync_while_the_other_writes)
    new.finish()
    assert numbers_in(path) == [1, 1, 2]
    old.sync()
    assert numbers_in(resumed(path, 1, 2).path) == [1, 2], "the next try reads each once"


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("how", ["resumed by another try", "removed"])
def test_row_in_a_replaced_file_is_never_called_safe(tmp_path: Path, suffix: str, how: str) -> None:
    path = tmp_path / f"r.{suffix}"
    old = written(path, reject(1))
    old.write(reject(2))
    if how == "removed":
        path.unlink()
    else:
        resumed(path, 1)
    for _ in range(2):
        with pytest.raises(CannotWrite, match=f"{path} cannot be written: another try or program"):
            old.write(reject(3))
        with pytest.raises(CannotWrite, match=f"{path} cannot be written: another try or program"):
            old.sync()


def test_lost_rows_are_reported_at_the_end(path: Any) -> None:
    """Rows are compared by number: other rows may have been added."""
    file = RejectsFile(path)
    for number in (1, 2):
        file.write(reject(number))
    file.sync()
    other = RejectsFile(path)
    other.start()
    for number in (3, 4):
        other.write(reject(number))
    other.finish()
    with pytest.raises(RowsLost, match="2 rejected rows are no longer in it"):
        file.finish()
    assert sorted(numbers_in(path)) == [3, 4]


def test_lost_rows_of_an_earlier_try(path: Any) -> None:
    written(path, reject(1))
    with pytest.raises(RowsLost, match="1 rejected rows are no longer in it"):
        resumed(path, 1, 2).finish(2)
    resumed(path, 1).finish(1)


def test_line_that_is_no_row_is_kept(tmp_path: Path) -> None:
    """Rows that two tries rejected are in the file once in the end."""
    path = tmp_path / "r.jsonl"
    old, new = RejectsFile(path), RejectsFile(path)
    old.write(reject(1, by="old"))
    new.write(reject(1, by="new"))
    for file in (old, new):
        file.sync()
    with path.open("a") as file:
        file.write("somebody's note\n")
    new.finish()
    lines = path.read_text().splitlines()
    assert [json.loads(lines[0])["values"], *lines[1:]] == [{"by": "new"}, "somebody's note"]
    assert new.count == 1


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_earlier_creation_of_a_row_is_kept(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"r.{suffix}"
    since = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)
    made, maybe = EarlierCreation(since, certain=True), EarlierCreation(None)
    written(path, replace(reject(1), made=made), replace(reject(2), made=maybe), reject(3))
    found = [row.made for row in RejectedRows(path).rows()]
    assert found == [replace(made, earlier_load=True), replace(maybe, earlier_load=True), None]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_of_a_deletion_are_not_loaded_as_contacts(suffix: str, tmp_path: Path) -> None:
    """Such a load would create the contacts that were to be deleted."""
    path = tmp_path / f"rejects.{suffix}"
    written(path, Reject(3, {"email": "ann@ex.co"}, "TIMEOUT", "no response", retryable=True, kind="deletions"))
    assert [row.values for row in RejectedRows(path, kind="deletions").rows()] == [{"email": "ann@ex.co"}]
    with pytest.raises(SourceError, match=r"a load of deletions, and not of contacts; give kind='deletions'$"):
        list(RejectedRows(path, kind="contacts").rows())


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_rejects_file_is_no_source_of_another_load(suffix: str, tmp_path: Path) -> None:
    """A pattern may match it: its rows are older than those of the source, and sorted after them."""
    path = tmp_path / f"r{suffix}"
    written(path, reject(1, email="a@b.com"))
    with pytest.raises(SourceError, match="is a rejects file of a load; send its rows with CrmRetryRejectsOperator"):
        list(open_source(tmp_path / f"*{suffix}").rows())
