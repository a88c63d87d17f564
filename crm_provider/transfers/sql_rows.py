"""The rows of a query as the source of a load, streamed with a server-side cursor if the driver has one.

It also hides what differs between database drivers, so that values are exact and the same with each of them. By
default psycopg 2 reads ``infinity`` as 9999-12-31 and ``24:00`` as 00:00, psycopg 3 ends the query there, both read
``jsonb`` through floats, and one returns ``inet`` as text, the other as an object.
"""

from __future__ import annotations

import importlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeAlias

from crm_provider.load.rows import Row, RowLocations, SourceError, Unreadable

CURSOR_NAME = "crm_load"


def streaming_cursor(connection: Any) -> Any:
    """A cursor that does not fetch the whole result at once.

    From then on the connection reads exact values, as far as its driver allows it.
    """
    driver = next((name for name in drivers_of(connection) if name in _CURSORS), None)
    return connection.cursor() if driver is None else _CURSORS[driver](connection)


def drivers_of(connection: Any) -> list[str]:
    """The top-level modules of a connection's class and of its base classes."""
    return [cls.__module__.partition(".")[0] for cls in type(connection).__mro__]


def exact_json(text: str | bytes) -> Any:
    """JSON whose numbers keep their digits: a ``Decimal`` where a float would lose some."""
    return json.loads(text, parse_float=_exact_number)


# -- psycopg 2 ------------------------------------------------------------------------------------------------


def psycopg2_types() -> list[Any]:
    """Types that return :class:`Unreadable` for what Python cannot hold, and lists for arrays of ids and addresses."""
    extensions = importlib.import_module("psycopg2.extensions")
    names = ("PYDATE", "PYDATETIME", "PYDATETIMETZ", "PYTIME", "PYINTERVAL")
    originals = [getattr(extensions, name) for name in names]
    times = [extensions.new_type(kind.values, kind.name, _lenient(kind)) for kind in originals]
    arrays = [extensions.new_array_type(_ARRAYS[made.name], f"{made.name}ARRAY", made) for made in times]
    inet_and_uuid_arrays = (1041, 651, 2951)
    return [*times, *arrays, extensions.new_array_type(inet_and_uuid_arrays, "TEXTS", extensions.UNICODE)]


_ARRAYS = {
    "PYDATE": (1182,), "PYDATETIME": (1115,), "PYDATETIMETZ": (1185,), "PYTIME": (1183, 1270), "PYINTERVAL": (1187,),
}  # fmt: skip
"""Type numbers of PostgreSQL's arrays of each type."""


def _lenient(original: Any) -> Callable[[str | None, Any], Any]:
    def read(text: str | None, cursor: Any) -> Any:
        if text is None:
            return None
        if "infinity" in text or text.startswith("24:"):
            return Unreadable(text)
        try:
            return original(text, cursor)
        except (ValueError, OverflowError):
            return Unreadable(text)

    return read


def teach_psycopg2(connection: Any) -> None:
    """Have a connection read with :func:`psycopg2_types` and :func:`exact_json`."""
    extensions, extras = (importlib.import_module(f"psycopg2.{name}") for name in ("extensions", "extras"))
    for kind in psycopg2_types():
        extensions.register_type(kind, connection)
    extras.register_default_json(connection, loads=exact_json)
    extras.register_default_jsonb(connection, loads=exact_json)


def _psycopg2_cursor(connection: Any) -> Any:
    teach_psycopg2(connection)
    return connection.cursor(name=CURSOR_NAME)


# -- psycopg 3 ------------------------------------------------------------------------------------------------


def teach_psycopg(context: Any) -> None:
    """Have psycopg 3 return :class:`Unreadable` for values that Python cannot hold, and text for ``inet``.

    :param context: with ``adapters``: the connection
    """
    times, texts, jsons, psycopg = (
        importlib.import_module(name)
        for name in ("psycopg.types.datetime", "psycopg.types.string", "psycopg.types.json", "psycopg")
    )
    loaders = {
        "date": times.DateLoader, "timestamp": times.TimestampLoader, "timestamptz": times.TimestamptzLoader,
        "time": times.TimeLoader, "timetz": times.TimetzLoader, "interval": times.IntervalLoader,
    }  # fmt: skip
    for name, base in loaders.items():
        context.adapters.register_loader(name, _lenient_loader(base, psycopg.DataError))
    for name in ("inet", "cidr"):
        context.adapters.register_loader(name, texts.TextLoader)
    jsons.set_json_loads(exact_json, context)


def _lenient_loader(base: Any, data_error: type[Exception]) -> Any:
    class Lenient(base):  # type: ignore[misc]  # the driver need not be installed
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except (data_error, ValueError, OverflowError):
                return Unreadable(bytes(data).decode(errors="replace"))

    return Lenient


def _psycopg_cursor(connection: Any) -> Any:
    teach_psycopg(connection)
    return connection.cursor(name=CURSOR_NAME)


# -- others -------------------------------------------------------------------------------------------------


def _sqlite_cursor(connection: Any) -> Any:
    if getattr(connection, "text_factory", None) is str:  # which ends the query at bytes that are no UTF-8
        connection.text_factory = _text_or_unreadable
    return connection.cursor()


def _text_or_unreadable(data: bytes) -> str | Unreadable:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Unreadable(data.decode(errors="replace"))


def _unbuffered(driver: str) -> Callable[[Any], Any]:
    def cursor(connection: Any) -> Any:
        return connection.cursor(importlib.import_module(f"{driver}.cursors").SSCursor)

    return cursor


_CURSORS: Mapping[str, Callable[[Any], Any]] = {
    "psycopg2": _psycopg2_cursor,
    "psycopg": _psycopg_cursor,
    "sqlite3": _sqlite_cursor,
    "MySQLdb": _unbuffered("MySQLdb"),
    "pymysql": _unbuffered("pymysql"),
}
"""Drivers whose default cursor reads the whole result at once, or ends at a value that it cannot hold."""


# -- helpers ------------------------------------------------------------------------------------------------


def _exact_number(written: str) -> float | Decimal:
    value = float(written)
    exact = Decimal(written)
    return value if math.isfinite(value) and Decimal(repr(value)) == exact else exact


FETCH_SIZE = 1000
"""Rows that are fetched at once and held in memory."""

FAILURES_IN_A_ROW = 100
"""Consecutive unreadable rows after which the query ends: a broken cursor repeats the same error for ever."""

Batch: TypeAlias = "list[Any]"

_NOT_HELD = "has a value that the database's driver cannot hold; cast it to text in the query"

_ONE_BY_ONE = frozenset({"sqlite3", "MySQLdb", "pymysql"})
"""Drivers whose cursors return rows one by one anyway. Those of PostgreSQL have types for values that Python cannot
hold; of others the cost of a single row is unknown."""


class _Failed(str):
    """The name of a driver's error, in place of a row."""

    __slots__ = ()


class SqlRows:
    """The result of a query.

    The query runs once, when the columns or the rows are first read. Reading the rows again runs it again.

    :param connect: opens a connection (DB-API 2)
    :param sql: one query
    :param parameters: of the query, in the driver's own style
    :param fetch_size: rows that are fetched at once
    :raises SourceError: if it is more than one statement
    """

    name = "the result of the query"

    def __init__(
        self, connect: Callable[[], Any], sql: str, *, parameters: Any = None, fetch_size: int = FETCH_SIZE
    ) -> None:
        check_single(sql)
        self._connect, self._sql, self._parameters, self._fetch_size = connect, sql, parameters, fetch_size
        self._open = ExitStack()
        self._asked: tuple[Any, Batch] | None = None
        self._one_by_one, self._failed_in_a_row = False, 0
        self._places = RowLocations()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns, in the order of the query.

        :raises SourceError: if the statement is not a query, or two columns have the same name
        """
        cursor, first = self._ask()
        self._asked = cursor, first
        if not cursor.description:
            raise SourceError("sql: the statement gives no rows; give one query (SELECT ...)")
        names = tuple(str(column[0]) for column in cursor.description)
        twice = [repr(name) for name, count in Counter(names).items() if count > 1]
        if twice:
            raise SourceError(f"sql: several columns of the query are called {', '.join(twice)}; name them with AS")
        return names

    def rows(self) -> Iterator[Row]:
        """All rows, numbered from 1."""
        columns = self.columns
        cursor, batch = self._asked or self._ask()
        self._asked, self._places = None, RowLocations()
        try:
            for number, values in enumerate(self._fetched(cursor, batch), 1):
                problem = (
                    None if not isinstance(values, _Failed) else f"row {number} of the query {_NOT_HELD} ({values})"
                )
                self._places.note(0, problem)
                yield Row(number, {} if problem else dict(zip(columns, values, strict=True)), problem)
        finally:
            self.close()

    def is_malformed(self, number: int) -> bool:
        """Whether a row that :meth:`rows` gave could not be read."""
        return self._places.is_malformed(number)

    def _fetched(self, cursor: Any, batch: Batch) -> Iterator[Any]:
        """The rows of a cursor; an unreadable row is replaced by the name of the driver's error."""
        while batch:
            yield from batch
            batch = self._next_batch(cursor)

    def _next_batch(self, cursor: Any) -> Batch:
        """The next rows: fetched one by one if that costs nothing, because one unreadable row would lose the batch.

        :raises Exception: the driver's, if it is not about a row, or too many consecutive rows fail
        """
        if not self._one_by_one:
            return list(cursor.fetchmany(self._fetch_size))
        batch: Batch = []
        while len(batch) < self._fetch_size:
            try:
                row = cursor.fetchone()
            except Exception as wrong:
                self._failed_in_a_row += 1
                if not _is_of_one_row(wrong) or self._failed_in_a_row > FAILURES_IN_A_ROW:
                    raise
                batch.append(_Failed(type(wrong).__name__))
                continue
            if row is None:
                break
            self._failed_in_a_row = 0
            batch.append(row)
        return batch

    def close(self) -> None:
        """Close cursor and connection."""
        self._open.close()

    def _ask(self) -> tuple[Any, list[Any]]:
        """Run the query.

        :return: the cursor and the first rows: some cursors of a server know their columns only after these
        """
        self.close()
        with ExitStack() as opening:  # closes everything if the query fails
            connection = opening.enter_context(closing(self._connect()))
            cursor = opening.enter_context(closing(streaming_cursor(connection)))
            cursor.arraysize = self._fetch_size
            cursor.execute(*([self._sql, self._parameters] if self._parameters else [self._sql]))
            self._one_by_one = any(name in _ONE_BY_ONE for name in drivers_of(connection))
            self._failed_in_a_row = 0
            first = self._next_batch(cursor) if _may_have_rows(cursor) else []
            self._open = opening.pop_all()
        return cursor, first


# -- helpers ------------------------------------------------------------------------------------------------


def check_single(sql: str) -> None:
    """Refuse several statements: only the first would be read, and the others might do harm.

    :raises SourceError: if there is more than one
    """
    sqlparse = importlib.import_module("sqlparse")  # late: DAG files import this module; Airflow brings the library
    statements = [part for part in sqlparse.split(sql) if sqlparse.format(part, strip_comments=True).strip(" ;\r\n\t")]
    if len(statements) > 1:
        raise SourceError(f"sql has {len(statements)} statements; give one query, without a ';' in it but at its end")


def _is_of_one_row(wrong: Exception) -> bool:
    """Whether an error of a fetch is about a value of one row."""
    is_of_value = isinstance(wrong, (ValueError, OverflowError))  # also UnicodeDecodeError
    return is_of_value or any(cls.__name__ == "DataError" for cls in type(wrong).__mro__)


def _may_have_rows(cursor: Any) -> bool:
    """Whether rows may be fetched: a named cursor knows no columns before, and other cursors have no rows without."""
    return bool(cursor.description) or bool(getattr(cursor, "name", None))
