"""Any bytes: rows or a SourceError, no value in a message; any rows: read as they were written; memory stays flat."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crm_provider.load.rows import SourceError
from crm_provider.load.sources.source import open_source

SECRET = "s3cr3t"

PIECES = st.sampled_from(
    [
        b"a,b\n", b"a;b\n", b"1,2\n", b'"', b'""', b",", b";", b"\t", b"|", b"\n", b"\r", b"\r\n", b" ", b"\0", b"\xe9",
        b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x82\xac", b"\xed\xb3\xbf", b"{", b"}", b"[", b"]", b":", b'{"a": 1}\n',
        b'{"a": "', b"1e999", b"-", b"\\ud800", b"\\", b"NaN", b"\x1f\x8b", b"\xe2\x80\xa8", SECRET.encode(),
        f'"{SECRET}"'.encode(), f'{{"{SECRET}": "{SECRET}", "{SECRET}": 1}}\n'.encode(),
    ]
)  # fmt: skip
HOSTILE = st.one_of(st.lists(PIECES, max_size=40).map(b"".join), st.binary(max_size=200))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(content=HOSTILE, suffix=st.sampled_from(["csv", "tsv", "jsonl", "json"]), packed=st.booleans())
@example(content=b'a,b\n"s3cr3t', suffix="csv", packed=False)
@example(content=b"s3cr3t,s3cr3t\n", suffix="csv", packed=False)
def test_any_bytes_are_rows_or_a_source_error(folder: Path, content: bytes, suffix: str, packed: bool) -> None:
    path = folder / f"hostile.{suffix}"
    path.write_bytes(gzip.compress(content) if packed else content)
    said = []
    try:
        for expected, row in enumerate(open_source(path).rows(), 1):
            assert row.number == expected
            json.dumps(row.values, default=str, ensure_ascii=False).encode()  # rejects can be written
            said.append(row.problem or "")
    except SourceError as error:
        said.append(str(error))
    assert SECRET not in "".join(said)
    assert all(str(path) in text for text in said if text)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FIELD = st.one_of(TEXT, st.sampled_from(['"', "\r\n", "\n", "\r", ",", ";", '",\n"', " ", ""]))


@given(
    records=st.lists(st.lists(FIELD, min_size=2, max_size=5), max_size=12),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_records_of_csv_are_read_as_written_with_their_lines(
    folder: Path, records: list[list[str]], delimiter: str, end: str, encoding: str
) -> None:
    text, expected = f"a{delimiter}b{delimiter}c{end}", []
    for fields in records:
        line = lines_of(text) + 1
        text += written(fields, delimiter, end)
        last = lines_of(text) - (end == "\n\n")
        expected.append((fields, line, last))
    path = folder / "records.csv"
    path.write_bytes(text.encode(encoding))
    rows = list(open_source(path).rows())
    assert len(rows) == len(expected)
    for row, (fields, first, last) in zip(rows, expected, strict=True):
        given_values = [row.values[name] for name in "abc" if name in row.values] + row.values.get("__extra__", [])
        assert given_values == fields
        place = f"line {first} has" if first == last else f"lines {first} to {last} have"
        assert row.problem == (None if len(fields) == 3 else f"{path}, {place} {len(fields)} fields, the header has 3")


def written(fields: list[str], delimiter: str, end: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerow(fields)
    return text.getvalue()


def lines_of(text: str) -> int:
    """Line ends of any kind, counted without the help of what is tested."""
    return text.replace("\r\n", "\n").replace("\r", "\n").count("\n")


JSON_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@given(
    objects=st.lists(st.dictionaries(TEXT, JSON_VALUE, max_size=4), max_size=8),
    bad=st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["{", "7", "[]", '{"a": 1, "a": 1}', "x"])), max_size=3),
    plain=st.booleans(),
)
def test_objects_of_json_lines_are_read_as_written_around_bad_ones(
    folder: Path, objects: list[Any], bad: list[tuple[int, str]], plain: bool
) -> None:
    lines: list[Any] = [{"first": 1}, *objects]
    for place, text in bad:
        lines.insert(min(place, len(lines) - 1) + 1, text)
    path = folder / "objects.jsonl"
    texts = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=plain) for item in lines]
    path.write_bytes("\n".join(texts).encode())
    rows = list(open_source(path).rows())
    assert [row.values for row in rows] == [{"__line__": x} if isinstance(x, str) else x for x in lines]
    for line, (row, item) in enumerate(zip(rows, lines, strict=True), 1):
        assert bool(row.problem) == isinstance(item, str)
        assert row.problem is None or row.problem.startswith(f"{path}, line {line} ")


# -- memory

ROWS = 100_000


def csv_line(n: int) -> str:
    return f'user{n}@example.com,"Ada, Countess",{n}.5\n'


def json_line(n: int) -> str:
    return f'{{"email": "user{n}@example.com", "name": "Ada", "score": {n}.5}}\n'


@pytest.mark.parametrize(
    ("name", "head", "line"),
    [
        ("leads.csv", "email,name,score\n", csv_line),
        ("leads.csv.gz", "email,name,score\n", csv_line),
        ("leads.jsonl", "", json_line),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str, head: str, line: Callable[[int], str]) -> None:
    opened: Any = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write(head)
        file.writelines(line(n) for n in range(ROWS))
    source = open_source(tmp_path / name)
    assert peak(lambda: sum(row.problem is None for row in source.rows())) < 2_000_000


def test_a_quote_left_open_does_not_collect_the_file(tmp_path: Path) -> None:
    with (tmp_path / "leads.csv").open("w", encoding="utf-8") as file:
        file.write('email,name,score\n"')
        file.writelines("ada@example.com,Ada,1\n" for _ in range(ROWS))

    def read() -> int:
        with pytest.raises(SourceError, match="close the quote"):
            list(open_source(tmp_path / "leads.csv").rows())
        return ROWS

    assert peak(read) < 30_000_000


def peak(read: Callable[[], int]) -> int:
    """Most bytes that Python held at once while all rows were read."""
    tracemalloc.start()
    try:
        assert read() == ROWS
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
