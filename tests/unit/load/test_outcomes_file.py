"""The outcomes file: each row of a load once, with its key columns and no other value, after any failure."""

from __future__ import annotations

import csv
import io
import json
import logging
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from crm_provider.errors import CrmInvalidInputError, CrmInvalidParamsError, CrmServiceUnavailableError
from crm_provider.files import parquet
from crm_provider.files.journal import Journal
from crm_provider.files.paths import CannotWrite
from crm_provider.files.row_lines import RowsLost
from crm_provider.load.kinds.remote_contacts import UNWANTED
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.outcomes.file import OutcomesFile, check_outcomes
from crm_provider.load.outcomes.formats import AFTER, BEFORE, RowOutcome, checked_keys, outcomes_format, shown_key
from crm_provider.load.report import LoadStopped
from crm_provider.load.rows import Outcome, SourceError
from crm_provider.load.sources.memory import IteratorSource
from crm_provider.load.sources.source import open_source
from crm_provider.load.state.fingerprints import Fingerprints

from .table_values import JSON_VALUES, exact
from .test_job import Setting, people

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=timezone.utc)
DOWN = CrmServiceUnavailableError("down", status=503)
SUFFIXES = ["jsonl", "csv", "parquet"]
NAMES = ["row_number", "lead_id", "outcome", "error_type", "message", "request_id", "contact_id", "deal_id", "time"]


@pytest.fixture(params=[(place, suffix) for place in ("disk", "store") for suffix in SUFFIXES], ids="-".join)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    place, suffix = request.param
    name = uuid.uuid4().hex
    folder = tmp_path / name if place == "disk" else UPath(f"memory://outcomes/{name}")
    return folder / f"outcomes.{suffix}"


def outcomes_file(path: Any, keys: Any = ("lead_id",)) -> OutcomesFile:
    return OutcomesFile(path, keys=keys, clock=lambda: NOON)


def ended(number: int, outcome: Outcome = Outcome.CREATED, **values: Any) -> RowOutcome:
    return RowOutcome(number=number, outcome=outcome, values={"lead_id": f"L{number}", **values})


def read(path: Any) -> list[dict[str, Any]]:
    """The lines of an outcomes file. Empty CSV cells are None, and times are text."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        return [{**row, "time": row["time"].strftime("%Y-%m-%dT%H:%M:%SZ")} for row in rows]
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
        return [{**{k: v or None for k, v in row.items()}, "row_number": int(row["row_number"])} for row in rows]
    return [json.loads(line) for line in data.decode().splitlines()]


def numbers(path: Any) -> list[int]:
    return sorted(row["row_number"] for row in read(path))


def folder(path: Any) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir()) if path.parent.exists() else []


# -- a whole load -------------------------------------------------------------------------------------------


def test_every_outcome_of_a_row(tmp_path: Path, path: Any) -> None:
    rows = [{**row, "lead_id": f"L{n}"} for n, row in enumerate(people(8), start=1)]
    rows[3]["email"] = "p5@x.org"  # the last of two rows with the same address is sent
    rows[6]["email"] = "nobody"
    it = Setting(tmp_path, rows, plan="learned")
    it.crm.add("p2@x.org", {"name": "old"})
    it.state = tmp_path / "state"
    it.on_error = {"INVALID_PARAMS": "skip"}
    refused = {
        "p1@x.org": CrmInvalidInputError("Invalid phone of p1@x.org.", status=422, request_id="req-1"),
        "p8@x.org": CrmInvalidParamsError("Bad parameter.", status=400),
    }
    it.crm.trouble = lambda call, email: refused.get(email)
    known = Fingerprints(it.state, b"secret")
    known.remember(it.load().mapper(next(r for r in it.source.rows() if r.number == 3)))
    known.finish()
    known.close()
    it.run(outcomes=outcomes_file(path), suppressed=lambda email: email == "p6@x.org")
    wanted = [
        (1, "rejected", "INVALID_INPUT", "Invalid phone of [value].", "req-1", None),
        (2, "updated", None, None, None, "id-p2@x.org"),
        (3, "unchanged", None, "The same row was loaded before (state_path).", None, None),
        (4, "skipped", None, "Another row is sent for the same record (duplicates).", None, None),
        (5, "created", None, None, None, "id-p5@x.org"),
        (6, "suppressed", None, "The address is on the suppression list.", None, None),
        (7, "rejected", "INVALID_VALUE", "email: no email address; correct it", None, None),
        (8, "skipped", "INVALID_PARAMS", "Bad parameter.", None, None),
    ]
    found = sorted(read(path), key=lambda row: row["row_number"])
    assert found == [
        dict(zip(NAMES, (n, f"L{n}", *facts, None, "2026-11-30T12:00:00Z"), strict=True)) for n, *facts in wanted
    ]
    assert [*found[0]] == NAMES
    assert folder(path) == [path.name], "no other file is left"


def test_existing_contact_in_mode_create(tmp_path: Path) -> None:
    it = Setting(tmp_path, people(1), mode="create")
    it.crm.add("p1@x.org")
    path = tmp_path / "o.jsonl"
    it.run(outcomes=OutcomesFile(path))
    assert [(row["outcome"], row["error_type"], row["message"]) for row in read(path)] == [
        ("unchanged", None, "Contact already exists.")
    ]


def test_row_rejected_after_its_contact_was_created(tmp_path: Path) -> None:
    it = Setting(tmp_path, people(1), list_ids=("6f1c2c2e-9d0f-4f52-8f6a-2f4f8ac0c001",))
    it.crm.trouble = lambda call, email: CrmInvalidInputError("No.", status=422) if call == "add" else None
    path = tmp_path / "o.jsonl"
    it.run(outcomes=outcomes_file(path, ()))
    assert [(row["outcome"], row["contact_id"]) for row in read(path)] == [("rejected", "id-p1@x.org")]


@pytest.mark.parametrize("stop_at", [1, 7, 12])
def test_stopped_load_writes_its_rows_and_the_next_try_the_others(tmp_path: Path, path: Any, stop_at: int) -> None:
    it = Setting(tmp_path, people(12), errors_in_a_row=1)
    it.crm.trouble = lambda call, email: DOWN if email == f"p{stop_at}@x.org" else None
    file = outcomes_file(path, "email")
    with pytest.raises(LoadStopped) as stopped:
        it.run(outcomes=file)
    done = stopped.value.summary.rows - stopped.value.summary.left
    assert (numbers(path) if done else []) == sorted(set(range(1, 13)) - ({stop_at} | set(range(done + 2, 13))))[:done]
    it.crm.trouble = lambda call, email: None
    summary = it.run(outcomes=outcomes_file(path, "email"))
    assert summary.resumed_at == done
    assert [(row["row_number"], row["email"]) for row in sorted(read(path), key=lambda row: row["row_number"])] == [
        (n, f"p{n}@x.org") for n in range(1, 13)
    ]
    assert folder(path) == [path.name]


def test_finished_try_is_tried_again(tmp_path: Path, path: Any) -> None:
    it = Setting(tmp_path, people(3))
    it.run(outcomes=outcomes_file(path, ()))
    file = outcomes_file(path, ())
    assert it.run(outcomes=file).resumed_at == 3
    assert numbers(path) == [1, 2, 3]
    assert file.count == 3


def test_cleared_task_and_changed_key_start_a_new_file(tmp_path: Path, path: Any) -> None:
    it = Setting(tmp_path, people(3))
    it.run(outcomes=outcomes_file(path, ()))
    assert it.run(outcomes=outcomes_file(path, "email")).resumed_at == 0
    it.epoch = 1
    it.source.given.pop()
    it.run(outcomes=outcomes_file(path, "email"))
    assert [row["email"] for row in sorted(read(path), key=lambda row: row["row_number"])] == ["p1@x.org", "p2@x.org"]


def test_lost_rows_are_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "o.jsonl"
    it = Setting(tmp_path, people(4), errors_in_a_row=1)
    it.crm.trouble = lambda call, email: DOWN if email == "p4@x.org" else None
    with pytest.raises(LoadStopped):
        it.run(outcomes=outcomes_file(path, ()))
    path.unlink()
    it.crm.trouble = lambda call, email: None
    with caplog.at_level(logging.INFO):
        assert it.run(outcomes=outcomes_file(path, ())).resumed_at == 0
    assert f"Starting from the first row: 3 rows of earlier tries are no longer in {path}." in caplog.text
    assert numbers(path) == [1, 2, 3, 4]


def test_parquet_file_finished_by_an_earlier_try_is_complete(tmp_path: Path) -> None:
    file = outcomes_file(tmp_path / "o.parquet")
    file.start()
    file.write(ended(1))
    assert file.missing(1, lambda number: True) == 0
    file.finish(1)
    assert outcomes_file(tmp_path / "o.parquet").missing(1, lambda number: True) == 0
    assert outcomes_file(tmp_path / "o.parquet").missing(2, lambda number: True) == 2


def test_duplicate_row_counts_once_and_unfinished_row_is_ignored(tmp_path: Path) -> None:
    file = outcomes_file(tmp_path / "o.csv")
    file.start()
    for number in (1, 2, 2, 5, 70_000):
        file.write(ended(number))
    done = {1, 2, 3, 70_000}
    assert outcomes_file(tmp_path / "o.csv").missing(4, done.__contains__) == 1
    assert outcomes_file(tmp_path / "o.csv").missing(3, done.__contains__) == 0
    assert outcomes_file(tmp_path / "o.csv").missing(0, done.__contains__) == 0
    again = outcomes_file(tmp_path / "o.csv")
    again.resume(done.__contains__)
    assert again.count == 3
    assert numbers(tmp_path / "o.csv") == [1, 2, 70_000]


def test_dry_run_does_not_touch_the_file(tmp_path: Path, path: Any) -> None:
    it = Setting(tmp_path, people(2), dry_run=True)
    it.run(outcomes=outcomes_file(path))
    assert folder(path) == []


def test_outcomes_that_cannot_be_published_are_left_to_the_next_try(
    tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: OutcomesFile) -> None:
        raise CannotWrite("o.jsonl", "No space left on device")

    monkeypatch.setattr(OutcomesFile, "publish", full)
    it = Setting(tmp_path, people(1), errors_in_a_row=1)
    it.crm.trouble = lambda call, email: DOWN
    with caplog.at_level(logging.WARNING), pytest.raises(LoadStopped):
        it.run(outcomes=outcomes_file(tmp_path / "o.jsonl", ()))
    assert "o.jsonl cannot be written: No space left on device. The next try writes them." in caplog.text


# -- the file -----------------------------------------------------------------------------------------------


def test_parquet_rows_are_kept_beside_the_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    file = outcomes_file(path)
    file.start()
    file.write(ended(1))
    assert folder(path) == ["o.parquet.rows"]
    assert json.loads((tmp_path / "o.parquet.rows").read_text())["lead_id"] == "L1"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_concurrent_tries_leave_each_row_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"o.{suffix}"
    first, second = outcomes_file(path), outcomes_file(path)
    first.start()
    first.write(ended(1))
    first.write(ended(2))
    second.resume({1}.__contains__)
    second.write(ended(2, Outcome.UNCHANGED))
    with pytest.raises(CannotWrite):  # the second try has replaced the file
        first.write(ended(3))
    second.finish(2)
    assert [(row["row_number"], row["outcome"]) for row in read(path)] == [(1, "created"), (2, "unchanged")]


def test_a_header_is_written_once_also_if_another_try_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o.csv"
    first, second = outcomes_file(path), outcomes_file(path)
    first.start()
    second.start()
    first.write(ended(1))
    second.write(ended(2))
    monkeypatch.setattr(Journal, "lines", None)  # it would be read for each row
    second.write(ended(3))
    assert [line.partition(",")[0] for line in path.read_text().splitlines()] == ["row_number", "1", "2", "3"]


def test_a_shown_table_is_replaced_by_that_of_a_try_that_writes_its_rows_again(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    first, second = outcomes_file(path), outcomes_file(path)
    first.start()
    first.write(ended(1))
    first.publish()
    second.resume(lambda number: False)
    second.write(ended(1, Outcome.UNCHANGED))
    second.finish(1)
    assert [row["outcome"] for row in read(path)] == ["unchanged"]


def test_a_load_without_rows_leaves_no_file(path: Any) -> None:
    file = outcomes_file(path)
    file.start()
    file.finish()
    assert folder(path) == []


def test_the_columns_of_a_table_have_the_types_of_their_values(tmp_path: Path) -> None:
    path = tmp_path / "o.parquet"
    file = outcomes_file(path, ["lead_id", "score"])
    file.start()
    file.write(ended(1, lead_id=7, score=0.5))
    file.finish(1)
    types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(path)}
    assert (types["row_number"], types["lead_id"], types["score"]) == ("int64", "int64", "double")
    assert (types["outcome"], types["time"]) == ("string", "timestamp[us, tz=UTC]")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b'{"row": 1}\n', b"PAR1, not really"])
def test_foreign_file_is_not_touched(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"o.{suffix}"
    path.write_bytes(content)
    for begin in (lambda: outcomes_file(path).start(), lambda: outcomes_file(path).resume(lambda number: True)):
        with pytest.raises(SourceError, match=rf"o.{suffix} would be overwritten, but it is not an outcomes file"):
            begin()
    assert path.read_bytes() == content


@pytest.mark.parametrize("names", [["a"], [*BEFORE, "a"], ["a", *AFTER], [*AFTER, *BEFORE]], ids="-".join)
def test_foreign_parquet_file_is_not_touched(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "o.parquet"
    pyarrow.parquet.write_table(pyarrow.table({name: [1] for name in names}), path)
    with pytest.raises(SourceError, match="it is not an outcomes file"):
        outcomes_file(path).start()


@pytest.mark.parametrize(("suffix", "line"), [("jsonl", "{}\n"), ("csv", "x,y\n")])
def test_foreign_line_of_an_outcomes_file_is_an_error(tmp_path: Path, suffix: str, line: str) -> None:
    path = tmp_path / f"o.{suffix}"
    file = outcomes_file(path)
    file.start()
    file.write(ended(1))
    path.write_text(path.read_text() + line)
    with pytest.raises(SourceError, match=f"o.{suffix}: it is not a line of an outcomes file"):
        outcomes_file(path).resume(lambda number: True)
    with pytest.raises(RowsLost):
        file.finish(2)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@given(keys=st.lists(JSON_VALUES, min_size=1, max_size=4))
def test_keys_survive_a_round_trip(suffix: str, keys: list[Any], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("o") / f"o.{suffix}"
    file = outcomes_file(path)
    file.start()
    for number, key in enumerate(keys, start=1):
        file.write(ended(number, lead_id=key, phone="+5531999999999"))
    file.finish(len(keys))
    source = open_source(path)
    assert [exact(row.values["lead_id"]) for row in source.rows()] == keys
    assert b"5531999999999" not in path.read_bytes()


def test_fields_of_a_row() -> None:
    row = RowOutcome(
        number=1, outcome=Outcome.UPDATED, values={"name": "Ada L."}, error_type="T", message="Ada L. is wrong.",
        request_id="r-1", ids={"contact_id": 7, "deal_id": "d-1"},
    )  # fmt: skip
    assert row.facts(NOON) == {
        "outcome": "updated", "error_type": "T", "message": "[value] is wrong.", "request_id": "r-1",
        "contact_id": "7", "deal_id": "d-1", "time": "2026-11-30T12:00:00Z",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["o.JSONL", "o.ndjson", "O.CSV", "o.Parquet"])
def test_suffix_in_capitals(name: str) -> None:
    assert outcomes_format(name) == {"o.ndjson": "jsonl"}.get(name, name[2:].lower())


def test_csv_row_may_have_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    first, second = outcomes_file(path), outcomes_file(path)
    first.start()
    first.write(ended(1, lead_id="two\nlines"))
    first.write(ended(2))
    first.publish()
    assert not first.has_unsynced
    second.resume({1}.__contains__)
    second.finish(1)
    assert [(row["row_number"], row["lead_id"]) for row in read(path)] == [(1, "two\nlines")]


def test_keys_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    file = outcomes_file(path, ["a", "b.c", "missing", "bad"])
    file.start()
    file.write(ended(1, a=7, b={"c": 'x, "y"'}, bad="\0\ud800"))
    file.finish(1)
    [row] = read(path)
    assert (row["a"], row["b.c"], row["missing"], row["bad"]) == ("7", 'x, "y"', None, "\ufffd\ufffd")


# -- the arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([""], "must be names of columns"),
        ([5], "must be names of columns"),
        (["a", "a"], "names 'a' twice"),
        (["deal_id", "source_deal_id"], "names 'deal_id' twice"),
    ],
)
def test_invalid_keys_are_refused(keys: list[Any], problem: str) -> None:
    with pytest.raises(SourceError, match=f"outcome_keys {problem}"):
        checked_keys(keys)


def test_keys_in_every_accepted_form() -> None:
    assert [checked_keys(keys) for keys in (None, (), "a", ["a", "b"])] == [(), (), ("a",), ("a", "b")]


def test_contradicting_arguments_are_refused() -> None:
    check_outcomes({}, {"outcome_keys": "a"})  # of a mapped task, whose path comes later
    check_outcomes({"outcomes_path": "o.csv"}, {"outcomes_path": "o.csv", "outcome_keys": "a"})
    with pytest.raises(SourceError, match="outcome_keys needs outcomes_path"):
        check_outcomes({"outcomes_path": None}, {"outcomes_path": None, "outcome_keys": "a"})
    with pytest.raises(SourceError, match="outcome_keys names 'a' twice"):
        check_outcomes({}, {"outcome_keys": ["a", "a"]})
    with pytest.raises(SourceError, match=r"outcomes_path: the name 'o.xlsx' does not show the format"):
        check_outcomes({"outcomes_path": "o.xlsx"}, {"outcomes_path": "o.xlsx"})


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_key_may_be_a_field_of_the_mapping_and_a_column_of_the_file(tmp_path: Path, suffix: str) -> None:
    rows = [{"mail": "a@x.org", "n": "A"}, {"mail": "no address", "n": "B"}, {"mail": "b@x.org", "name": "own"}]
    it, path = Setting(tmp_path, rows), tmp_path / f"o.{suffix}"
    mapping = {"email": "mail", "attributes.name": {"column": "n", "optional": True}, "kind": {"constant": "x"}}
    mapper = Mapper(mapping)
    keys = ["email", "name", "attributes.name"]
    people_not_written = {"b@x.org"}
    it.run(
        mapper=mapper, outcomes=OutcomesFile(path, keys=keys, fields=mapper.field_columns),
        suppressed=people_not_written.__contains__,
    )  # fmt: skip
    found = sorted(read(path), key=lambda row: row["row_number"])
    shown = [[row[name] for name in (*keys, "outcome")] for row in found]
    assert shown == [
        ["a@x.org", "A", "A", "created"],
        ["no address", "B", "B", "rejected"],
        ["b@x.org", "own", None, "suppressed"],
    ]


def test_key_named_like_a_column_of_the_file_gets_a_prefix(tmp_path: Path) -> None:
    assert [shown_key(name) for name in (*BEFORE, *AFTER)] == [f"source_{name}" for name in (*BEFORE, *AFTER)]
    file = outcomes_file(tmp_path / "o.jsonl", ["deal_id"])
    file.start()
    file.write(RowOutcome(number=1, outcome=Outcome.UPDATED, values={"deal_id": 7}, ids={"deal_id": "seven"}))
    [row] = read(tmp_path / "o.jsonl")
    assert (row["source_deal_id"], row["deal_id"]) == (7, "seven")


@pytest.mark.parametrize("as_files", [False, True])
def test_key_missing_in_the_source_is_refused(tmp_path: Path, as_files: bool) -> None:
    it = Setting(tmp_path, people(1))
    (tmp_path / "in.csv").write_text("email,name\na@x.org,A\n")
    source = open_source([str(tmp_path / "in.csv")]) if as_files else open_source(people(1))
    with pytest.raises(SourceError, match=r"outcome_keys: .* has no column 'emial'. Did you mean 'email'\?"):
        it.run(source=source, outcomes=outcomes_file(tmp_path / "o.csv", ["email", "emial"]))
    assert it.crm.calls == []


def test_columns_of_a_file_without_a_header_are_not_shown(tmp_path: Path) -> None:
    it = Setting(tmp_path, people(1))
    (tmp_path / "in.csv").write_text("ada@example.com,Ada\nbob@example.com,Bob\n")
    with pytest.raises(SourceError, match=r"outcome_keys: .*in.csv has no column 'ada@example.org'.$"):
        it.run(
            source=open_source([str(tmp_path / "in.csv")]),
            outcomes=outcomes_file(tmp_path / "o.csv", "ada@example.org"),
        )


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(parquet.importlib, "import_module", missing)
    with pytest.raises(SourceError, match="Parquet needs pyarrow"):
        OutcomesFile(tmp_path / "o.parquet")


def test_contact_kept_out_of_the_lists_has_a_reason(tmp_path: Path) -> None:
    it = Setting(tmp_path, people(1), list_ids=("6f1c2c2e-9d0f-4f52-8f6a-2f4f8ac0c001",))
    it.crm.add("p1@x.org", status="unsubscribed")
    path = tmp_path / "o.jsonl"
    it.run(outcomes=outcomes_file(path, ()))
    assert [(row["outcome"], row["message"], row["contact_id"]) for row in read(path)] == [
        ("suppressed", UNWANTED, "id-p1@x.org")
    ]


@pytest.mark.parametrize("make", [open_source, lambda given: IteratorSource(iter(given))])
def test_keys_of_sources_with_and_without_known_columns(tmp_path: Path, make: Any) -> None:
    it, path = Setting(tmp_path, []), tmp_path / "o.jsonl"
    given = [{"email": "a@x.org", "id": 7}, {"email": "b@x.org"}]
    it.run(source=make(given), outcomes=outcomes_file(path, "id"))
    assert {row["row_number"]: row["id"] for row in read(path)} == {1: 7, 2: None}
