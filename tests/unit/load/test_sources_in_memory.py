"""In-memory sources: tables with Arrow's C stream interface, and iterators, which can be read only once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pyarrow
import pytest

from crm_provider.files import parquet
from crm_provider.load.rows import SourceError
from crm_provider.load.sources import arrow_tables
from crm_provider.load.sources.arrow_tables import ArrowSource
from crm_provider.load.sources.memory import IteratorSource
from crm_provider.load.sources.parquet_files import BATCH
from crm_provider.load.sources.source import open_source

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)


class Frame:
    """The part of a data frame that a load uses."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return len(self._table)


def values(source: Any) -> list[dict[str, Any]]:
    return [dict(row.values) for row in source.rows()]


def table(**columns: Any) -> Any:
    return pyarrow.table(columns)


TYPES: dict[str, tuple[Any, Any]] = {
    "text": (pyarrow.array(["a"], pyarrow.large_string()), "a"),
    "a view": (pyarrow.array(["a"]).cast(pyarrow.string_view()), "a"),
    "a category": (pyarrow.array(["a"]).dictionary_encode(), "a"),
    "a category of views": (
        pyarrow.DictionaryArray.from_arrays(
            pyarrow.array([0], pyarrow.uint32()), pyarrow.array(["a"]).cast(pyarrow.string_view())
        ),
        "a",
    ),
    "a list of views": (pyarrow.array([["a"]]).cast(pyarrow.list_(pyarrow.string_view())), ["a"]),
    "null": (pyarrow.array([None], pyarrow.int64()), None),
    "a short float": (pyarrow.array([0.1], pyarrow.float32()), 0.1),
    "nanoseconds": (pyarrow.array([NOON], pyarrow.timestamp("ns", "UTC")), NOON),
    "a date": (pyarrow.array([date(2026, 1, 2)]), date(2026, 1, 2)),
    "a decimal": (pyarrow.array([Decimal("1.10")]), Decimal("1.10")),
    "a list": (pyarrow.array([["x", None]]), ["x", None]),
    "a struct": (pyarrow.array([{"a": 1}]), {"a": 1}),
}


VIEWS = ["a view", "a category of views", "a list of views"]
READS_VIEWS = int(pyarrow.__version__.partition(".")[0]) >= arrow_tables.READS_VIEWS


@pytest.mark.parametrize("name", TYPES)
def test_values_of_a_table_are_python_values(name: str) -> None:
    if name in VIEWS and not READS_VIEWS:
        pytest.skip("this pyarrow crashes")
    column, wanted = TYPES[name]
    assert values(open_source(Frame(table(v=column)))) == [{"v": wanted}]


@pytest.mark.parametrize("name", VIEWS)
def test_views_that_would_crash_the_process_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_tables, "READS_VIEWS", 999)
    with pytest.raises(SourceError, match=r"^the Frame has string views .*; give its to_arrow\(\), or"):
        values(open_source(Frame(table(v=TYPES[name][0]))))


def test_table_can_be_read_several_times_and_has_columns() -> None:
    source = open_source(Frame(table(email=["a@x", "b@x"], n=[1, 2])))
    assert (source.name, source.columns) == ("the Frame", ("email", "n"))
    wanted = [{"email": "a@x", "n": 1}, {"email": "b@x", "n": 2}]
    assert [values(source), values(source)] == [wanted, wanted]
    assert [row.number for row in source.rows()] == [1, 2]


def test_large_table_is_read_in_pieces() -> None:
    count = 2 * BATCH + 1
    assert [row.values["n"] for row in open_source(table(n=list(range(count)))).rows()] == list(range(count))


def test_null_words_in_tables() -> None:
    given = table(a=["x", "NULL"], s=[{"b": "NULL", "l": [["NULL"], ["y"]]}, None])
    source = open_source(given, options={"null_values": ["NULL"]})
    assert values(source) == [{"a": "x", "s": {"b": None, "l": [[None], ["y"]]}}, {"a": None, "s": None}]
    [row] = open_source([{"a": ("x", "NULL")}], options={"null_values": ["NULL"]}).rows()
    assert row.values == {"a": ["x", None]}


def test_null_words_in_values_that_are_nested_too_deeply() -> None:
    deep: Any = "NULL"
    for _ in range(10_000):
        deep = [deep]
    [row] = open_source([{"a": deep}], options={"null_values": ["NULL"]}).rows()
    assert row.problem is None


def test_columns_with_one_name_can_be_distinguished() -> None:
    source = open_source(pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"]))
    assert values(source) == [{"a (column 1)": 1, "a (column 2)": 2}]


def test_value_without_a_python_form_is_a_bad_row() -> None:
    column = pyarrow.array([[2**60]], pyarrow.list_(pyarrow.timestamp("s")))
    source: Any = open_source(table(when=column, n=[1]))
    [row] = source.rows()
    assert row.values == {"n": 1}
    assert row.problem is not None and row.problem.startswith("the Table, row 1: 'when' cannot become a Python value")
    assert source.is_malformed(1)


def test_stream_is_read_once_even_by_another_load(caplog: pytest.LogCaptureFixture) -> None:
    stream = table(n=[1, None], m=["-", "x"]).to_reader()
    source = ArrowSource(stream, null_values=["-"])
    assert source.columns == ("n", "m")
    assert values(source) == [{"n": 1, "m": None}, {"n": None, "m": "x"}]
    for again in (source, ArrowSource(stream)):
        with pytest.raises(SourceError, match="the RecordBatchReader can be read only once, and was read already"):
            values(again)
    assert caplog.messages == []


def test_empty_stream_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    half, all_ = (table(n=[1, 2]).to_reader(max_chunksize=1) for _ in range(2))
    half.read_next_batch()
    all_.read_all()
    assert values(ArrowSource(half)) == [{"n": 2}]
    assert values(ArrowSource(table(n=[]))) == []
    assert caplog.messages == []
    assert values(ArrowSource(all_)) == []
    assert caplog.messages == [
        "the RecordBatchReader has no rows. If something has read it before, give the load a new one."
    ]


def test_task_needs_a_table_that_can_be_read_again() -> None:
    with pytest.raises(
        SourceError, match=r"the RecordBatchReader can be read only once, but each try .* CrmHook.load_contacts"
    ):
        open_source(table(n=[1]).to_reader())


class Slotted:
    """A stream whose class does not support weak references."""

    __slots__ = ("_stream",)

    def __init__(self) -> None:
        self._stream = table(n=[1]).to_reader()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._stream.__arrow_c_stream__(requested_schema)

    def __iter__(self) -> Slotted:
        return self

    def __next__(self) -> Any:
        return next(self._stream)


def test_stream_that_cannot_be_remembered_is_read() -> None:
    assert values(ArrowSource(Slotted())) == [{"n": 1}]


class Again:
    """Returns a stream each time, but has no length: a query that runs again, or one that does not."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return table(n=[1]).__arrow_c_stream__(requested_schema)


def test_table_without_a_length_is_not_read_again() -> None:
    source = open_source(Again())
    assert values(source) == [{"n": 1}]
    with pytest.raises(SourceError, match="the Again can be read only once"):
        values(source)


class Mixed:
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pyarrow.array(["a", 1])


def test_table_that_arrow_cannot_read() -> None:
    with pytest.raises(SourceError, match=r"the Mixed cannot be read through Arrow \(Arrow\w+\); does a column have"):
        _ = open_source(Mixed()).columns


def test_too_long_value_is_named() -> None:
    with pytest.raises(SourceError, match="the Table, row 1 has over 8,388,608 bytes"):
        values(open_source(table(text=["x" * (9 << 20)])))


def test_table_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(parquet.importlib, "import_module", missing)
    with pytest.raises(SourceError, match="the Frame is read through pyarrow: pip install"):
        _ = open_source(Frame(None)).columns


# -- iterators ----------------------------------------------------------------------------------------------


def people() -> Iterator[Any]:
    yield {"email": "a@x", "name": "-"}
    yield "no mapping"


def test_generator_is_read_once() -> None:
    source = IteratorSource(people(), null_values=["-"])
    found = list(source.rows())
    assert [(row.number, dict(row.values)) for row in found] == [
        (1, {"email": "a@x", "name": None}),
        (2, {"__line__": "no mapping"}),
    ]
    assert [source.is_malformed(number) for number in (1, 2)] == [False, True]
    with pytest.raises(SourceError, match="the generator can be read only once, and was read already"):
        list(source.rows())


def test_used_generator_is_refused_at_once() -> None:
    for how_far in (1, 3):
        rows = people()
        for _ in zip(range(how_far), rows, strict=False):
            pass
        with pytest.raises(SourceError, match="make a new one for each load, or give a list"):
            IteratorSource(rows)


def test_any_iterator_is_a_source() -> None:
    source = IteratorSource(map(dict, [[("email", "a@x")]]))
    assert (source.name, source.columns, values(source)) == ("the map", None, [{"email": "a@x"}])


def test_task_needs_rows_that_can_be_read_again() -> None:
    with pytest.raises(SourceError, match=r"source is of type generator; .* go to CrmHook.load_contacts in a task"):
        open_source(people())
