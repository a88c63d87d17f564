"""The source of a load: a list of rows, files, or an object with ``rows()``. It can be read several times."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from typing import Any, Protocol, cast

from crm_provider.files.paths import AnyPath, as_path
from crm_provider.load.rows import Row, RowLocations, SourceError, is_table, new_tuple
from crm_provider.load.sources.arrow_tables import ArrowSource
from crm_provider.load.sources.csv_files import CsvFiles
from crm_provider.load.sources.files import SourceTable, expand_pattern, explain_missing, format_of
from crm_provider.load.sources.jsonl_files import open_jsonl
from crm_provider.load.sources.memory import RowsSource, without_nulls
from crm_provider.load.sources.options import ROWS, FileOptions, checked_format
from crm_provider.load.sources.parquet_files import open_parquet
from crm_provider.values.counted import counted

OpenTable = Callable[[AnyPath], AbstractContextManager[SourceTable]]
"""Opens one file; leaving the context closes it."""


class Source(Protocol):
    """Rows that can be read several times, in the same order with the same numbers each time."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns, if they are known without reading the rows; None if each row has its own.

        :raises SourceError: if the source cannot be used
        """

    def rows(self) -> Iterator[Row]:
        """All rows, numbered from 1. A row that could not be read has a ``problem``.

        :raises SourceError: if the source as a whole cannot be used; names file and line
        """


def open_source(source: Any, *, format: str | None = None, options: Mapping[str, Any] | None = None) -> Source:  # noqa: A002
    """Open a list of rows, files, or an object that is a source already (returned as it is).

    >>> open_source([{"email": "ada@example.com"}]).columns
    ('email',)

    Values of CSV are text. JSON numbers with a fraction or exponent are ``Decimal``, so that they keep their digits.
    Parquet and tables in memory give the Python value of each type.

    A row that could not be read has the values that could be read: fields without a column are a list
    under :data:`~crm_provider.load.sources.files.EXTRA`, a line that cannot be parsed is the text under
    :data:`~crm_provider.load.sources.files.LINE`.

    :param source: a list of rows (mappings of column to value), a list of pages (lists of rows), a table with
        ``__arrow_c_stream__``, a path, a pattern (``"in/leads-*.csv"``; files in the order of their names), or a list
        of both
    :param format: ``csv``, ``tsv``, ``jsonl`` or ``parquet``; by default decided by the suffix (``.gz`` may follow)
    :param options: how to read the files: the fields of :class:`~crm_provider.load.sources.options.FileOptions`, for
        example ``{"delimiter": ";", "encoding": "cp1252"}``
    :raises SourceError: if it is not a source, or an option is not valid
    :raises NoSuchFile: if no file matches a pattern; while reading, if a named file is missing
    """
    paths = _paths(source)
    if paths:
        return FilesSource(paths, format=format, options=options)
    if format is not None or (options and _has_rows(source)):
        raise SourceError(
            "source_format and source_options say how to read files, but the source is not a file; leave them out"
        )
    if _has_rows(source):
        return cast(Source, source)
    nulls = FileOptions.of(options, format=ROWS).null_values if options else ()
    if is_table(source):
        if isinstance(source, Iterator):
            raise SourceError(
                f"the {type(source).__name__} can be read only once, but each try of a task reads its rows again; give "
                "the table itself (read_all() of pyarrow), or give the stream to CrmHook.load_contacts in a task"
            )
        return ArrowSource(source, null_values=nulls)
    if not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray)):
        raise SourceError(f"source is of type {type(source).__name__}; {_ACCEPTED}")
    return RowsSource(source, null_values=nulls)


class FilesSource:
    """Files of one format, read one after the other like a single file.

    Their columns may differ: check with :meth:`tables`, before the first row is used, that each file has those that the
    mapping needs. Patterns are expanded once, when the source is created.

    Parameters: :func:`open_source`.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str] | AnyPath],
        *,
        format: str | None = None,  # noqa: A002
        options: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = checked_format(format)
        self._files = [file for path in paths for file in expand_pattern(_path(path), path)]
        self._given = {str(_path(path)): path for path in paths}
        self._format = chosen or _common_format(self._files)
        read = FileOptions.of(options, format=self._format)
        self._open = _opener(self._format, read)
        self._nulls, self._empty = frozenset(read.null_values), "" if self._format in ("csv", "tsv") else None
        self._places = RowLocations()
        more = len(self._files) - 1
        self.name = str(self._files[0]) + (f" and {counted(more, 'more file')}" if more else "")

    @property
    def files(self) -> Sequence[AnyPath]:
        """All files, in reading order."""
        return tuple(self._files)

    @cached_property
    def columns(self) -> tuple[str, ...] | None:
        """The columns of the first file."""
        with self._opened(self._files[0]) as table:
            return table.columns

    def tables(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each file with its columns; empty for a format in which each row has its own.

        :raises SourceError: if a file has none of the columns of the first one: its header line is missing
        """
        if self.columns is None:
            return
        for file in self._files:
            with self._opened(file) as table:
                self._check_columns(file, table.columns)
                yield str(file), table.columns or ()

    def rows(self) -> Iterator[Row]:
        self._places = places = RowLocations()
        number = 0
        for file in self._files:
            with self._opened(file) as table:
                self._check_columns(file, table.columns)
                places.begin(file)
                for number, (values, problem, line) in enumerate(table.records, number + 1):  # noqa: B020
                    places.note(line, problem)
                    if self._nulls:
                        values = without_nulls(values, self._nulls, self._empty)  # noqa: PLW2901
                    yield new_tuple(Row, (number, values, problem, None, ""))

    def place(self, number: int) -> str:
        """File, line and row of a row that :meth:`rows` gave, for messages."""
        return self._places.place(number)

    def is_malformed(self, number: int) -> bool:
        """Whether a row that :meth:`rows` gave could not be read."""
        return self._places.is_malformed(number)

    @contextmanager
    def _opened(self, file: AnyPath) -> Iterator[SourceTable]:
        with ExitStack() as closing:
            with explain_missing(self._given.get(str(file), file)):
                table = closing.enter_context(self._open(file))
            yield table

    def _check_columns(self, file: AnyPath, columns: tuple[str, ...] | None) -> None:
        """Refuse a file whose first line cannot be a header line."""
        first = self.columns
        if columns is None or first is None or set(columns) == set(first):
            return
        if not set(columns) & set(first) or any("@" in name for name in (*columns, *first)):
            raise SourceError(
                f"{file} and {self._files[0]} have no column in common; add the header line where it is missing, or "
                "give the columns the same names (case matters)"
            )


# -- helpers ------------------------------------------------------------------------------------------------

_ACCEPTED = (
    "give a list of mappings (column to value) or of pages of them, a table with an Arrow stream (pandas, polars, "
    "DuckDB, pyarrow), a path or pattern of files, or a list of paths; each try of a task reads its rows again, so "
    "what can be read only once (a generator) must become a list or a file first, or go to CrmHook.load_contacts in a "
    "task"
)


def _paths(source: Any) -> Sequence[Any]:
    """The paths of a source; empty if it is not files."""
    if _is_path(source):
        return [source]
    # a list of rows may be long, or be fetched item by item: only its first item is examined
    if not isinstance(source, Sequence) or not source or not _is_path(source[0]):
        return []
    for number, item in enumerate(source, 1):
        if not _is_path(item):
            raise SourceError(f"source is a list of paths, but its item {number} is none; {_ACCEPTED}")
    return source


def _is_path(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike, AnyPath))


def _has_rows(source: Any) -> bool:
    """Whether it is a :class:`Source`, checked without reading its columns, which may cost a query."""
    missing = object()
    return all(inspect.getattr_static(source, part, missing) is not missing for part in ("name", "columns", "rows"))


def _path(given: str | os.PathLike[str] | AnyPath) -> AnyPath:
    try:
        return as_path(given)
    except ValueError as wrong:
        raise SourceError(f"source: {wrong}") from None


def _common_format(files: Sequence[AnyPath]) -> str:
    formats = [format_of(file) for file in files]
    for file, its_format in zip(files, formats, strict=True):
        if its_format != formats[0]:
            raise SourceError(
                f"the files have several formats: {files[0]} is {formats[0]}, {file} is {its_format}; "
                "narrow the pattern, or set source_format"
            )
    return formats[0]


def _opener(format: str, options: FileOptions) -> OpenTable:  # noqa: A002
    if format == "parquet":
        return open_parquet
    if format == "jsonl":
        return lambda path: open_jsonl(path, encoding=options.encoding)
    return CsvFiles(options).open
