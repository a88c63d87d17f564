"""Tables in memory as sources: objects with Arrow's C stream (pandas 2.2 and newer, polars, DuckDB, pyarrow)."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Protocol

from crm_provider.files.parquet import arrow_modules
from crm_provider.files.typed_parquet import unmarked
from crm_provider.load.rows import Row, RowLocations, SourceError
from crm_provider.load.sources.memory import without_nulls
from crm_provider.load.sources.options import unique_names
from crm_provider.load.sources.parquet_files import BATCH, records_of

log = logging.getLogger(__name__)

_READ: weakref.WeakSet[Any] = weakref.WeakSet()
"""Streams that a load has read; they are empty now."""


class ArrowStream(Protocol):
    """A table that supports Arrow's C stream."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


class ArrowSource:
    """A table in memory. Each read needs its own stream, which only some tables can provide again.

    A stream that something else has partly read cannot be recognised: the load gets the rest of its rows.

    :param table: an object with ``__arrow_c_stream__``
    """

    def __init__(self, table: Any, *, null_values: Collection[str] = ()) -> None:
        self.name = f"the {type(table).__name__}"
        self._table = table
        self._opened: Any = None
        self._was_read = False
        self._nulls = frozenset(null_values)
        self._places = RowLocations()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns.

        :raises SourceError: if the table cannot be read, or has several columns of one name
        """
        self._opened = self._open()
        return tuple(unique_names(self._opened.schema.names, self.name))

    def rows(self) -> Iterator[Row]:
        """The rows.

        :raises SourceError: if the table cannot be read, or cannot be read again
        """
        is_stream = isinstance(self._table, Iterator)
        if self._table in _READ if is_stream else self._was_read and not hasattr(self._table, "__len__"):
            raise SourceError(f"{self.name} can be read only once, and was read already; give the table itself")
        columns, stream = self.columns, self._opened or self._open()
        self._opened, self._was_read = None, True
        if is_stream:
            with suppress(TypeError):  # a class without weak references: then it is not recognised
                _READ.add(self._table)
        number = 0
        self._places = places = RowLocations()
        records = records_of(self.name, _small(stream), columns, unmarked(stream.schema), reading=self._reading)
        for number, (values, problem, _) in enumerate(records, start=1):
            places.note(0, problem)
            yield Row(number, without_nulls(values, self._nulls) if self._nulls else values, problem)
        if is_stream and not number:
            log.warning("%s has no rows. If something has read it before, give the load a new one.", self.name)

    def is_malformed(self, number: int) -> bool:
        """Whether a row that :meth:`rows` gave could not be read."""
        return self._places.is_malformed(number)

    def _open(self) -> Any:
        try:
            arrow, _ = arrow_modules()
        except ValueError:
            raise SourceError(
                f"{self.name} is read through pyarrow: pip install 'airflow-provider-crm[parquet]'"
            ) from None
        with self._reading():
            stream = arrow.RecordBatchReader.from_stream(self._table)
        views = [field.name for field in stream.schema if _has_views(arrow, field.type)]
        if views and int(arrow.__version__.partition(".")[0]) < READS_VIEWS:
            raise SourceError(
                f"{self.name} has string views (as polars exports them), which pyarrow {arrow.__version__} cannot read "
                f"from a table in memory; give its to_arrow(), or install pyarrow {READS_VIEWS} or newer"
            )
        return stream

    @contextmanager
    def _reading(self) -> Iterator[None]:
        arrow, _ = arrow_modules()
        try:
            yield
        except (arrow.ArrowException, ValueError, TypeError) as wrong:
            if isinstance(wrong, SourceError):
                raise
            raise SourceError(
                f"{self.name} cannot be read through Arrow ({type(wrong).__name__}); does a column have values of "
                "several types, or do two columns have one name?"
            ) from None


READS_VIEWS = 25
"""The first version of pyarrow that reads string views of another library; earlier ones end the process."""


def _has_views(arrow: Any, kind: Any) -> bool:
    """Whether a type is a view of text or bytes, or holds one."""
    if arrow.types.is_dictionary(kind):
        return _has_views(arrow, kind.value_type)
    inner = [kind.field(n).type for n in range(kind.num_fields)]
    return kind in (arrow.string_view(), arrow.binary_view()) or any(_has_views(arrow, each) for each in inner)


def _small(stream: Any) -> Iterator[Any]:
    """The batches of a stream, cut to a size that may be held as Python values."""
    for batch in stream:
        readable = _without_categories(batch)
        for start in range(0, batch.num_rows, BATCH):
            yield readable.slice(start, BATCH)


def _without_categories(batch: Any) -> Any:
    """A batch with text in place of categories whose names are string views (polars): pyarrow cannot cast these."""
    arrow, _ = arrow_modules()
    for n, field in enumerate(batch.schema):
        if arrow.types.is_dictionary(field.type) and arrow.types.is_string_view(field.type.value_type):
            column = batch.column(n)
            names = column.dictionary.cast(arrow.large_string())
            batch = batch.set_column(n, field.name, names.take(column.indices))
    return batch
