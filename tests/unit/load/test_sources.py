"""Valid sources, their files, and their options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from crm_provider.load.rows import NoSuchFile, Row, SourceError
from crm_provider.load.sources import files
from crm_provider.load.sources import text_files as text_lines
from crm_provider.load.sources.options import FORMATS, check_options, unique_names
from crm_provider.load.sources.source import FilesSource, Source, open_source


def emails(source: Source) -> list[Any]:
    return [row.values["email"] for row in source.rows()]


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


# -- rows in memory


def test_list_of_rows_is_a_source() -> None:
    source = open_source([{"email": "a@x.io", "age": 3}, {"email": "b@x.io", "city": None}])
    assert list(source.rows()) == [Row(1, {"email": "a@x.io", "age": 3}), Row(2, {"email": "b@x.io", "city": None})]
    assert source.columns == ("email", "age", "city")
    assert list(source.rows()) == list(source.rows())


def test_empty_list_has_no_rows_and_no_columns() -> None:
    for empty in ([], ()):
        source = open_source(empty)
        assert (list(source.rows()), source.columns) == ([], None)


def test_items_that_are_not_rows_are_separate_problems() -> None:
    rows = list(open_source([{"email": "a@x.io"}, ["secret"], {7: "secret"}, "secret"]).rows())
    assert [row.number for row in rows] == [1, 2, 3, 4]
    assert [row.problem for row in rows] == [
        None,
        "row 2 is of type list; give a mapping of column to value",
        "row 3 has a column whose name is not text; name the column",
        "row 4 is of type str; give a mapping of column to value",
    ]
    assert [row.values for row in rows[1:]] == [{"__line__": ["secret"]}, {"7": "secret"}, {"__line__": "secret"}]


class Query:
    """A custom source with expensive checks."""

    name = "a query"

    @property
    def columns(self) -> tuple[str, ...]:
        raise AssertionError("asked for its columns too early")

    def rows(self) -> Iterator[Row]:
        yield Row(1, {"email": "a@x.io"})


def test_source_is_returned_unchanged() -> None:
    query = Query()
    assert open_source(query) is query


class Frame:
    """Looks like a source, as data frames do."""

    columns = ("email",)

    def rows(self) -> list[tuple[str]]:
        return [("a@x.io",)]


@pytest.mark.parametrize("given", [None, 7, b"leads.csv", {"email": "a@x.io"}, iter([{"a": 1}]), Frame()])
def test_invalid_source_is_refused_with_a_hint(given: Any) -> None:
    with pytest.raises(SourceError, match=rf"source is of type {type(given).__name__}; give a list of mappings"):
        open_source(given)


def test_rows_without_names_are_no_pages_of_rows() -> None:
    for read in (lambda source: source.columns, lambda source: list(source.rows())):
        with pytest.raises(SourceError, match="without the names of their columns, as SQLExecuteQueryOperator"):
            read(open_source([("a@x.io", None), ("b@x.io", "Ann")]))
    assert emails(open_source([[], [{"email": "a@x.io"}]])) == ["a@x.io"]


@pytest.mark.parametrize("arguments", [{"format": "csv"}, {"options": {"delimiter": ";"}}])
@pytest.mark.parametrize("given", [[{"email": "a@x.io"}], Query()])
def test_file_options_are_refused_for_rows(given: Any, arguments: Any) -> None:
    with pytest.raises(SourceError, match=r"the source is not a file|no meaning for a list of rows"):
        open_source(given, **arguments)


# -- files


def test_file_by_text_or_path(tmp_path: Path) -> None:
    write(tmp_path, leads_csv="email\na@x.io\n")
    for given in (str(tmp_path / "leads.csv"), tmp_path / "leads.csv", f"file://{tmp_path}/leads.csv"):
        source = open_source(given)
        assert isinstance(source, FilesSource)
        assert emails(source) == ["a@x.io"]
        assert source.columns == ("email",)
        assert source.name == str(tmp_path / "leads.csv")
        assert [str(file) for file in source.files] == [str(tmp_path / "leads.csv")]


@pytest.mark.parametrize("name", ["leads.csv", "leads.jsonl", "leads.parquet"])
def test_missing_file_is_named_as_written_but_with_its_folder(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = [f"{tmp_path}/./{name}", f"file://{tmp_path}/{name}", tmp_path / name]
    for given, shown in [(f"./in/../{name}", f"{tmp_path}/in/../{name}"), *zip(absolute, absolute, strict=True)]:
        source = open_source(given)
        for read in (lambda source=source: source.columns, lambda source=source: list(source.rows())):
            with pytest.raises(NoSuchFile) as missing:
                read()
            assert (
                str(missing.value)
                == f"there is no file {shown}; correct the path, or check whether the file has arrived"
            )


def test_file_that_disappears_during_the_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, leads_csv="email\na@x.io\n", leads2_csv="email\nb@x.io\n")
    rows = open_source(tmp_path / "leads*.csv").rows()
    assert next(rows).values == {"email": "a@x.io"}
    (tmp_path / "leads2.csv").unlink()
    with pytest.raises(NoSuchFile, match=r"there is no file .*leads2\.csv;"):
        list(rows)


PATTERNS = {
    "leads-*.csv": ["1", "2", "10"],
    "leads-?.csv": ["1", "2"],
    "leads-[13].csv": ["1"],
    "*/leads-*.csv": ["20"],
    "**/leads-*.csv": ["1", "2", "10", "20", "30"],
    "sub/**/leads-30.csv": ["30"],
    "s*/deep/*.csv": ["30"],
    ".copies/*-40.csv": ["40"],
    "**/.leads-*.csv": ["50"],
}


def make_tree(root: Any) -> None:
    for folder, numbers in (("", (1, 2, 10)), ("sub", (20,)), ("sub/deep", (30,)), (".copies", (40,))):
        for number in numbers:
            path = root / folder / f"leads-{number}.csv" if folder else root / f"leads-{number}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"email\n{number}\n", encoding="utf-8")
    (root / "sub" / ".leads-50.csv").write_text("email\n50\n", encoding="utf-8")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("store", ["disk", "relative", "memory"])
def test_pattern_selects_the_matching_files(
    store: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root: Any = UPath(f"memory://bucket-{os.getpid()}/{tmp_path.name}") if store == "memory" else tmp_path
    make_tree(root)
    monkeypatch.chdir(tmp_path)
    source = open_source(pattern if store == "relative" else root / pattern)
    assert sorted(emails(source), key=int) == PATTERNS[pattern]
    assert [row.number for row in source.rows()] == list(range(1, len(PATTERNS[pattern]) + 1))


def test_files_come_in_the_order_of_their_names_and_of_the_list(tmp_path: Path) -> None:
    make_tree(tmp_path)
    listed = [tmp_path / "leads-2.csv", str(tmp_path / "sub" / "*.csv")]
    for given, found, name in (
        (tmp_path / "leads-*.csv", ["1", "10", "2"], "leads-1.csv and 2 more files"),
        (listed, ["2", "20"], "leads-2.csv and 1 more file"),
    ):
        source = open_source(given)
        assert (emails(source), source.name) == (found, f"{tmp_path}/{name}")


def test_pattern_without_a_match_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leads-folder.csv").mkdir()
    monkeypatch.chdir(tmp_path)
    absolute = [f"{tmp_path}/./leads-*.csv", tmp_path / "leads-*.csv"]
    for given, shown in [("leads-*.csv", absolute[1]), *zip(absolute, absolute, strict=True)]:
        with pytest.raises(NoSuchFile) as missing:
            open_source(given)
        expected = f"no file matches {shown}; correct the pattern, or check whether the files have arrived"
        assert str(missing.value) == expected


@pytest.mark.parametrize("store", ["disk", "memory"])
def test_existing_name_with_wildcards_is_taken_literally(store: str, tmp_path: Path) -> None:
    root: Any = UPath(f"memory://bucket-{os.getpid()}/{tmp_path.name}") if store == "memory" else tmp_path
    folders = (("in[1]/leads.csv", "folder"), ("in1/leads.csv", "wrong"), ("in[1]/a*/x.csv", "below"))
    for name, email in (("leads[1].csv", "right"), ("leads1.csv", "wrong"), *folders):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(f"email\n{email}\n", encoding="utf-8")
    assert emails(open_source(root / "leads[1].csv")) == ["right"]
    assert emails(open_source(root / "in[1]" / "*.csv")) == ["folder"]
    assert emails(open_source(root / "in[1]" / "a*" / "?.csv")) == ["below"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [("s3://bucket/leads.csv", "ObjectStoragePath"), (["leads.csv", {"email": "a@x.io"}], "its item 2 is none")],
)
def test_invalid_list_of_paths_is_refused(given: Any, problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        open_source(given)


def test_file_is_closed_when_reading_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, leads_csv="email\na@x.io\nb@x.io\n")
    opened = []
    plain = text_lines.read_source

    def noted(path: Path) -> Any:
        opened.append(plain(path))
        return opened[-1]

    source = open_source(tmp_path / "leads.csv")
    assert source.columns == ("email",)
    monkeypatch.setattr(text_lines, "read_source", noted)
    rows = source.rows()
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert [file.closed for file in opened] == [True]


# -- formats

SAME = {
    "csv": "email\na@x.io\n",
    "tsv": "email\tage\na@x.io\t3\n",
    "jsonl": '{"email": "a@x.io"}\n',
    "ndjson": '{"email": "a@x.io"}\n',
    "json": '{"email": "a@x.io"}\n',
}


@pytest.mark.parametrize("suffix", SAME)
def test_suffix_decides_the_format_and_format_overrides_it(tmp_path: Path, suffix: str) -> None:
    for name, arguments in ((f"x.{suffix}", {}), (f"X.{suffix.upper()}", {}), ("part-0000", {"format": suffix})):
        (tmp_path / name).write_text(SAME[suffix], encoding="utf-8")
        assert emails(open_source(tmp_path / name, **arguments)) == ["a@x.io"]


def test_every_known_format_is_covered() -> None:
    assert {*SAME, "parquet"} == set(FORMATS)


@pytest.mark.parametrize("name", ["leads.dat", "leads", "_SUCCESS", "csv"])
def test_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=rf"the format of .*{name} is not clear from its name; set source_format"):
        open_source(tmp_path / name)


def test_files_of_several_formats_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a_csv="email\n", b_jsonl="")
    with pytest.raises(SourceError, match=r"several formats: .*a\.csv is csv, .*b\.jsonl is jsonl"):
        open_source(tmp_path / "*.*")


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"format": "cvs"}, "format: 'cvs' is unknown; did you mean 'csv'?"),
    ({"format": "excel"}, "source_format: 'excel' is unknown; known: csv, tsv, jsonl, ndjson, json, parquet"),
    ({"options": {"delimeter": ";"}}, "source_options: 'delimeter' is unknown; did you mean 'delimiter'?"),
    ({"options": {"delimiter": ";;"}}, "source_options: delimiter must be one character"),
    ({"options": {"delimiter": "\n"}}, "source_options: delimiter must be one character"),
    ({"options": {"delimiter": "\\t"}}, "for a tab write"),
    ({"options": {"delimiter": '"'}}, "must differ"),
    ({"options": {"quotechar": "''"}}, "source_options: quotechar must be one character"),
    ({"options": {"encoding": "cp1225"}}, "source_options: encoding 'cp1225' is unknown; did you mean 'cp125"),
    ({"options": {"encoding": "rot13"}}, "source_options: encoding 'rot13' is unknown"),
    ({"options": {"encoding": 8}}, "source_options: encoding must be the name"),
    ({"options": {"header": "email"}}, "source_options: header must be a list"),
    ({"options": {"header": []}}, "source_options: header must be a list"),
    ({"options": {"header": ["a", " a "]}}, "source_options: header: columns 1 and 2 have the same name"),
    ({"options": {"header": ["a", " "]}}, "source_options: header: column 2 has no name"),
    ({"options": ["delimiter"]}, "source_options must be a mapping"),
    *[({"options": {"skip_lines": bad}}, "skip_lines must be the number of lines") for bad in (-1, "3", True, 1.5)],
    *[({"options": {"null_values": bad}}, "null_values must be a list of words") for bad in ("NULL", [1], {"a": 1})],
    ({"options": {"delimiter": ";"}, "format": "jsonl"}, "'delimiter' has no meaning for jsonl files"),
    ({"options": {"encoding": "cp1252"}, "format": "parquet"}, "'encoding' has no meaning for parquet files"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD_ARGUMENTS)
def test_invalid_argument_is_refused_before_any_read(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(SourceError) as caught:
        open_source("not-there.csv", **arguments)
    with pytest.raises(SourceError) as parsed:
        check_options("{{ ds }}.csv.gz", arguments.get("format"), arguments.get("options"))
    assert text in str(caught.value) and text in str(parsed.value)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("{{ ds }}.jsonl.gz", "for jsonl files"),
        (["a.parquet", "b.parquet"], "for parquet files"),
        (Path("a.ndjson"), "for jsonl files"),
        ([{"email": "a@x.io"}], "for a list of rows"),
        *[(unknown, None) for unknown in ("{{ params.source }}", "a.tsv", [], None, object())],
    ],
)
def test_options_that_do_not_fit_the_source_are_refused_at_dag_parse(source: Any, wrong: str | None) -> None:
    with nullcontext() if wrong is None else pytest.raises(SourceError, match=f"'delimiter' has no meaning {wrong}"):
        check_options(source, None, {"delimiter": ";"})


def test_option_that_is_none_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, leads_tsv="email\tage\na@x.io\t3\n")
    assert open_source(tmp_path / "leads.tsv", options={"delimiter": None}).columns == ("email", "age")


# -- columns of several files


@pytest.mark.parametrize("header", ["email,age", "known@x.io,2"])
def test_file_without_its_header_is_not_quoted(header: str, tmp_path: Path) -> None:
    write(tmp_path, a_csv=f"{header}\na@x.io,1\n", b_csv="secret@x.io,2\nb@x.io,3\n")
    with pytest.raises(SourceError, match=r"b\.csv and .*a\.csv have no column in common") as caught:
        list(open_source(tmp_path / "*.csv").rows())
    assert "secret" not in str(caught.value)


def test_file_without_read_permission_has_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("email\n")

    def refused(_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "read_any", refused)
    with pytest.raises(PermissionError):
        list(open_source(str(path)).rows())


def test_folder_read_as_a_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder; give a pattern"), files.explain_missing(tmp_path):
        raise FileNotFoundError(str(tmp_path))


def test_duplicate_names_are_refused() -> None:
    assert unique_names(["a", "a", ""], "a.csv") == ("a (column 1)", "a (column 2)", "(column 3)")
    with pytest.raises(SourceError, match=r"a\.csv: several columns have the same name"):
        unique_names(["a", "a", "a (column 1)"], "a.csv")
