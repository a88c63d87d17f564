"""The rows of a query as the source of a load: streamed, with a cursor of the server where the driver has one."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import cached_property
from typing import Any

from crm_provider.load.rows import Row, SourceError

FETCH_SIZE = 1000
"""Rows that are fetched at once: what is kept in memory."""

CURSOR_NAME = "crm_load"


class SqlRows:
    """What a query gives.

    It is asked once, by whichever comes first: the columns or the rows. Reading the rows again asks it again.

    :param connect: opens a connection (DB-API 2)
    :param sql: one query
    :param parameters: of the query, in the driver's own style
    :param fetch_size: rows that are fetched at once
    """

    name = "the result of the query"

    def __init__(
        self, connect: Callable[[], Any], sql: str, *, parameters: Any = None, fetch_size: int = FETCH_SIZE
    ) -> None:
        self._connect, self._sql, self._parameters, self._fetch_size = connect, sql, parameters, fetch_size
        self._open = ExitStack()
        self._asked: tuple[Any, list[Any]] | None = None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns, in the order of the query.

        :raises SourceError: if the query gives no rows at all, or two columns have the same name
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
        columns, number = self.columns, 0
        cursor, batch = self._asked or self._ask()
        self._asked = None
        try:
            while batch:
                for number, values in enumerate(batch, number + 1):  # noqa: B020
                    yield Row(number, dict(zip(columns, values, strict=True)))
                batch = cursor.fetchmany(self._fetch_size)
        finally:
            self.close()

    def close(self) -> None:
        """Close cursor and connection."""
        self._open.close()

    def _ask(self) -> tuple[Any, list[Any]]:
        """Run the query.

        :return: the cursor and the first rows: some cursors of a server know their columns only after these
        """
        self.close()
        with ExitStack() as opening:  # closes what is open if the query fails
            connection = opening.enter_context(closing(self._connect()))
            cursor = opening.enter_context(closing(streaming_cursor(connection)))
            cursor.arraysize = self._fetch_size
            cursor.execute(*([self._sql, self._parameters] if self._parameters else [self._sql]))
            first = cursor.fetchmany(self._fetch_size) if _may_have_rows(cursor) else []
            self._open = opening.pop_all()
        return cursor, list(first)


def streaming_cursor(connection: Any) -> Any:
    """A cursor that does not fetch the whole result at once, as the driver makes it."""
    driver = next((name for name in _drivers(connection) if name in _CURSORS), None)
    return connection.cursor() if driver is None else _CURSORS[driver](connection)


# -- helpers ------------------------------------------------------------------------------------------------


def _named(connection: Any) -> Any:
    return connection.cursor(name=CURSOR_NAME)


def _unbuffered(driver: str) -> Callable[[Any], Any]:
    def cursor(connection: Any) -> Any:
        return connection.cursor(importlib.import_module(f"{driver}.cursors").SSCursor)

    return cursor


_CURSORS: Mapping[str, Callable[[Any], Any]] = {
    "psycopg2": _named,
    "psycopg": _named,
    "MySQLdb": _unbuffered("MySQLdb"),
    "pymysql": _unbuffered("pymysql"),
}
"""Drivers whose ordinary cursor takes in the whole result when the query is run."""


def _drivers(connection: Any) -> list[str]:
    """The top-level modules of a connection's class and of those that it is derived from."""
    return [cls.__module__.partition(".")[0] for cls in type(connection).__mro__]


def _may_have_rows(cursor: Any) -> bool:
    """Whether rows may be fetched: a cursor with a name knows no columns before, and others give none without."""
    return bool(cursor.description) or bool(getattr(cursor, "name", None))
