"""Parquet: batches of rows, through pyarrow, which is loaded when the first file is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crm_provider.load.parquet_library import arrow_modules
from crm_provider.load.paths import AnyPath
from crm_provider.load.rows import SourceError
from crm_provider.load.source_files import Record, Table, folder_refused
from crm_provider.load.source_options import told_apart

BATCH = 1000
"""Rows that are Python values at a time."""

READ_AHEAD = 1 << 18
"""Bytes of each column that are read at a time; without it, and with ``pre_buffer``, a row group is read whole."""


@contextmanager
def open_parquet(path: AnyPath) -> Iterator[Table]:
    """Read the schema of a file; its rows come later.

    Times of nanoseconds are cut to microseconds, for Python has no finer ones.

    :raises SourceError: if it is no Parquet file, its column names do not tell the columns apart, or pyarrow is missing
    """
    _, parquet = _pyarrow()
    try:
        opened = path.open("rb")
    except IsADirectoryError:
        raise folder_refused(path) from None
    with opened as file:
        with _reading(path):
            table = parquet.ParquetFile(
                file, buffer_size=READ_AHEAD, pre_buffer=False, coerce_int96_timestamp_unit="us"
            )
            columns = told_apart(table.schema_arrow.names, str(path))
        yield Table(columns, _records(path, table, columns))


# -- helpers ------------------------------------------------------------------------------------------------


def _records(path: AnyPath, table: Any, columns: tuple[str, ...]) -> Iterator[Record]:
    done = 0
    with _reading(path):
        for batch in table.iter_batches(batch_size=BATCH, use_threads=False):
            yield from _values(path, _in_microseconds(batch.rename_columns(list(columns))), done)
            done += batch.num_rows


def _values(path: AnyPath, batch: Any, done: int) -> Iterator[Record]:
    try:
        rows = batch.to_pylist()
    except _no_python_value():
        for n in range(batch.num_rows):
            yield _value_by_value(batch, n, f"{path}, row {done + n + 1}")
        return
    for row in rows:
        yield row, None, 0


def _value_by_value(batch: Any, n: int, where: str) -> Record:
    values, bad = {}, []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[n].as_py()
        except _no_python_value():
            bad.append(repr(name))
    problem = f"{where}: {', '.join(bad)} cannot become a Python value (a date after the year 9999?)" if bad else None
    return values, problem, 0


def _in_microseconds(batch: Any) -> Any:
    pa, _ = _pyarrow()
    for n, field in enumerate(batch.schema):
        kind = field.type
        if getattr(kind, "unit", None) != "ns":
            continue
        if pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", kind.tz)
        else:
            kind = pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")
        batch = batch.set_column(n, field.name, batch.column(n).cast(kind, safe=False))
    return batch


def _no_python_value() -> tuple[type[Exception], ...]:
    pa, _ = _pyarrow()
    return (ValueError, OverflowError, KeyError, pa.ArrowException)


def _pyarrow() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    :raises SourceError: if they are not installed
    """
    try:
        return arrow_modules()
    except ValueError as missing:
        raise SourceError(str(missing)) from None


@contextmanager
def _reading(path: AnyPath) -> Iterator[None]:
    """Tell a damaged file from a file system that fails: pyarrow uses a bare OSError for the former."""
    pa, _ = _pyarrow()
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last from a name that is no text
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise SourceError(f"{path} is no valid Parquet file, or damaged; fetch or write it again") from None
