"""Database values: exact, equal in each driver version, and a bad value is a problem of its row only."""

from __future__ import annotations

import datetime
import json
import pickle
import sqlite3
import sys
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq import Format

from crm_provider.load.mapping.mapper import Mapper
from crm_provider.load.options import ContactOptions
from crm_provider.load.preflight import check
from crm_provider.load.rejects.formats import JsonLines, Reject
from crm_provider.load.rows import InvalidRow, Row, SourceError, UnreadableValue
from crm_provider.load.state.temp_tables import RowStatus
from crm_provider.transfers.sql_drivers import (
    exact_json,
    mysql_bits,
    mysql_date,
    mysql_datetime,
    psycopg2_types,
    teach_psycopg,
)
from crm_provider.transfers.sql_rows import FAILURES_IN_A_ROW, LARGEST_BATCH, SqlRows, check_single, size_of

OIDS = {
    "date": 1082, "timestamp": 1114, "timestamptz": 1184, "time": 1083, "timetz": 1266, "interval": 1186, "inet": 869,
    "cidr": 650, "json": 114, "jsonb": 3802, "inet[]": 1041, "cidr[]": 651, "date[]": 1182,
}  # fmt: skip


def read_by_psycopg2(kind: str, text: str) -> Any:
    (read,) = [made for made in psycopg2_types() if OIDS[kind] in made.values]
    return read(text, None)


def read_by_psycopg(kind: str, text: str) -> Any:
    context = SimpleNamespace(adapters=AdaptersMap(psycopg.adapters), connection=None)
    teach_psycopg(context)
    return Transformer(context).get_loader(OIDS[kind], Format.TEXT).load(text.encode())  # type: ignore[arg-type]


DRIVERS = {"psycopg2": read_by_psycopg2, "psycopg": read_by_psycopg}

NOT_HELD = [
    ("date", "infinity"), ("date", "-infinity"), ("date", "0044-03-15 BC"), ("date", "10000-01-01"),
    ("timestamp", "infinity"), ("timestamp", "0044-03-15 00:00:00 BC"), ("timestamp", "20000-01-02 03:04:05"),
    ("time", "24:00:00"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), NOT_HELD)
@pytest.mark.parametrize("driver", DRIVERS)
def test_value_beyond_python_ends_no_query(driver: str, kind: str, text: str) -> None:
    assert DRIVERS[driver](kind, text) == UnreadableValue(text)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("date", "2024-02-29", datetime.date(2024, 2, 29)),
        ("date", "9999-12-31", datetime.date(9999, 12, 31)),
        ("timestamp", "2024-02-29 01:02:03.5", datetime.datetime(2024, 2, 29, 1, 2, 3, 500000)),  # noqa: DTZ001
        ("time", "23:59:59", datetime.time(23, 59, 59)),
        ("time", "00:00:00", datetime.time(0, 0)),
    ],
)
@pytest.mark.parametrize("driver", DRIVERS)
def test_ordinary_times_are_unchanged(driver: str, kind: str, text: str, value: Any) -> None:
    assert DRIVERS[driver](kind, text) == value


def test_null_stays_a_null() -> None:
    (read,) = [made for made in psycopg2_types() if OIDS["date"] in made.values]
    assert read(None, None) is None


@pytest.mark.parametrize(("kind", "text"), [("inet", "10.0.0.1"), ("cidr", "10.0.0.0/8")])
def test_addresses_are_text(kind: str, text: str) -> None:
    """The other driver returns text by default."""
    assert read_by_psycopg(kind, text) == text


@pytest.mark.parametrize("driver", DRIVERS)
def test_value_beyond_python_within_an_array(driver: str) -> None:
    assert DRIVERS[driver]("date[]", "{2024-02-29,infinity,NULL}") == [
        datetime.date(2024, 2, 29), UnreadableValue("infinity"), None,
    ]  # fmt: skip


def test_arrays_of_addresses_are_lists() -> None:
    assert read_by_psycopg("inet[]", "{10.0.0.1,::1}") == ["10.0.0.1", "::1"]
    assert read_by_psycopg2("inet[]", "{10.0.0.1,::1}") == ["10.0.0.1", "::1"]


JSON = '{"a": 12345678901234567.89, "b": 0.1, "c": 12345678901234567, "d": [1e-400, 1.50, 1e2]}'


def test_json_digits_are_kept() -> None:
    expected = {
        "a": Decimal("12345678901234567.89"), "b": 0.1, "c": 12345678901234567, "d": [Decimal("1e-400"), 1.5, 100.0],
    }  # fmt: skip
    for found in (exact_json(JSON), read_by_psycopg("jsonb", JSON), read_by_psycopg("json", JSON)):
        assert found == expected
    mapped = Mapper()(Row(1, {"email": "a@ex.co", "data": exact_json('{"a": 12345678901234567.89, "b": 0.1}')}))
    assert json.dumps(mapped.attributes) == '{"data": {"a": "12345678901234567.89", "b": 0.1}}'


# -- an unreadable value is a problem of its row -------


def test_only_a_row_that_sends_the_value_is_rejected() -> None:
    values = {"email": "a@ex.co", "born": UnreadableValue("0044-03-15 BC"), "name": "Ana"}
    assert Mapper({"email": "email", "name": "name"})(Row(1, values)).attributes == {"name": "Ana"}
    with pytest.raises(
        InvalidRow, match="born: a value that Python cannot hold; correct it, or cast it to text"
    ) as bad:
        Mapper()(Row(1, values))
    assert "0044" not in str(bad.value)
    assert "0044" not in repr(values)
    assert pickle.loads(pickle.dumps(values)) == values
    assert '"born": "0044-03-15 BC"' in JsonLines().line(Reject(1, values, "T", "M"))


def test_sqlite_continues_after_invalid_text() -> None:
    sql = "SELECT 'a@ex.co' AS email, CAST(x'ff' AS TEXT) AS name, 1 AS n UNION ALL SELECT 'b@ex.co', 'B', 2"
    rows = SqlRows(lambda: sqlite3.connect(":memory:"), sql).rows()
    assert [dict(row.values) for row in rows] == [
        {"email": "a@ex.co", "name": UnreadableValue("\ufffd"), "n": 1}, {"email": "b@ex.co", "name": "B", "n": 2},
    ]  # fmt: skip


class DataError(Exception):
    """Named as in the drivers."""


class Cursor:
    """A connection and its cursor, which returns rows or errors one after another."""

    __module__ = "pymysql.cursors"
    decoders: ClassVar[dict[int, Any]] = {}
    description = (("email",), ("since",))
    arraysize = 1

    def __init__(self, given: list[Any]) -> None:
        self.given = given

    def cursor(self, kind: Any) -> Cursor:
        return self

    def execute(self, sql: str) -> None: ...

    def close(self) -> None: ...

    def fetchone(self) -> Any:
        found = self.given.pop(0) if self.given else None
        if isinstance(found, Exception):
            raise found
        return found


@pytest.mark.parametrize("error", [ValueError("secret"), OverflowError("secret")])
@pytest.mark.parametrize("fetch_size", [1, 2, 10])
def test_row_that_the_driver_cannot_read_is_a_reject_with_its_number(
    error: Exception, fetch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pymysql", "pymysql.cursors"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(SSCursor=object))  # type: ignore[arg-type]
    given = [("a@ex.co", 2020), error, ("c@ex.co", 2022)]
    source = SqlRows(lambda: Cursor(list(given)), "SELECT email, since FROM leads", fetch_size=fetch_size)
    found = list(source.rows())
    assert [(row.number, dict(row.values)) for row in found] == [
        (1, {"email": "a@ex.co", "since": 2020}), (2, {}), (3, {"email": "c@ex.co", "since": 2022}),
    ]  # fmt: skip
    assert found[1].problem == (
        "row 2 of the query has a value that the database's driver cannot hold; cast it to text in the query "
        f"({type(error).__name__})"
    )
    assert [source.is_malformed(number) for number in (1, 2, 3)] == [False, True, False]
    checked = check(source, Mapper(), ContactOptions())
    counts = checked.counts
    assert (checked.rows, counts[RowStatus.SEND], counts[RowStatus.INVALID]) == (3, 2, 1)
    checked.staged.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [(DataError("secret"), "DataError"), (sqlite3.OperationalError(1690, "secret"), "OperationalError 1690")],
)
def test_server_error_about_a_value_ends_the_query(
    error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it the driver would report the end of the rows."""
    for name in ("pymysql", "pymysql.cursors"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(SSCursor=object))  # type: ignore[arg-type]
    rows = SqlRows(lambda: Cursor([("a@ex.co", 2020), error]), "SELECT email, since FROM leads", fetch_size=1).rows()
    next(rows)
    with pytest.raises(SourceError, match=rf"\({kind}\)") as reported:
        next(rows)
    assert "secret" not in str(reported.value)
    assert reported.value.__suppress_context__


class Broken:
    """A cursor that repeats the same error forever."""

    __module__ = "sqlite3"
    description = (("email",),)
    arraysize = 1

    def __init__(self, error: Exception) -> None:
        self.error, self.asked = error, 0

    def cursor(self) -> Broken:
        return self

    def execute(self, sql: str) -> None: ...

    def close(self) -> None: ...

    def fetchone(self) -> Any:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "asked"), [(ValueError("secret"), FAILURES_IN_A_ROW + 1), (sqlite3.OperationalError("disk I/O error"), 1)]
)
def test_broken_cursor_ends_the_query(error: Exception, asked: int) -> None:
    cursor = Broken(error)
    with pytest.raises(type(error)):
        list(SqlRows(lambda: cursor, "SELECT email FROM leads").rows())
    assert cursor.asked == asked


def pymysql_rows(given: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the rows that are read."""
    for name in ("pymysql", "pymysql.cursors"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(SSCursor=object))  # type: ignore[arg-type]
    return [row.number for row in SqlRows(lambda: Cursor(given), "SELECT email, since FROM leads").rows()]


def test_a_row_that_can_be_read_begins_the_count_of_failures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    row, failed = ("a@ex.co", 2020), [ValueError("secret")] * FAILURES_IN_A_ROW
    assert pymysql_rows([row, *failed, row, *failed, row], monkeypatch) == list(range(1, 204))
    with pytest.raises(ValueError, match="secret"):
        pymysql_rows([row, *failed, ValueError("secret"), row], monkeypatch)


def test_a_row_with_too_few_values_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="shorter"):
        pymysql_rows([("a@ex.co",)], monkeypatch)


def test_parameters_are_given_to_the_driver() -> None:
    [row] = SqlRows(lambda: sqlite3.connect(":memory:"), "SELECT ? AS a", parameters=(7,)).rows()
    assert row.values == {"a": 7}


class NoRows:
    """A connection and its cursor after a statement that is no query."""

    description = None
    arraysize = 1

    def cursor(self) -> NoRows:
        return self

    def execute(self, sql: str) -> None: ...

    def close(self) -> None: ...

    def fetchmany(self, size: int) -> list[Any]:
        raise AssertionError("many drivers raise an error here")


def test_a_statement_that_is_no_query() -> None:
    with pytest.raises(SourceError, match="the statement returns no rows; give one query"):
        _ = SqlRows(NoRows, "DELETE FROM leads").columns


class NamedCursor(NoRows):
    """A cursor of the server, which knows its columns after it has fetched."""

    name = "crm_load"

    def fetchmany(self, size: int) -> list[Any]:
        first = self.description is None
        self.description = (("a",),)  # type: ignore[assignment]
        return [(7,)] if first else []


def test_a_named_cursor_knows_its_columns_after_the_first_rows() -> None:
    assert [row.values for row in SqlRows(NamedCursor, "SELECT 7 AS a").rows()] == [{"a": 7}]


# -- memory


class Fetched:
    """A connection and cursor of a driver that fetches rows in batches. It records the batch sizes."""

    description = (("name",),)
    arraysize = 1

    def __init__(self, *lengths: int) -> None:
        self.lengths, self.asked = list(lengths), list[int]()

    def cursor(self) -> Fetched:
        return self

    def execute(self, sql: str) -> None: ...

    def close(self) -> None: ...

    def fetchmany(self, size: int) -> list[tuple[str]]:
        self.asked.append(size)
        given, self.lengths = self.lengths[:size], self.lengths[size:]
        return [("x" * length,) for length in given]


def test_long_rows_are_fetched_in_small_batches() -> None:
    cursor = Fetched(*[10] * 31, *[LARGEST_BATCH // 4] * 26, LARGEST_BATCH + 1, LARGEST_BATCH)
    problems = {row.number: row.problem for row in SqlRows(lambda: cursor, "SELECT 1 AS name", fetch_size=20).rows()}
    assert cursor.asked == [1, 10, 20, 20, 4, 4, 1]
    assert [number for number, problem in problems.items() if problem] == [58]
    assert "row 58 of the query has over 8,388,608 bytes" in str(problems[58])


class FetchedOneByOne(Fetched):
    """Of a driver that fetches a row at a time."""

    __module__ = "sqlite3"
    asked_for = 0

    def fetchone(self) -> tuple[str] | None:
        self.asked_for += 1
        return ("x" * self.lengths.pop(0),) if self.lengths else None


def test_rows_that_come_one_by_one_are_held_until_their_bytes_are_enough() -> None:
    half = LARGEST_BATCH // 2
    cursor = FetchedOneByOne(half, half, LARGEST_BATCH - 1, 1, LARGEST_BATCH, LARGEST_BATCH + 1, 10, 10)
    rows = SqlRows(lambda: cursor, "SELECT 1 AS name").rows()
    found = [(cursor.asked_for, row.problem is not None) for row in rows]
    assert found == [
        (2, False), (2, False), (4, False), (4, False), (5, False), (6, True), (9, False), (9, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("abc", 3),
        (b"abc", 3),
        (memoryview(b"ab"), 2),
        (UnreadableValue("infinity"), 8),
        (("ab", ["c", {"de": "f"}]), 6),
        (None, 8),
        (7, 8),
    ],
)
def test_size_of_a_value(value: Any, size: int) -> None:
    assert size_of(value) == size


# -- MySQL


@pytest.mark.parametrize(
    ("read", "written", "value"),
    [
        (mysql_date, "2024-02-29", datetime.date(2024, 2, 29)),
        (mysql_date, b"0000-00-00", UnreadableValue("0000-00-00")),
        (mysql_date, "2024-00-00", UnreadableValue("2024-00-00")),
        (mysql_datetime, b"2024-02-29 01:02:03", datetime.datetime(2024, 2, 29, 1, 2, 3)),  # noqa: DTZ001
        (mysql_datetime, "2024-02-29 01:02:03.5", datetime.datetime(2024, 2, 29, 1, 2, 3, 500000)),  # noqa: DTZ001
        (mysql_datetime, "0000-00-00 00:00:00", UnreadableValue("0000-00-00 00:00:00")),
        (mysql_bits, b"\x02\x01", 513),
    ],
)
def test_mysql_values(read: Any, written: Any, value: Any) -> None:
    assert read(written) == value


def test_json_that_python_cannot_read_is_unreadable() -> None:
    digits = "9" * 5000
    assert read_by_psycopg("jsonb", digits) == UnreadableValue(digits)
    assert read_by_psycopg("json", "[1e999999999999999999999]") == UnreadableValue("[1e999999999999999999999]")


def test_rows_that_are_mappings_already() -> None:
    def by_name(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> dict[str, Any]:
        return {column[0]: value for column, value in zip(cursor.description, values, strict=True)}

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:")
        connection.row_factory = by_name
        return connection

    assert [row.values for row in SqlRows(connect, "SELECT 1 AS a, 2 AS b").rows()] == [{"a": 1, "b": 2}]


# -- a single statement --


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 1;",
        "SELECT ';' AS a, \"b;c\" FROM t -- ; no statement\n;",
        "/* a; b */ SELECT 1 /* ; */ ;\n-- the end;\n",
        "WITH n AS (SELECT 1) SELECT * FROM n;;",
        "SELECT $$;$$",
    ],
)
def test_single_statement_is_accepted(sql: str) -> None:
    check_single(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1;DELETE FROM t;",
        "SELECT ';' ; /* a */ DROP TABLE t",
        "SET x = 1; SELECT 1",
        r"SELECT '\'; DROP TABLE t; -- '",
        "SELECT 1 /*!50000 ; DROP TABLE t */",
        "SELECT 1 /*M!100000 ; DROP TABLE t */",
        "SELECT 1; X",
    ],
)
def test_second_statement_is_refused_before_the_first_runs(sql: str) -> None:
    def connect() -> Any:
        raise AssertionError("no connection is opened")

    with pytest.raises(SourceError, match="sql has 2 statements; give one query"):
        SqlRows(connect, sql)
