"""Parquet: Python values of each type, batches, and invalid files."""

from __future__ import annotations

import io
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from crm_provider.files.parquet import check_pyarrow
from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.rows import Contact, InvalidRow, Row, SourceError, UnreadableValue
from crm_provider.load.sources import parquet_files
from crm_provider.load.sources.source import open_source


def write(path: Any, table: Any, **arguments: Any) -> Any:
    with path.open("wb") as file:
        pq.write_table(table, file, **arguments)
    return path


def test_values_keep_their_types(tmp_path: Path) -> None:
    at = datetime(2024, 2, 29, 12, 30, 0, 123456, tzinfo=timezone.utc)
    row = {
        "email": "a@x.io",
        "score": Decimal("1.10"),
        "born": date(1815, 12, 10),
        "at": at,
        "n": 2**62,
        "tags": ["a", None],
        "geo": {"city": "Rio"},
        "none": None,
        "raw": b"\x00\xff",
    }
    path = write(tmp_path / "leads.parquet", pa.Table.from_pylist([row, row]))
    source = open_source(path)
    assert source.columns == tuple(row)
    assert list(source.rows()) == [Row(1, row), Row(2, row)]


@pytest.mark.parametrize(
    ("kind", "nanoseconds", "value"),
    [
        (pa.timestamp("ns"), 1_500, datetime(1970, 1, 1, 0, 0, 0, 1)),  # noqa: DTZ001 - without a zone
        (pa.timestamp("ns", "UTC"), 1_500, datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc)),
        (pa.duration("ns"), 1_500, timedelta(microseconds=1)),
        (pa.time64("ns"), 1_500, time(microsecond=1)),
    ],
    ids=str,
)
def test_nanoseconds_are_truncated_to_microseconds(tmp_path: Path, kind: Any, nanoseconds: int, value: Any) -> None:
    table = pa.table({"at": pa.array([nanoseconds, None], kind)})
    first, second = open_source(write(tmp_path / "leads.parquet", table)).rows()
    assert (first.values, second.values) == ({"at": value}, {"at": None})
    assert type(first.values["at"]) is type(value)


def test_date_after_the_year_9999_rejects_only_a_row_that_sends_it(tmp_path: Path) -> None:
    far = pa.array([0, 253_402_300_800, 1], pa.timestamp("s"))
    path = write(tmp_path / "leads.parquet", pa.table({"email": ["a@x.io", "b@x.io", "c@x.io"], "at": far}))
    rows = list(open_source(path).rows())
    assert [row.problem for row in rows] == [None, None, None]
    assert rows[1].values == {"email": "b@x.io", "at": UnreadableValue("10000-01-01 00:00:00.000")}
    assert rows[2].values == {"email": "c@x.io", "at": datetime(1970, 1, 1, 0, 0, 1)}  # noqa: DTZ001 - without a zone
    assert Mapper({"email": "email"})(rows[1]) == Contact("b@x.io", {})
    with pytest.raises(InvalidRow, match=r"^at: a value that Python cannot hold; correct it, or cast it to text"):
        Mapper()(rows[1])


@pytest.mark.parametrize("rows", [0, 1, 999, 1000, 2501])
def test_batches_and_row_groups_are_invisible(tmp_path: Path, rows: int) -> None:
    table = pa.table({"n": pa.array(range(rows), pa.int64())})
    for store in (tmp_path, UPath(f"memory://parquet/{tmp_path.name}")):
        source = open_source(write(store / f"leads-{rows}.parquet", table, row_group_size=700))
        assert list(source.rows()) == [Row(n + 1, {"n": n}) for n in range(rows)]


def test_large_row_group_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array([f"{n * 7919 % 100_003}@{'example' * 6}.com" for n in range(100_000)])
    path = write(tmp_path / "leads.parquet", pa.table({"email": texts}), compression="none", use_dictionary=False)
    assert path.stat().st_size > 8 * parquet_files.READ_AHEAD
    sizes = []

    class Noted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size) or b""
            sizes.append(len(data))
            return data

    monkeypatch.setattr(parquet_files, "read_source", Noted)
    assert sum(1 for _ in open_source(path).rows()) == 100_000
    assert sum(sizes) >= path.stat().st_size // 2  # the check above noted them
    assert max(sizes) <= 5 * parquet_files.READ_AHEAD  # pages of 1 MB are read whole


# -- not Parquet --


@pytest.fixture
def good(tmp_path: Path) -> Path:
    table = pa.table({"email": [f"secret{n}@x.io" for n in range(5000)]})
    path: Path = write(tmp_path / "leads.parquet", table, compression="snappy")
    return path


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "middle", "pages"])
def test_damaged_file_is_refused(good: Path, damage: str) -> None:
    whole = good.read_bytes()
    good.write_bytes(
        {
            "text": b"email\nsecret@x.io\n",
            "empty": b"",
            "cut": whole[:-100],
            "middle": whole[:60] + bytes(2000) + whole[2060:],
            "pages": whole[:4] + b"\xff" * 40 + whole[44:],
        }[damage]
    )
    with pytest.raises(SourceError, match=r"leads\.parquet is not a valid Parquet file, or damaged") as caught:
        list(open_source(good).rows())
    assert "secret" not in str(caught.value)


def test_failing_file_system_is_not_reported_as_a_damaged_file(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        closed = False

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_: object) -> None:
            self.closed = True

        def seek(self, *_: object) -> int:
            raise ConnectionResetError(104, "reset")

        tell = read = seek

    monkeypatch.setattr(parquet_files, "read_source", lambda path: Broken())
    with pytest.raises(ConnectionResetError):
        list(open_source(good).rows())


def test_duplicate_and_empty_column_names_are_distinguished(tmp_path: Path) -> None:
    arrays = [pa.array([number]) for number in (1, 2, 3, 4)]
    path = write(tmp_path / "leads.parquet", pa.Table.from_arrays(arrays, names=["a", "b", "a", ""]))
    source = open_source(path)
    assert source.columns == ("a (column 1)", "b", "a (column 3)", "(column 4)")
    assert [row.values for row in source.rows()] == [{"a (column 1)": 1, "b": 2, "a (column 3)": 3, "(column 4)": 4}]


def test_float32_values_have_the_written_digits(tmp_path: Path) -> None:
    short = pa.float32()
    columns = {
        "plain": pa.array([0.1, 123456.79, None], short),
        "list": pa.array([[0.1, None], [], None], pa.list_(short)),
        "struct": pa.array(
            [{"a": 0.1, "b": 0.1}, None, {"a": None, "b": 1}], pa.struct([("a", short), ("b", pa.float64())])
        ),
        "dictionary": pa.array([0.1, 0.7, 0.1], short).dictionary_encode(),
        "double": pa.array([0.1, 12345678.901234567, None], pa.float64()),
        "half": pa.array([0.1, 65504, None], short).cast(pa.float16()),
        "halves": pa.array([[0.5, None], [], None], pa.list_(short)).cast(pa.list_(pa.float16())),
    }
    path = write(tmp_path / "leads.parquet", pa.table(columns))
    rows = [row.values for row in open_source(path).rows()]
    assert [row["plain"] for row in rows] == [0.1, 123456.79, None]
    assert [row["half"] for row in rows] == [0.1, 65504.0, None]
    assert [row["list"] for row in rows] == [[0.1, None], [], None]
    assert [row["halves"] for row in rows] == [[0.5, None], [], None]
    assert [row["struct"] for row in rows] == [{"a": 0.1, "b": 0.1}, None, {"a": None, "b": 1.0}]
    assert [row["dictionary"] for row in rows] == [0.1, 0.7, 0.1]
    assert [row["double"] for row in rows] == [0.1, 12345678.901234567, None]


def peak_of(read: Callable[[], int]) -> tuple[int, int]:
    """The rows, and Python's peak memory in bytes."""
    tracemalloc.start()
    try:
        return read(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LONG = "x" * 200_000


@pytest.mark.parametrize(
    "values",
    [
        pa.array([LONG] * 1000),
        pa.array([[LONG]] * 1000, pa.list_(pa.string())),
        pa.array([{"a": LONG}] * 1000),
        pa.array([LONG.encode()] * 1000, pa.binary()),
        pa.array([LONG.encode()] * 1000, pa.binary(len(LONG))),
        pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([LONG], pa.large_string())),
        pa.array([[LONG]] * 1000, pa.list_(pa.string(), 1)),
    ],
    ids=["text", "list", "struct", "binary", "fixed length", "long dictionary", "list of a fixed length"],
)
def test_long_value_in_every_row_is_not_held_a_thousand_times(values: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "leads.parquet", pa.table({"email": ["a@x.io"] * 1000, "note": values}))
    assert path.stat().st_size < 1_000_000
    before = pa.total_allocated_bytes()
    rows, peak = peak_of(lambda: sum(1 for _ in open_source(path).rows()))
    assert rows == 1000
    assert peak < 30_000_000
    assert pa.total_allocated_bytes() - before < 30_000_000


def test_cast_of_a_list_slice_does_not_copy_the_whole_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "leads.parquet", pa.table({"note": pa.array([[LONG]] * 1000, pa.list_(pa.string()))}))
    largest, exact = [0], parquet_files._exact

    def measured(batch: Any) -> Any:
        made = exact(batch)
        largest.append(made.get_total_buffer_size())
        return made

    monkeypatch.setattr(parquet_files, "_exact", measured)
    assert sum(1 for _ in open_source(path).rows()) == 1000
    assert max(largest) < 9_000_000


def test_oversized_value_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "leads.parquet"
    pq.write_table(pa.table({"email": ["a@x.io"], "note": ["x" * 70_000_000]}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    problem = r"leads\.parquet: the column 'note' has 70,0[\d,]+ bytes in a row group of 1 rows; shorten its values"
    with pytest.raises(SourceError, match=problem):
        open_source(path).columns  # noqa: B018


def test_oversized_row_is_named(tmp_path: Path) -> None:
    notes = ["short"] * 7 + ["secret" * 2_000_000, "short"]
    path = write(tmp_path / "leads.parquet", pa.table({"note": notes}))
    with pytest.raises(SourceError) as caught:
        list(open_source(path).rows())
    assert str(caught.value) == f"{path}, row 8 has over 8,388,608 bytes; shorten it, or leave columns out"


def test_map_is_a_mapping_at_any_depth(tmp_path: Path) -> None:
    inner = pa.map_(pa.string(), pa.int64())
    nested = pa.map_(pa.string(), pa.list_(pa.struct([("x", inner), ("y", pa.int64())])))
    table = pa.table({
        "m": pa.array([[("a", 1)], None, []], inner),
        "n": pa.array([[("k", [{"x": [("b", 2)], "y": 3}, None])], [("k", None)], None], nested),
        "s": pa.array([{"y": 1}, None, {"y": None}]),
    })  # fmt: skip
    path = write(tmp_path / "leads.parquet", table)
    expected = [
        {"m": {"a": 1}, "n": {"k": [{"x": {"b": 2}, "y": 3}, None]}, "s": {"y": 1}},
        {"m": None, "n": {"k": None}, "s": None},
        {"m": {}, "n": None, "s": {"y": None}},
    ]
    for source in (path, table):
        assert [row.values for row in open_source(source).rows()] == expected


def test_map_with_one_key_twice_has_no_value(tmp_path: Path) -> None:
    twice = pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))
    (row,) = open_source(write(tmp_path / "leads.parquet", pa.table({"m": twice}))).rows()
    assert isinstance(row.values["m"], UnreadableValue) and row.problem is None


NO_PYARROW = r"^Parquet needs pyarrow: pip install 'airflow-provider-crm\[parquet\]'$"


def test_missing_pyarrow_names_the_extra(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=NO_PYARROW):
        list(open_source(good).rows())


@pytest.mark.parametrize(
    ("files", "form", "needed"),
    [
        ("in/leads.parquet", None, True),
        ("s3://bucket/{{ ds }}/*.PARQUET", None, True),
        (["a.csv", Path("b.parquet")], None, True),
        ("in/leads", "parquet", True),
        ("in/leads.parquet", "csv", False),
        ("in/{{ ds }}.csv", None, False),
        ([{"email": "a@ex.co"}], None, False),
        (None, None, False),
    ],
)
def test_missing_pyarrow_is_reported_when_the_dag_is_parsed(
    files: Any, form: str | None, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_pyarrow(files, form)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=NO_PYARROW) if needed else nullcontext():
        check_pyarrow(files, form)


def test_dictionary_of_numbers_has_no_lengths() -> None:
    numbers = pa.array([1, 2, 1]).dictionary_encode()
    texts = pa.array(["ab", "c", "ab"]).dictionary_encode()
    assert parquet_files._size([numbers]) == 0
    assert parquet_files._size([texts]) == 5, "ab, c, ab"


def varint(value: int, width: int) -> bytes:
    """A number as in Parquet's headers, in exactly that many bytes."""
    value *= 2
    return bytes((value >> (7 * n) & 127) | (128 if n < width - 1 else 0) for n in range(width))


@pytest.mark.parametrize(
    ("where", "claimed", "said"),
    [
        ("footer", 10, r"leads\.parquet, row 1 has over 8,388,608 bytes"),
        ("page", 10, r"leads\.parquet is not a valid Parquet file, or damaged"),
        ("page", (1 << 27) - 1, r"leads\.parquet is not a valid Parquet file, or damaged"),
    ],
)
def test_file_with_false_sizes_is_refused(where: str, claimed: int, said: str, tmp_path: Path) -> None:
    path = tmp_path / "leads.parquet"
    table = pa.table({"email": ["a@x.io"], "name": ["x" * 9_000_000]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = path.read_bytes()
    page_size = 9_000_000 + 4 + 6  # the value with its length and its level
    of_footer = content.rindex(varint(chunk.total_uncompressed_size, 4))
    at = of_footer if where == "footer" else content.index(varint(page_size, 4), chunk.data_page_offset)
    path.write_bytes(content[:at] + varint(claimed, 4) + content[at + 4 :])
    with pytest.raises(SourceError, match=said):
        list(open_source(path).rows())
