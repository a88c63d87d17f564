"""CSV: delimiters, quotes, ragged lines, line numbers, and headers."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import pytest

from crm_provider.load.rows import Row, SourceError
from crm_provider.load.sources import csv_files
from crm_provider.load.sources.source import open_source


def rows(folder: Path, text: str, **options: Any) -> list[Row]:
    path = folder / "leads.csv"
    path.write_bytes(text.encode())
    return list(open_source(path, options=options).rows())


def values(folder: Path, text: str, **options: Any) -> list[Any]:
    found = rows(folder, text, **options)
    assert [row.problem for row in found] == [None] * len(found)
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    return [dict(row.values) for row in found]


ADA = {"email": "a@x.io", "name": "Ada, L."}

SPELLINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "comma": ('email,name\na@x.io,"Ada, L."\n', {}),
    "semicolon": ("email;name\na@x.io;Ada, L.\n", {}),
    "tab": ("email\tname\na@x.io\tAda, L.\n", {}),
    "bar": ("email|name\na@x.io|Ada, L.\n", {}),
    "a delimiter in a quoted name": ('email;"name"\na@x.io;Ada, L.\n', {}),
    "any delimiter, as an option": ("email:name\na@x.io:Ada, L.\n", {"delimiter": ":"}),
    "windows line ends": ('email,name\r\na@x.io,"Ada, L."\r\n', {}),
    "old line ends": ('email,name\ra@x.io,"Ada, L."\r', {}),
    "no line end at the end": ('email,name\na@x.io,"Ada, L."', {}),
    "another quote": ("email,name\na@x.io,'Ada, L.'\n", {"quotechar": "'"}),
    "no header": ('a@x.io,"Ada, L."\n', {"header": ["email", "name"]}),
    "spaces around names": (' email , name \na@x.io,"Ada, L."\n', {}),
    "blank lines": ('\n  \nemail,name\n\n   \na@x.io,"Ada, L."\n\n', {}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_same_row_in_many_spellings(tmp_path: Path, spelling: str) -> None:
    text, options = SPELLINGS[spelling]
    assert values(tmp_path, text, **options) == [ADA]


def test_quotes_can_be_disabled(tmp_path: Path) -> None:
    assert values(tmp_path, 'email,size\na@x.io,5"\n', quotechar="") == [{"email": "a@x.io", "size": '5"'}]


def test_delimiter_without_a_header_line_is_the_one_that_gives_the_columns(tmp_path: Path) -> None:
    row = {"email": "a@x.io", "notes": "a, b, c"}
    assert values(tmp_path, "a@x.io;a, b, c\n", header=["email", "notes"]) == [row]


def test_values_are_unchanged_except_for_space_after_a_delimiter(tmp_path: Path) -> None:
    text = 'email,note\n  a@x.io ,"two\r\nlines, ""quoted"""\n,"\n-"\n'
    assert values(tmp_path, text) == [
        {"email": "a@x.io ", "note": 'two\r\nlines, "quoted"'}, {"email": "", "note": "\n-"},
    ]  # fmt: skip


def test_single_column_has_no_delimiter(tmp_path: Path) -> None:
    assert values(tmp_path, "email\na@x.io\n\nb@x.io\n") == [{"email": "a@x.io"}, {"email": "b@x.io"}]


@pytest.mark.parametrize("row", [";", ";;;;", "  ; ", '"";""', '"  ";" "', ";\t", "\t;"])
def test_row_without_a_value_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: str
) -> None:
    caplog.set_level(logging.INFO)
    text = f"email;name\n{row}\n;Ada\n\nx\n{row}\n{row}\n"
    first, second = rows(tmp_path, text, delimiter=";")
    assert first == Row(1, {"email": "", "name": "Ada"})
    assert (second.number, second.problem) == (2, f"{tmp_path}/leads.csv, line 5 has 1 field, the header has 2")
    assert caplog.messages == [f"{tmp_path}/leads.csv: left out 3 rows without a value in any cell"]
    assert values(tmp_path, "\t\n-\t\n", header=["a", "b"]) == [{"a": "-", "b": ""}]


def test_detected_delimiter_is_logged_once_unless_it_is_a_comma(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("email;name\na@x.io;Ada\n", encoding="utf-8")
    source = open_source(tmp_path / "*.csv")
    assert source.columns == ("email", "name")
    assert len(list(source.rows())) == 2
    assert caplog.messages == [f"{tmp_path}/a.csv: the fields are separated by a semicolon"]
    values(tmp_path, "email,name\na@x.io,Ada\n")
    values(tmp_path, "email;name\na@x.io;Ada\n", delimiter=";")
    assert len(caplog.messages) == 1


# -- ragged lines ------------------------------

GOOD = {"a": "1", "b": "2"}

RAGGED: dict[str, tuple[str, str, Any]] = {
    "too many fields": ("1,2,3,4\n", "line 3 has 4 fields, the header has 2", {**GOOD, "__extra__": ["3", "4"]}),
    "too few fields": ("1\n", "line 3 has 1 field, the header has 2", {"a": "1"}),
    "over several lines": (
        '"1\n\n1",2,3\n',
        "lines 3 to 5 have 3 fields, the header has 2",
        {"a": "1\n\n1", "b": "2", "__extra__": ["3"]},
    ),
    "a quote in the middle": (
        '"1"x,2\n',
        "line 3: a quote within a quoted field is not doubled, or more than the delimiter follows it",
        {"__line__": '"1"x,2'},
    ),
    "a space after a quoted field": (
        '"1" ,2\n',
        "line 3: a quote within a quoted field is not doubled, or more than the delimiter follows it",
        {"__line__": '"1" ,2'},
    ),
    "a quote in the middle, later": (
        '"1\n1"x,2\n',
        "lines 3 to 4: a quote within a quoted field is not doubled, or more than the delimiter follows it",
        {"__line__": '"1\n1"x,2'},
    ),
}


@pytest.mark.parametrize("case", RAGGED)
def test_ragged_line_is_a_row_with_a_problem(tmp_path: Path, case: str) -> None:
    line, problem, shown = RAGGED[case]
    before, bad, after = rows(tmp_path, f"a,b\n1,2\n{line}1,2\n")
    assert (before, after) == (Row(1, GOOD), Row(3, GOOD))
    assert (bad.number, bad.problem, bad.values) == (2, f"{tmp_path}/leads.csv, {problem}", shown)


def test_lines_are_counted_across_quoted_line_ends_and_blank_lines(tmp_path: Path) -> None:
    text = '"a\n",b\n\n"1\r\n2\r3",2\n\n   \nx\n1,2\ny\n'
    problems = [row.problem for row in rows(tmp_path, text) if row.problem]
    assert problems == [f"{tmp_path}/leads.csv, line {number} has 1 field, the header has 2" for number in (9, 11)]


# -- errors of the whole file ---------

HEADERS: dict[str, tuple[str, str]] = {
    "empty": ("", "leads.csv is empty, without a header line"),
    "blank": ("\n\n", "leads.csv is empty, without a header line"),
    "bad quotes": (
        '"email"x,name\n',
        "leads.csv, line 1: a quote within a quoted field is not doubled, or more than the delimiter follows it",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_invalid_header_is_an_error(tmp_path: Path, case: str) -> None:
    text, message = HEADERS[case]
    (tmp_path / "leads.csv").write_text(text, encoding="utf-8")
    for read in (lambda source: source.columns, lambda source: list(source.rows())):
        with pytest.raises(SourceError) as caught:
            read(open_source(tmp_path / "leads.csv"))
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "before", "text", "options", "line", "other"),
    [
        ("leads.csv", "", "E-mail;Nome\na@x.io;Ada\n", {"delimiter": ","}, 1, "';'"),
        ("leads.csv", "note\n", "E-mail,Nome\n", {"delimiter": ";", "skip_lines": 1}, 2, "','"),
        ("leads.tsv", "", "email|name\na@x.io|Ada, L.\n", {}, 1, "'|'"),
    ],
)
def test_given_delimiter_that_does_not_divide_the_lines(
    tmp_path: Path, name: str, before: str, text: str, options: dict[str, Any], line: int, other: str
) -> None:
    path = tmp_path / name
    path.write_text(before + text, encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        open_source(path, options=options).columns  # noqa: B018
    assert str(caught.value) == (
        f"{path}, line {line}: the fields seem to be separated by {other}; remove delimiter, or give "
        f"source_options={{'delimiter': {other}}}"
    )


def test_single_column_with_a_given_delimiter(tmp_path: Path) -> None:
    assert values(tmp_path, "email\na@x.io;\n", delimiter=",") == [{"email": "a@x.io;"}]
    assert values(tmp_path, "email;mail\na@x.io\n", delimiter=",") == [{"email;mail": "a@x.io"}]
    assert values(tmp_path, "a;b\n", delimiter=",", header=["email"]) == [{"email": "a;b"}]


def test_names_that_differ_in_case_are_two_columns(tmp_path: Path) -> None:
    assert values(tmp_path, "Email,email\n1,2\n") == [{"Email": "1", "email": "2"}]


def test_header_without_rows_is_no_error(tmp_path: Path) -> None:
    assert values(tmp_path, "email,name\n") == []
    assert values(tmp_path, "", header=["email"]) == []


def test_unclosed_quote_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"lines 3 to 5: a quote is not closed before the end of the file"):
        rows(tmp_path, 'a,b\n1,2\n"secret,2\n1,2\n1,2\n')


@pytest.mark.parametrize("line", ["secret", "secret\n"], ids=["one line", "many lines"])
def test_too_large_record_is_an_error(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "LONGEST_RECORD", 10**9)
    text = 'a,b\n1,2\n"' + line * (csv_files.LARGEST_ROW // len(line) + 9)
    with pytest.raises(SourceError, match=r"lines? 3( to \d+)?(:| is longer than 2097152 characters)") as caught:
        rows(tmp_path, text)
    assert "secret" not in str(caught.value)


def test_too_many_columns_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"line 1 has 10,001 columns; at most 10,000 are read"):
        rows(tmp_path, "a" + "," * 10_000 + "\n")


def test_endless_record_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "LONGEST_RECORD", 20)
    with pytest.raises(SourceError, match=r"lines 2 to 22: one record has over 20 lines"):
        rows(tmp_path, 'a,b\n"' + '1\n","' * 30)


def test_limit_of_the_csv_module_is_raised(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("email\n" + "a" * 100 + "\n")
    before = csv.field_size_limit(50)
    try:
        assert [row.values for row in open_source(str(tmp_path / "a.csv")).rows()] == [{"email": "a" * 100}]
        assert csv.field_size_limit() == csv_files.LARGEST_ROW
    finally:
        csv.field_size_limit(before)


def test_field_over_the_limit_of_the_csv_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("email\nada@example.com\n")
    set_limit = csv.field_size_limit  # the limit is process-wide, and another library may set it at any time
    before = set_limit(8)
    monkeypatch.setattr(csv, "field_size_limit", lambda: 2**30)
    try:
        with pytest.raises(SourceError, match="a field is longer than"):
            list(open_source(str(path)).rows())
    finally:
        set_limit(before)
