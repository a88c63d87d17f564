"""Rows in memory as sources: a list of mappings, pages of them, or an iterator, which can be read only once."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from types import GeneratorType
from typing import Any

from crm_provider.load.rows import Row, RowLocations, SourceError
from crm_provider.load.sources.files import LINE
from crm_provider.values.json_values import MAX_DEPTH


class RowsSource:
    """Rows in memory, such as the result of an upstream task.

    :param rows: mappings of column to value, or pages of them (lists), which count as one list
    :param null_values: texts that mean "no value"
    """

    name = "the list of rows"

    def __init__(self, rows: Sequence[Any], *, null_values: Collection[str] = ()) -> None:
        self._rows = rows
        self._nulls = frozenset(null_values)
        self._places = RowLocations()

    @cached_property
    def columns(self) -> tuple[str, ...] | None:
        """The columns of all rows together; None if there are no rows."""
        names = {
            name: None for row in self._given() if isinstance(row, Mapping) for name in row if isinstance(name, str)
        }
        return tuple(names) or None

    def rows(self) -> Iterator[Row]:
        self._places = places = RowLocations()
        for number, given in enumerate(self._given(), 1):
            row = row_of(number, given)
            places.note(0, row.problem)
            yield row._replace(values=without_nulls(row.values, self._nulls)) if self._nulls else row

    def is_malformed(self, number: int) -> bool:
        """Whether a row that :meth:`rows` gave could not be read."""
        return self._places.is_malformed(number)

    def _given(self) -> Iterator[Any]:
        """The rows, page by page if the first item is a page; an empty page has none.

        :raises SourceError: if the first item is no page but a row without names
        """
        if not self._rows or not isinstance(self._rows[0], (list, tuple)):
            yield from self._rows
            return
        if self._rows[0] and not any(isinstance(item, Mapping) for item in self._rows[0]):
            raise SourceError(
                "the rows are lists of values without the names of their columns, as SQLExecuteQueryOperator returns "
                "them; make each row a mapping of column to value (SqlToCrmContactsOperator and SqlToCrmDealsOperator "
                "load a query as it is)"
            )
        for page in self._rows:
            if isinstance(page, (list, tuple)):
                yield from page
            else:
                yield page


class IteratorSource:
    """The rows of an iterator. One try of a load reads its source once; the next try must make a new iterator.

    :param rows: gives mappings of column to value
    :param null_values: texts that mean "no value"
    :raises SourceError: if it is a generator that was read already
    """

    columns = None

    def __init__(self, rows: Iterator[Any], *, null_values: Collection[str] = ()) -> None:
        self.name = f"the {type(rows).__name__}"
        if isinstance(rows, GeneratorType) and inspect.getgeneratorstate(rows) != inspect.GEN_CREATED:
            raise self._refused()
        self._rows: Iterator[Any] | None = rows
        self._nulls = frozenset(null_values)
        self._places = RowLocations()

    def rows(self) -> Iterator[Row]:
        """The rows, once.

        :raises SourceError: if they were read already
        """
        given, self._rows = self._rows, None
        if given is None:
            raise self._refused()
        for number, each in enumerate(given, start=1):
            row = row_of(number, each)
            self._places.note(0, row.problem)
            yield row._replace(values=without_nulls(row.values, self._nulls)) if self._nulls else row

    def is_malformed(self, number: int) -> bool:
        """Whether a row that :meth:`rows` gave could not be read."""
        return self._places.is_malformed(number)

    def _refused(self) -> SourceError:
        return SourceError(
            f"{self.name} can be read only once, and was read already; make a new one for each load, or give a list"
        )


def row_of(number: int, given: Any) -> Row:
    """A row as it was given; with the problem if it is not a mapping of column to value."""
    if not isinstance(given, Mapping):
        return Row(
            number, {LINE: given}, f"row {number} is of type {type(given).__name__}; give a mapping of column to value"
        )
    if not all(isinstance(name, str) for name in given):
        problem = f"row {number} has a column whose name is not text; name the column"
        return Row(number, {str(name): value for name, value in given.items()}, problem)
    return Row(number, given)


def without_nulls(values: Mapping[str, Any], words: Collection[str], empty: str | None = None) -> dict[str, Any]:
    """A row with the texts that mean "no value" replaced, also in nested values and lists.

    :param empty: the replacement
    """
    return {name: _without_nulls(value, words, empty, 0) for name, value in values.items()}


def _without_nulls(value: Any, words: Collection[str], empty: str | None, depth: int) -> Any:
    if isinstance(value, str):
        return empty if value.strip() in words else value
    if depth > MAX_DEPTH:  # the mapping refuses it
        return value
    if isinstance(value, Mapping):
        return {name: _without_nulls(item, words, empty, depth + 1) for name, item in value.items()}
    is_list = isinstance(value, (list, tuple))
    return [_without_nulls(item, words, empty, depth + 1) for item in value] if is_list else value
