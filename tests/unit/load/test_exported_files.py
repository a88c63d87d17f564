"""Files as programs export them (in ``data/``), with the expected contacts written by hand."""

from __future__ import annotations

import gzip
import logging
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.preflight import Preflight, check
from crm_provider.load.rows import InvalidRow, SourceError
from crm_provider.load.sources.source import Source, open_source
from crm_provider.load.state.temp_tables import RowStatus
from crm_provider.values.redaction import WIDTH
from unit.fakes import one_line

DATA = Path(__file__).parent / "data"


def checked(source: Source, mapping: Any = None) -> Preflight:
    return check(source, Mapper(mapping), ContactOptions())


def contacts(source: Source, mapping: Any = None) -> list[tuple[str, dict[str, Any]]]:
    """The contacts that a load would send. A rejected row fails the test."""
    mapper = Mapper(mapping)
    found = check(source, mapper, ContactOptions(duplicates="first"))
    assert found.problem_lines() == []
    made = [item.record for item in found.staged.rows() if item.record is not None]
    found.staged.close()
    return [(contact.email, dict(contact.attributes)) for contact in made]


def problems(source: Source, mapping: Any = None) -> list[str]:
    found = checked(source, mapping)
    found.staged.close()
    return found.problem_lines()


def refused(source: Any, mapping: Any = None, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        checked(open_source(source, options=options or None), mapping)
    return str(caught.value)


def file(folder: Path, content: str | bytes, name: str = "leads.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


ANA = ("a@ex.co", {"name": "Ana"})

# -- space after the delimiter


SPACED = {
    "comma": (DATA / "space_after_delimiter.csv").read_text("utf-8").replace("Belo Horizonte, MG", "BH; MG"),
    "semicolon": 'email; name; city\na@ex.co; "Ana"; "BH; MG"\n',
    "tab, then space": 'email\t name\t city\na@ex.co\t "Ana"\t "BH; MG"\n',
    "several spaces": 'email,   name,   city\na@ex.co,   "Ana",   "BH; MG"\n',
    "before the first": ' "email", "name", "city"\n "a@ex.co", "Ana", "BH; MG"\n',
}


@pytest.mark.parametrize("case", SPACED)
def test_space_before_quotes_is_ignored(case: str, tmp_path: Path) -> None:
    assert contacts(open_source(file(tmp_path, SPACED[case]))) == [("a@ex.co", {"name": "Ana", "city": "BH; MG"})]


@pytest.mark.parametrize("space", ["\t", "\u00a0", " \u00a0 "], ids=["tab", "hard space", "both"])
def test_other_space_before_a_quote_makes_the_row_invalid(space: str, tmp_path: Path) -> None:
    path = file(tmp_path, f'email,name\na@ex.co,{space}"secret"\nb@ex.co,"\tx ""y"""\n')
    bad, good = open_source(path).rows()
    assert bad.problem == f"{path}, line 2: a tab or hard space stands before a quote; remove it"
    assert good.values == {"email": "b@ex.co", "name": '\tx "y"'}


# -- Excel's first line


EXCEL: dict[str, bytes] = {
    "from Excel": (DATA / "excel_sep.csv").read_bytes().replace(b"E-mail", b"email").replace(b"Nome", b"name"),
    "quoted": b'"sep=;"\r\nemail;name\r\na@ex.co;Ana\r\n',
    "upper case": b"SEP=;\r\nemail;name\r\na@ex.co;Ana\r\n",
    "with a byte order mark": b"\xef\xbb\xbfsep=;\r\nemail;name\r\na@ex.co;Ana\r\n",
    "UTF-16 with tabs": "sep=\t\r\nemail\tname\r\na@ex.co\tAna\r\n".encode("utf-16"),
    "a blank line after it": b"sep=;\r\n\r\nemail;name\r\na@ex.co;Ana\r\n",
    "a delimiter that is not detected": b"sep=^\r\nemail^name\r\na@ex.co^Ana\r\n",
    "saved again": b"sep=,,\r\nemail,name\r\na@ex.co,Ana\r\n",
}


@pytest.mark.parametrize("case", EXCEL)
def test_excel_sep_line_is_skipped(case: str, tmp_path: Path) -> None:
    assert contacts(open_source(file(tmp_path, EXCEL[case]))) == [ANA]


def test_line_numbers_include_the_excel_sep_line(tmp_path: Path) -> None:
    path = file(tmp_path, "sep=;\nemail;name\na@ex.co;Ana;more\n")
    assert [row.problem for row in open_source(path).rows()] == [f"{path}, line 3 has 3 fields, the header has 2"]


# -- lines before the header

NOTES = {"email": "Email Address", "name": "First Name"}


def test_lines_before_the_header_are_skipped() -> None:
    source = open_source(DATA / "notes_before_header.csv", options={"skip_lines": 3})
    assert contacts(source, NOTES) == [("ada@ex.co", {"name": "Ada"})]


def test_error_without_skip_lines_names_the_option() -> None:
    path = DATA / "notes_before_header.csv"
    message = refused(path, NOTES)
    assert f"{path}, line 1 was read as the header line" in message
    assert "source_options={'skip_lines': <how many>}" in message
    assert "Notes" not in message
    assert "skip_lines" in refused(path)


def test_excel_sep_line_is_among_the_skipped_lines(tmp_path: Path) -> None:
    path = file(tmp_path, "sep=|\na note, with commas, in it\nemail|name\na@ex.co|Ana\n")
    assert contacts(open_source(path, options={"skip_lines": 2})) == [ANA]


def test_skipping_more_lines_than_the_file_has_is_an_error(tmp_path: Path) -> None:
    path = file(tmp_path, "email\na@ex.co\n")
    assert refused(path, skip_lines=3) == f"{path} has 2 lines, and skip_lines skips 3; correct source_options"


# -- unused columns ----------


def test_trailing_columns_without_a_name_are_ignored() -> None:
    source = open_source(DATA / "trailing_nameless_columns.csv")
    assert contacts(source, {"email": "email", "name": "name"}) == [ANA]


def test_columns_without_a_name_are_dropped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert contacts(open_source(file(tmp_path, ",email,name,\n0,a@ex.co,Ana,x\n"))) == [ANA]
    assert [line for line in caplog.messages if "pandas index" in line and "'(column 1)', '(column 4)'" in line]


TWICE = "Email Address,Name,Tags,Tags\na@ex.co,Ana,x,y\n"


def test_unused_duplicate_name_does_not_stop_a_load(tmp_path: Path) -> None:
    path = file(tmp_path, TWICE)
    assert contacts(open_source(path), {"email": "Email Address", "name": "Name"}) == [ANA]
    second = {"email": "Email Address", "tags": "Tags (column 4)"}
    assert contacts(open_source(path), second) == [("a@ex.co", {"tags": "y"})]


def test_used_duplicate_name_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, TWICE)
    assert "the source has 2 columns 'Tags'; name one of them: 'Tags (column 3)' or 'Tags (column 4)'" in refused(
        path, {"email": "Email Address", "tags": "Tags"}
    )
    assert "several columns have this name; give the load a mapping" in refused(
        file(tmp_path, "email,a,a\nx@ex.co,1,2\n")
    )
    assert "2 columns have this name" in refused(file(tmp_path, "email,email\nx@ex.co,y@ex.co\n"))


def test_one_file_of_a_pattern_may_have_an_extra_column(tmp_path: Path) -> None:
    file(tmp_path, "email,name\na@ex.co,Ana\n", "1.csv")
    file(tmp_path, "name,score,email\nBia,7,b@ex.co\n", "2.csv")
    used = {"email": "email", "name": "name"}
    assert contacts(open_source(tmp_path / "*.csv"), used) == [ANA, ("b@ex.co", {"name": "Bia"})]
    assert contacts(open_source(tmp_path / "*.csv")) == [ANA, ("b@ex.co", {"name": "Bia", "score": "7"})]


def test_file_of_a_pattern_without_a_used_column_is_named_before_the_first_row(tmp_path: Path) -> None:
    file(tmp_path, "email,name\na@ex.co,Ana\n", "1.csv")
    second = file(tmp_path, "email,city\nb@ex.co,BH\n", "2.csv")
    message = refused(tmp_path / "*.csv", {"email": "email", "name": "name"})
    assert message.startswith(f"{second}: mapping['name']: the source has no column 'name'")
    assert contacts(open_source(tmp_path / "*.csv"), {"email": "email"}) == [("a@ex.co", {}), ("b@ex.co", {})]


# -- words for no value

AGES = {"email": "email", "name": "name", "phone": "phone", "age": "age"}
ERROR_FIX = (
    "correct it in the spreadsheet, or list it in source_options={'null_values': [...]} to take it for an empty cell"
)


def test_null_words_stay_text_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    path, mapper = DATA / "null_words.csv", Mapper(AGES)
    found = check(open_source(path), mapper, ContactOptions())
    assert found.problem_lines() == [
        f"1 row: {column}: an error value of a spreadsheet; {ERROR_FIX} (first: {path}, line 4 (row 3))"
        for column in ("name", "phone")
    ]
    sent = [
        item.record.attributes
        for item in found.staged.rows()
        if item.record is not None and item.status is RowStatus.SEND
    ]
    found.staged.close()
    assert sent == [
        {"name": "NULL", "phone": "N/A", "age": "\\N"},
        {"name": "Null", "phone": "+5531999999999", "age": "41"},
    ]
    (warning,) = [one_line(text) for text in caplog.messages if text.startswith("Words")]
    words = r"'N/A', 'NULL', 'Null', '\\N'"
    assert warning == (
        f"Words that often mean 'no value' are sent as text ({words}); "
        "cells by column: 'name' 2, 'phone' 1, 'age' 1. "
        f"If they are to be empty, give source_options={{'null_values': [{words}]}} (in a query: NULLIF)"
    )


def test_many_fields_are_logged_in_lines_that_the_log_view_shows(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    given = [{"email": "a@ex.co", **{f"attribute_{number:02}": "x" for number in range(19)}}]
    check(open_source(given), Mapper(), ContactOptions()).staged.close()
    lines = caplog.messages[-1].splitlines()
    assert [line.startswith("Sends: email; attributes attribute_00, ") for line in lines[2:]] == [True, False, False]
    assert lines[-1].endswith("attribute_18")
    assert all(len(line) <= WIDTH for line in lines)


def test_configured_null_words_are_empty_cells(caplog: pytest.LogCaptureFixture) -> None:
    source = open_source(
        DATA / "null_words.csv", options={"null_values": ["NULL", "N/A", "\\N", "#REF!", "#N/A", "n/a"]}
    )
    assert contacts(source, AGES) == [
        ("a1@ex.co", {}), ("a2@ex.co", {"name": "Null", "phone": "+5531999999999", "age": "41"}), ("a3@ex.co", {}),
    ]  # fmt: skip
    assert [line.split(";")[0] for line in caplog.messages if "Words" in line] == [
        "Words that often mean 'no value' are sent as text ('Null')"
    ]


@pytest.mark.parametrize(
    ("value", "spec"), [(["a", "#REF!"], {}), ([{"b": " #N/A "}], {}), ('{"b": ["#REF!"]}', {"type": "json"})]
)
def test_error_value_within_a_list_or_object_is_never_sent(value: Any, spec: dict[str, Any]) -> None:
    mapper = Mapper({"email": "email", "tags": {"column": "tags", **spec}})
    with pytest.raises(InvalidRow, match="an error value of a spreadsheet"):
        mapper(next(open_source([{"email": "a@ex.co", "tags": value}]).rows()))


@pytest.mark.parametrize(
    "word",
    ["#REF!", "#N/A", "#N/A N/A", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!", "#SPILL!", "#CALC!", "#ERROR!",
     "#GETTING_DATA", "#n/a", "#N/D", "#VALOR!", "#NOME?", "#¿NOMBRE?", "#WERT!", "#VALEUR!", "########",
     "#valore!", "#N/B", "#DEEL/0!", "#VÄRDEFEL!", "#N/D!", "#ССЫЛКА!", "#BAŞV!", "Err:502", "Erro:502"],
)  # fmt: skip
def test_spreadsheet_error_value_is_never_sent(word: str, tmp_path: Path) -> None:
    rows = [{"email": "a@ex.co", "name": f" {word} "}]
    assert len(problems(open_source(rows))) == 1
    assert contacts(open_source(rows, options={"null_values": [word]})) == [("a@ex.co", {})]
    with pytest.raises(InvalidRow, match="an error value of a spreadsheet"):
        Mapper({"email": "email", "name": {"column": "name", "type": "text"}})(next(open_source(rows).rows()))


@pytest.mark.parametrize("word", ["NA", "null", "<null>", "None", "nan", "N/A ", "\\N", "undefined"])
def test_words_that_other_programs_read_as_missing_stay_text(word: str, caplog: pytest.LogCaptureFixture) -> None:
    assert contacts(open_source([{"email": "a@ex.co", "country": word}])) == [("a@ex.co", {"country": word.strip()})]
    assert [line for line in caplog.messages if f"({word.strip()!r}); cells by column: 'country' 1." in one_line(line)]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_configured_null_words_in_other_formats(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"leads.{suffix}"
    if suffix == "jsonl":
        path.write_text('{"email": "a@ex.co", "p": {"name": " N/A "}, "age": null}\n', encoding="utf-8")
    else:
        pq.write_table(pa.table({"email": ["a@ex.co"], "p": [{"name": "N/A"}], "age": ["N/A"]}), path)
    source = open_source(path, options={"null_values": ["N/A"]})
    assert contacts(source, {"email": "email", "name": "p.name", "age": "age"}) == [("a@ex.co", {})]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ('="0042"', "0042"),
        ('"=""+55 31 9999"""', "+55 31 9999"),
        ('="a"&"b"', '="a"&"b"'),
        ("=A1", "=A1"),
        ("ERR:502", "ERR:502"),  # LibreOffice writes Err:502, and no other hundreds
        ("Err:404", "Err:404"),
        ('""', None),
        ('=""', None),
    ],
)
def test_text_formula_is_read_as_its_text_and_similar_cells_as_they_are(
    cell: str, value: str | None, tmp_path: Path
) -> None:
    expected = {} if value is None else {"code": value}
    assert contacts(open_source(file(tmp_path, f"email,code\na@ex.co,{cell}\n"))) == [("a@ex.co", expected)]


# -- problems name file, line, and row --


def test_problems_name_the_file_of_a_pattern(tmp_path: Path) -> None:
    file(tmp_path, "email,age\na@ex.co,1\n", "1.csv")
    second = file(tmp_path, 'email,age\n"b@ex.co","1"\n\nsecret,x\nc@ex.co,x\n', "2.csv")
    mapping = {"email": "email", "age": {"column": "age", "type": "integer"}}
    lines = problems(open_source(tmp_path / "*.csv"), mapping)
    assert len(lines) == 2
    assert lines[0].startswith("2 rows: age: not a number;")
    assert lines[0].endswith(f"(first: {second}, line 4 (row 2))")
    assert lines[1].startswith("1 row: email: ")
    assert "secret" not in "".join(lines)


def test_row_locations_in_files(tmp_path: Path) -> None:
    one = file(tmp_path, '\nemail,n\n"a\n",1\n\nb,2\n', "1.csv")
    two = file(tmp_path, "email,n\nc,3\n", "2.csv")
    source = open_source(tmp_path / "*.csv")
    assert len(list(source.rows())) == 3
    assert [source.place(number) for number in range(5)] == [  # type: ignore[attr-defined]
        "", f"{one}, line 3 (row 1)", f"{one}, line 6 (row 2)", f"{two}, line 2 (row 1)", "",
    ]  # fmt: skip


# -- no values in messages


@pytest.mark.parametrize("mapping", [None, {"email": "email", "name": "name"}, {"email": "E-mail", "name": "Nome"}])
def test_file_without_a_header_line_shows_no_value(mapping: Any) -> None:
    message = refused(DATA / "no_header.csv", mapping)
    assert "header line" in message
    assert "source_options={'header': [...]}" in message
    for value in ("Ana", "Bia", "Example", "31999999999", "000.000", "b@ex.co"):
        assert value not in message


SECRETS = "José Secret;Rua Secreta;31999999999\nB;C;b@ex.co\n"

GARBLED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "EBCDIC read as latin-1": (SECRETS.encode("cp037", "replace"), {"encoding": "latin-1"}),
    "UTF-8 read as UTF-16": ((SECRETS + " ").encode()[:60], {"encoding": "utf-16-le"}),
    "UTF-8 read as cp437": (SECRETS.encode(), {"encoding": "cp437"}),
    "latin-1 read as UTF-8": (SECRETS.encode("latin-1"), {}),
    "UTF-16 without a mark read as UTF-8": (SECRETS.encode("utf-16-le"), {}),
}


@pytest.mark.parametrize("case", GARBLED)
@pytest.mark.parametrize("mapping", [None, {"email": "email"}])
def test_file_in_another_encoding_shows_no_value(case: str, mapping: Any, tmp_path: Path) -> None:
    content, options = GARBLED[case]
    path = file(tmp_path, content)
    message = refused(path, mapping, **options)
    shown = message.replace(str(path), "")
    decoded = content.decode(options.get("encoding", "utf-8"), "ignore")
    assert "ecret" not in shown
    assert not any(part in shown for part in decoded.replace("\0", "").split() if len(part) > 3)


def test_header_names_are_shown(tmp_path: Path) -> None:
    mac = refused(file(tmp_path, "email,Cafe\u0301\n"), {"email": "email", "x": "Caf\u00e9"})
    assert r"(did you mean 'Cafe\u0301'?)" in mac
    path = file(tmp_path, "E-mail,Nome\na@ex.co,Ana\n")
    assert refused(path, {"email": "email", "name": "Nome"}) == (
        "mapping['email']: the source has no column 'email' (did you mean 'E-mail'?). Its columns: 'E-mail', 'Nome'"
    )


# -- not a text table --


def test_workbook_and_archives_get_a_hint(tmp_path: Path) -> None:
    for name, text in (
        ("leads.xlsx", "leads.xlsx is a spreadsheet, which is not read; save the sheet as 'CSV UTF-8'"),
        ("leads.XLS", "leads.XLS is a spreadsheet"),
        ("leads.csv.zip", "leads.csv.zip is an archive, which is not read; unpack it first"),
        ("contacts.vcf", "contacts.vcf is not a table; export it as CSV"),
    ):
        assert text in refused(file(tmp_path, b"", name))


CONTENTS: dict[str, tuple[bytes, str]] = {
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "is an old Excel workbook; save the sheet as"),
    "Parquet": (b"PAR1\x15\x04" + bytes(90), "is a Parquet file; name it .parquet"),
    "web page": (b"\n<!DOCTYPE html>\n<html>secret", "is a web page or XML; export the table as CSV"),
    "table of a web page": (b"\xef\xbb\xbf<table><tr><td>secret", "is a web page or XML; export the table as CSV"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"email\n")), "is packed twice with gzip; unpack it once"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(90), "is packed with zstd; unpack it"),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_unsupported_content_is_recognised(case: str, tmp_path: Path) -> None:
    content, text = CONTENTS[case]
    message = refused(file(tmp_path, content))
    assert text in message
    assert "secret" not in message


def test_workbook_with_a_wrong_suffix(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "leads.csv", "w") as packed:
        packed.writestr("xl/workbook.xml", "secret")
    assert "is an Excel workbook or a ZIP archive; save the sheet as 'CSV UTF-8', or unpack it" in refused(
        tmp_path / "leads.csv"
    )


# -- delimiters


@pytest.mark.parametrize("name", ["in", "leads.csv", "leads.parquet", "leads.jsonl", "leads.csv.gz"])
@pytest.mark.parametrize("where", ["disk", "store"])
def test_folder_instead_of_a_file(name: str, where: str, tmp_path: Path) -> None:
    folder = tmp_path / name if where == "disk" else UPath(f"memory://folders-{tmp_path.name}/{name}")
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "0.csv").write_text("email\n")
    assert f"{folder} is a folder; give a pattern of the files in it, such as {folder}/*.csv" in refused(folder)


def test_tie_between_delimiters_is_decided_by_the_table() -> None:
    mapping = {"email": "E-mail", "name": "Nome, completo", "city": "Cidade, UF"}
    assert contacts(open_source(DATA / "delimiter_tie.csv"), mapping) == [
        ("a@ex.co", {"name": "Ana", "city": "BH, MG"}), ("b@ex.co", {"name": "Bia", "city": "SP, SP"}),
    ]  # fmt: skip


def test_comma_in_every_line_is_text(tmp_path: Path) -> None:
    source = open_source(file(tmp_path, "email;name, full\na@ex.co;Silva, Ana\n"))
    assert contacts(source) == [("a@ex.co", {"name, full": "Silva, Ana"})]


TIES = {
    "more commas in the header than delimiters": "Nome, completo, civil;email\nAna;a@ex.co\nBia;b@ex.co\n",
    "bars in names": "email|mail,n|ame\na@ex.co,Ana\n",
    "quoted line ends": 'email;"a, b, c"\na@ex.co;"x\ny, z"\n',
    "a header over two lines": 'email;"na\nme"\na@ex.co;Ana\n',
    "a comma in every row": "day;email\nApril 15, 2024;a@ex.co\nApril 14, 2024;b@ex.co\n",
    "only a header": "email;name\n",
}


@pytest.mark.parametrize(("case", "columns"), list(zip(TIES, [2] * len(TIES), strict=True)))
def test_delimiter_of_a_consistent_table_wins(case: str, columns: int, tmp_path: Path) -> None:
    source = open_source(file(tmp_path, TIES[case]))
    assert len(source.columns or ()) == columns
    assert [row.problem for row in source.rows()] == [None] * (TIES[case].count("@"))


def test_problem_of_a_line_is_reported_when_it_is_read(tmp_path: Path) -> None:
    path = file(tmp_path, b"email;name\na@ex.co;Ana\nb@ex.co;\xff\n")
    rows = open_source(path).rows()
    assert next(rows).values == {"email": "a@ex.co", "name": "Ana"}
    with pytest.raises(SourceError, match="line 3 is not utf-8"):
        next(rows)


# -- nested JSON lines


def test_dotted_columns_read_nested_json_lines() -> None:
    mapping = {"email": "properties.email", "name": "properties.name", "score": "properties.score"}
    assert contacts(open_source(DATA / "nested.jsonl"), mapping) == [
        ("a@ex.co", {"name": "Ana", "score": 12345678901234567}), ("b@ex.co", {"score": "0.1"}),
    ]  # fmt: skip


def test_missing_path_is_a_missing_column() -> None:
    row = {"a": {"email": "a@ex.co"}, "b": None, "c.d": {"e": Decimal("0.10")}, "f.g": 1}
    mapping = {"email": "a.email", "x": "c.d.e", "y": "f.g"}
    assert contacts(open_source([row]), mapping) == [("a@ex.co", {"x": "0.10", "y": 1})]
    assert problems(open_source([row]), {"email": "a.email", "x": "b.x"}) == [
        (
            "1 row: x (column 'b.x'): column missing; add it to the row, or make the field optional in the mapping "
            "(first: row 1)"
        )
    ]
    assert problems(open_source([{"mail": "a@ex.co"}, row]), {"email": "mail"}) == [
        "1 row: email (column 'mail'): column missing; add it to the row, or leave out the row (first: row 2)"
    ]
    assert "the source has no column 'z.x'" in refused([row], {"email": "a.email", "x": "z.x"})


# -- pages


def test_list_of_pages_is_one_list_of_rows() -> None:
    pages = [[{"email": "a@ex.co", "name": "Ana"}], [], [{"email": "b@ex.co"}, {"email": "c@ex.co", "city": "BH"}]]
    source = open_source(pages)
    assert source.columns == ("email", "name", "city")
    assert [(row.number, row.values["email"]) for row in source.rows()] == [
        (1, "a@ex.co"),
        (2, "b@ex.co"),
        (3, "c@ex.co"),
    ]
    assert [row.problem for row in open_source([[{"email": "a"}], 5]).rows()] == [
        None, "row 2 is of type int; give a mapping of column to value",
    ]  # fmt: skip
