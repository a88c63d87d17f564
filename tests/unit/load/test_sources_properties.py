"""Any bytes give rows or a SourceError without values; any rows are read as written; memory use stays flat."""

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
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.load.sources.source import open_source


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FIELD = st.one_of(TEXT, st.sampled_from(['"', "\r\n", "\n", "\r", ",", ";", '",\n"', " ", ""]))


@given(
    records=st.lists(st.lists(FIELD, min_size=2, max_size=5), max_size=12),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n", "\n\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_csv_records_are_read_as_written_with_their_lines(
    folder: Path, records: list[list[str]], delimiter: str, end: str, encoding: str
) -> None:
    text, expected = f"a{delimiter}b{delimiter}c{end}", []
    for fields in records:
        line = lines_of(text) + 1
        text += written(fields, delimiter, end)
        last = lines_of(text) - (end == "\n\n")
        if "".join(fields).strip():  # a row that was cleared is left out
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
    """Line ends of any kind, counted independently of the tested code."""
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
def test_json_objects_are_read_as_written_around_bad_ones(
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

ROWS = 30_000


def csv_line(n: int) -> str:
    return f'user{n}@example.com,"Ada, Countess",{n}.5\n'


def json_line(n: int) -> str:
    return f'{{"email": "user{n}@example.com", "name": "Ada", "score": {n}.5}}\n'


@pytest.mark.parametrize(
    ("name", "head", "line"), [("leads.csv.gz", "email,name,score\n", csv_line), ("leads.jsonl", "", json_line)]
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str, head: str, line: Callable[[int], str]) -> None:
    opened: Any = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write(head)
        file.writelines(line(n) for n in range(ROWS))
    source = open_source(tmp_path / name)
    assert peak(lambda: sum(row.problem is None for row in source.rows())) < 1_000_000


def peak(read: Callable[[], int]) -> int:
    """Python's peak memory in bytes while all rows were read."""
    tracemalloc.start()
    try:
        assert read() == ROWS
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
