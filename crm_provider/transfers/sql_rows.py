"""The rows of a query as the source of a load, streamed with a server-side cursor if the driver has one.

Memory use is bounded. A fetch is limited by its number of rows and, as estimated from earlier rows, by its bytes. A row
with too many bytes is rejected.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, TypeAlias

from crm_provider.load.rows import Row, RowLocations, SourceError, UnreadableValue
from crm_provider.transfers.sql_drivers import Driver, driver_of

FETCH_SIZE = 1000
"""Maximum rows of one fetch, which are held in memory."""

LARGEST_BATCH = 8 << 20
"""Maximum bytes of one fetch, as estimated from earlier rows; also the maximum of one row."""

GROWTH = 10
"""Growth of fetches: the first is a single row, each further one has at most this many times the rows of the last."""

FAILURES_IN_A_ROW = 100
"""Consecutive unreadable rows after which the query ends: a broken cursor repeats the same error forever."""

Batch: TypeAlias = "list[Any]"


class _RowProblem(str):
    """Why a row cannot be used, in place of the row."""

    __slots__ = ()


_TOO_LONG = _RowProblem(f"has over {LARGEST_BATCH:,} bytes; shorten its values, or leave columns out of the query")


class SqlRows:
    """The result of a query.

    The query runs once, when the columns or the rows are first read. Reading the rows again runs it again.

    :param connect: opens a connection (DB-API 2)
    :param sql: one query
    :param parameters: parameters of the query, in the driver's own style
    :param fetch_size: maximum rows of one fetch
    :raises SourceError: if ``sql`` has more than one statement
    """

    name = "the result of the query"

    _driver: Driver
    """Of the connection. It and the next two are set when the query is run."""
    _next_size: int
    _failed_in_a_row: int

    def __init__(
        self, connect: Callable[[], Any], sql: str, *, parameters: Any = None, fetch_size: int = FETCH_SIZE
    ) -> None:
        check_single(sql)
        self._connect, self._sql, self._parameters, self._fetch_size = connect, sql, parameters, fetch_size
        self._open = ExitStack()
        self._asked: tuple[Any, Batch] | None = None
        self._places = RowLocations()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns, in the order of the query.

        :raises SourceError: if the statement is not a query, or two columns have the same name
        """
        cursor, first = self._ask()
        self._asked = cursor, first
        if not cursor.description:
            raise SourceError("sql: the statement returns no rows; give one query (SELECT ...)")
        names = tuple(str(column[0]) for column in cursor.description)
        twice = [repr(name) for name, count in Counter(names).items() if count > 1]
        if twice:
            raise SourceError(f"sql: several columns of the query are named {', '.join(twice)}; name them with AS")
        return names

    def rows(self) -> Iterator[Row]:
        """All rows, numbered from 1.

        :raises SourceError: if the database cannot compute the query for one of its rows
        """
        columns = self.columns
        cursor, batch = self._asked or self._ask()
        self._asked, self._places = None, RowLocations()
        try:
            for number, values in enumerate(self._fetched(cursor, batch), 1):
                problem = f"row {number} of the query {values}" if isinstance(values, _RowProblem) else None
                self._places.note(0, problem)
                yield Row(number, {} if problem else _named(columns, values), problem)
        finally:
            self.close()

    def is_malformed(self, number: int) -> bool:
        """Whether a row that :meth:`rows` gave could not be read."""
        return self._places.is_malformed(number)

    def _fetched(self, cursor: Any, batch: Batch) -> Iterator[Any]:
        """The rows of a cursor; a row that cannot be used is replaced by the reason."""
        while batch:
            yield from batch
            batch.clear()  # before the next ones come
            batch = self._next_batch(cursor)

    def _next_batch(self, cursor: Any) -> Batch:
        """The next rows: fetched one by one if that costs nothing, because an unreadable row would lose its batch."""
        with _without_values():
            if self._driver.one_by_one:
                return self._one_by_one(cursor)
            sized = [(row, size_of(row)) for row in cursor.fetchmany(self._next_size)]
        fitting = LARGEST_BATCH // max([1, *(size for _, size in sized)])
        self._next_size = max(1, min(self._fetch_size, self._next_size * GROWTH, fitting))
        return [row if size <= LARGEST_BATCH else _TOO_LONG for row, size in sized]

    def _one_by_one(self, cursor: Any) -> Batch:
        """Rows until their number or their bytes are enough."""
        batch: Batch = []
        free = LARGEST_BATCH
        while len(batch) < self._fetch_size and free > 0 and (row := self._next_row(cursor)) is not None:
            size = size_of(row)
            batch.append(row if size <= LARGEST_BATCH else _TOO_LONG)
            free -= size
        return batch

    def _next_row(self, cursor: Any) -> Any:
        """The next row, or why it cannot be used; None after the last one.

        :raises Exception: the driver's, if it is not about a row, or too many consecutive rows fail
        """
        try:
            row = cursor.fetchone()
        except (ValueError, OverflowError) as wrong:  # includes UnicodeDecodeError, but not errors of the server
            self._failed_in_a_row += 1
            if self._failed_in_a_row > FAILURES_IN_A_ROW:
                raise
            return _not_held(wrong)
        self._failed_in_a_row = 0
        return row

    def close(self) -> None:
        """Close cursor and connection."""
        self._open.close()

    def _ask(self) -> tuple[Any, list[Any]]:
        """Run the query.

        :return: the cursor and the first rows: some server-side cursors know their columns only after these
        """
        self.close()
        connection = self._connect()
        with ExitStack() as opening:  # closes everything if the query fails
            opening.callback(connection.close)
            self._driver = driver_of(connection)
            cursor = self._driver.cursor(connection)
            opening.pop_all()  # instead of the connection alone:
            opening.callback(self._driver.close, connection, cursor)
            with _without_values():
                cursor.execute(*([self._sql, self._parameters] if self._parameters else [self._sql]))
            self._next_size, self._failed_in_a_row = 1, 0
            first = self._next_batch(cursor) if _may_have_rows(cursor) else []
            self._open = opening.pop_all()
        return cursor, first


# -- helpers ------------------------------------------------------------------------------------------------


def check_single(sql: str) -> None:
    """Refuse several statements: only the first would be read, and the others might do harm.

    Databases do not agree on whether a backslash in a text hides the quote behind it, and MySQL runs what is in
    ``/*! ... */``: the text must be one statement by both readings.

    :raises SourceError: if there is more than one
    """
    most = max(map(_statements, {sql, sql.replace("\\", "/"), re.sub(r"/\*M?!", "", sql)}))
    if most > 1:
        raise SourceError(f"sql has {most} statements; give one query, with ';' only at its end")


def _statements(sql: str) -> int:
    sqlparse = importlib.import_module("sqlparse")  # late: DAG files import this module
    parts = sqlparse.split(sql)
    return sum(bool(sqlparse.format(part, strip_comments=True).strip(" ;\r\n\t")) for part in parts)


def size_of(value: Any) -> int:
    """Bytes of the long values of a row, at any depth: text, bytes and placeholders for them."""
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return len(value)
    if isinstance(value, UnreadableValue):
        return len(value.text)
    if isinstance(value, Mapping):
        return sum(size_of(name) + size_of(item) for name, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(map(size_of, value))
    return 8


def _named(columns: tuple[str, ...], values: Any) -> dict[str, Any]:
    """A row by its columns; the cursor class of a connection may already have named its values."""
    if isinstance(values, Mapping):
        return {name: values[name] for name in columns}
    return dict(zip(columns, values, strict=True))


def _not_held(wrong: Exception) -> _RowProblem:
    return _RowProblem(
        f"has a value that the database's driver cannot hold; cast it to text in the query ({type(wrong).__name__})"
    )


@contextmanager
def _without_values() -> Iterator[None]:
    """Replace an error about a value, whose text shows the value.

    :raises SourceError: naming the kind of error
    """
    try:
        yield
    except Exception as error:
        number = next((arg for arg in error.args[:1] if isinstance(arg, int)), None)
        if number not in _MYSQL_VALUE_ERRORS and not any(cls.__name__ == "DataError" for cls in type(error).__mro__):
            raise
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or number
        raise SourceError(
            f"sql: the database cannot compute the query for a value ({type(error).__name__}"
            f"{f' {code}' if code else ''}); correct the value, or the query. The database's own message shows the "
            "value and is left out: run the query in a database client to see it"
        ) from None


_MYSQL_VALUE_ERRORS = frozenset({1264, 1292, 1365, 1366, 1406, 1411, 1690})
"""Numbers of errors of MySQL whose text may show a value; two of its drivers call some of them operational."""


def _may_have_rows(cursor: Any) -> bool:
    """Whether rows may be fetched: a named cursor has no columns before; other cursors without columns have no rows."""
    return bool(cursor.description) or bool(getattr(cursor, "name", None))
