"""Ragged and hostile files: each line is a row or a located error. Nothing else is raised, and nothing is skipped."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from crm_provider.load.rows import Row, SourceError
from crm_provider.load.sources.source import open_source

from .conftest import Guard


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def read(path: Path, content: bytes, **options: Any) -> list[Row] | SourceError:
    """The rows of a file with this content, or the error that ends the read."""
    path.write_bytes(content)
    try:
        rows = list(open_source(path, options=options).rows())
    except SourceError as error:
        assert str(path) in str(error)
        return error
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return rows


# -- lines ---------------------------------------------------------------------------------------------------

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
UNICODE = st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])
ODD = "=+-@,;|\t ab1'\u2028\u2029\x85\x0b\x0c\x1c\x1e\x7f\ufeff\u202eé漢😀\x01"
LINES = st.lists(st.text(ODD, max_size=12).map(lambda text: f"x{text}y") | st.just(""), max_size=12)


@given(lines=LINES, ends=st.lists(ENDS, min_size=1, max_size=4), encoding=UNICODE)
def test_every_csv_line_is_a_row(folder: Path, lines: list[str], ends: list[str], encoding: str) -> None:
    text = "a,b\n" + "".join(line + ends[n % len(ends)] for n, line in enumerate(lines))
    rows = read(folder / "lines.csv", text.encode(encoding))
    assert isinstance(rows, list)
    given_ = [line for line in re.split("\r\n|\r|\n", text)[1:] if line]
    assert len(rows) == len(given_)
    for row, line in zip(rows, given_, strict=True):
        fields = [field.lstrip(" ") for field in line.split(",")]  # space after a delimiter is ignored
        assert [*(row.values[name] for name in "ab" if name in row.values), *row.values.get("__extra__", [])] == fields
        assert bool(row.problem) is (len(fields) != 2)


JSON_LINES = st.lists(
    st.one_of(
        st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4)).map(json.dumps),
        st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=12),
        st.sampled_from(
            [
                "[", "{", '{"a": 1}{"b": 2}', '{"a": NaN}', '{"a": 1e9999}', '{"a": ' + "9" * 5000 + "}", '{"a": 1',
                '{"a":' * 5000, "[" * 100_000,
                '{"a": "\\ud800"}', '{"a": "\\ud83d\\ude00"}', '{"a": 1, "a": 2}', "null",
                '{"a": 1}\r', "\ufeff{}", '{"a": 0.1e-5000}', "\x85", " ", "",
            ]
        ),
    ),
    max_size=10,
)  # fmt: skip


@given(lines=JSON_LINES)
def test_every_json_line_is_a_row(ends: Guard, folder: Path, lines: list[str]) -> None:
    with ends():
        rows = read(folder / "lines.jsonl", "\n".join(['{"first": 1}', *lines]).encode())
    assert isinstance(rows, list)
    assert len(rows) == 1 + len([line for line in lines if line.strip()])
    for row in rows:
        json.dumps(row.values, allow_nan=False, default=str, ensure_ascii=False).encode()


# -- truncated and damaged files -----------------------------------------------------------------------------

CSV = b"email,name\n" + b"".join(b"user%d@x.io,Name %d\n" % (n, n * n) for n in range(40))


@pytest.mark.parametrize("suffix", ["csv.gz", "jsonl.gz"])
def test_gzip_truncated_anywhere_is_reported(folder: Path, suffix: str) -> None:
    packed = gzip.compress(CSV if suffix.startswith("csv") else b'{"email": "a@x.io"}\n' * 99, mtime=0)
    for length in range(len(packed)):
        assert isinstance(read(folder / f"cut.{suffix}", packed[:length]), SourceError), length


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), several=st.booleans())
def test_gzip_with_a_wrong_byte_is_reported_or_reads_the_same(
    folder: Path, place: int, byte: int, several: bool
) -> None:
    packed = bytearray(gzip.compress(CSV, mtime=0) * (1 + several))
    packed[place % len(packed)] = byte
    found = read(folder / "damaged.csv.gz", bytes(packed))
    assert isinstance(found, SourceError) or len(found) == 40 * (1 + several) + several


def table_of(rows: int) -> bytes:
    values = {
        "email": [f"user{n}@x.io" for n in range(rows)], "n": list(range(rows)), "tags": [["a", "b"]] * rows
    }  # fmt: skip
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(values), file, row_group_size=max(rows // 3, 1))
    return file.getvalue()


PARQUET = table_of(50)
NAMES = [found.start() for found in re.finditer(rb"email", PARQUET)]


def test_parquet_truncated_anywhere_is_reported(folder: Path) -> None:
    for length in [*range(40), *range(40, len(PARQUET), 17), len(PARQUET) - 1]:
        assert isinstance(read(folder / "cut.parquet", PARQUET[:length]), SourceError), length


@pytest.mark.parametrize("place", NAMES)
def test_parquet_with_a_column_name_that_is_not_text(folder: Path, place: int) -> None:
    found = read(folder / "name.parquet", PARQUET[:place] + b"\xff" + PARQUET[place + 1 :])
    assert isinstance(found, SourceError) or len(found) == 50


# -- decompression bombs -------------------------------------------------------------------------------------


def packed(piece: bytes, times: int, head: bytes = b"") -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as zipped:
        zipped.write(head)
        for _ in range(times):
            zipped.write(piece)
    return file.getvalue()


CSV_BOMBS = {
    "one field in quotes": packed(b"a\n" * (1 << 19), 64, b'a,b\n"'),
    "one record in quotes": packed(b'a\n","' * (1 << 17), 64, b'a,b\n"'),
}
BOMBS = {
    "one line": packed(b"a" * (1 << 20), 64),
    "one record of many fields": packed(b"a," * (1 << 19), 64, b"a,b\n"),
    "NULs": packed(bytes(1 << 20), 64),
    "packed twice": gzip.compress(gzip.compress(CSV)),
    "deep JSON": packed(b'{"a":' * 200_000, 8),
    "a long number": packed(b"9" * (1 << 20), 8, b'{"a": '),
}


EVERY_BOMB = [(bomb, suffix) for bomb in BOMBS for suffix in ("csv.gz", "jsonl.gz")]


@pytest.mark.parametrize(("bomb", "suffix"), EVERY_BOMB + [(bomb, "csv.gz") for bomb in CSV_BOMBS])
def test_bomb_is_reported_before_it_fills_the_memory(ends: Guard, folder: Path, bomb: str, suffix: str) -> None:
    with ends():
        assert isinstance(read(folder / f"bomb.{suffix}", {**BOMBS, **CSV_BOMBS}[bomb]), SourceError)


# -- encodings -----------------------------------------------------------------------------------------------

MARKS = st.sampled_from([b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE])
ENCODINGS = st.sampled_from(
    [
        "utf-8", "utf-16", "utf-16-le", "cp1252", "latin-1", "ascii", "shift_jis", "utf-7", "idna", "punycode", "hz",
        "unicode_escape", "cp037", "utf-8-sig", "mbcs", "rot13", "zlib",
    ]
)  # fmt: skip
BYTES = st.binary(max_size=80) | st.just(CSV)


@given(mark=MARKS, body=BYTES, encoding=ENCODINGS, suffix=st.sampled_from(["csv", "jsonl"]))
@example(mark=b"", body=b"a,b\n1,2\n\\x", encoding="unicode_escape", suffix="csv")
def test_any_bytes_in_any_encoding(
    ends: Guard, folder: Path, mark: bytes, body: bytes, encoding: str, suffix: str
) -> None:
    path = folder / f"any.{suffix}"
    path.write_bytes(mark + body)
    with ends():
        try:
            rows = list(open_source(path, options={"encoding": encoding}).rows())
        except SourceError as error:
            assert len(str(error)) < 1000
            return
    json.dumps([row.values for row in rows], default=str, ensure_ascii=False).encode()
