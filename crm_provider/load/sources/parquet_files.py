"""Parquet files, read through pyarrow in batches that are bounded in rows and bytes."""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from crm_provider.files.parquet import arrow_modules
from crm_provider.files.paths import AnyPath
from crm_provider.files.typed_parquet import unmarked
from crm_provider.load.rows import SourceError, UnreadableValue
from crm_provider.load.sources.files import Record, SourceTable, folder_refused, read_source
from crm_provider.load.sources.options import unique_names

BATCH = 1000
"""Rows that are held as Python values at once."""

LARGEST_BATCH = 8 << 20
"""Bytes of the rows that are held as Python values at once; also the most of a single row."""

LARGEST_CHUNK, MOST_PER_ROW = 64 << 20, 1 << 18
"""Maximum decompressed bytes of a column of a row group: in total, or for each row if that is more."""

READ_AHEAD = 1 << 18
"""Bytes of each column that are read at once. Without it, and with ``pre_buffer``, a whole row group is read."""


@contextmanager
def open_parquet(path: AnyPath) -> Iterator[SourceTable]:
    """Open a file and read its schema; its rows are read later.

    Nanoseconds are cut to microseconds, the finest that Python has.

    :raises SourceError: if it is not a Parquet file, its column names are ambiguous, or pyarrow is missing
    """
    _, parquet = _pyarrow()
    try:
        opened = read_source(path)
    except IsADirectoryError:
        raise folder_refused(path) from None
    with opened as file:
        with _reading(path):
            table = parquet.ParquetFile(
                file,
                buffer_size=READ_AHEAD,
                pre_buffer=False,
                coerce_int96_timestamp_unit="us",
                read_dictionary=_columns_of_text(parquet, file),
            )
            _check_chunks(path, table.metadata)
            columns = unique_names(table.schema_arrow.names, str(path))
            decode = unmarked(table.schema_arrow)
        with _reading(path):
            batches = table.iter_batches(batch_size=_batch_size(table.schema), use_threads=False)
        yield SourceTable(columns, records_of(path, batches, columns, decode, reading=partial(_reading, path)))


# -- helpers ------------------------------------------------------------------------------------------------


def _columns_of_text(parquet: Any, file: Any) -> list[str]:
    """Columns of which Arrow keeps each distinct value once: a long value in every row would fill the memory."""
    schema = parquet.ParquetFile(file, pre_buffer=False).schema
    leaves = [schema.column(n) for n in range(len(schema))]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type in _TEXTS]


_TEXTS = ("STRING", "NONE", "JSON", "ENUM")


def _check_chunks(path: AnyPath, metadata: Any) -> None:
    """Refuse a column with a value that does not fit into memory, before it is decompressed.

    :raises SourceError: naming the column and the row group
    """
    for group in (metadata.row_group(n) for n in range(metadata.num_row_groups)):
        for column in (group.column(n) for n in range(group.num_columns)):
            if column.total_uncompressed_size > max(LARGEST_CHUNK, group.num_rows * MOST_PER_ROW):
                raise SourceError(
                    f"{path}: the column {column.path_in_schema!r} has {column.total_uncompressed_size:,} bytes in a "
                    f"row group of {group.num_rows:,} rows; shorten its values, or leave it out"
                )


def _batch_size(schema: Any) -> int:
    """Rows of a batch: fewer if they hold long values of a fixed length, which Arrow cannot keep once."""
    leaves = [schema.column(n) for n in range(len(schema))]
    size = sum(leaf.length for leaf in leaves if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY")
    return int(min(max(LARGEST_BATCH // max(size, 1), 1), BATCH))


def records_of(
    name: object,
    batches: Iterable[Any],
    columns: tuple[str, ...],
    decode: Callable[[Any], Any] | None,
    *,
    reading: Callable[[], AbstractContextManager[None]],
) -> Iterator[Record]:
    """The rows of record batches, as Python values.

    :param name: of the source, for messages
    :param decode: what reads back the columns of JSON text (:func:`crm_provider.files.typed_parquet.unmarked`)
    :param reading: explains errors of ``pyarrow``
    """
    done = 0
    with reading():
        for batch in batches:
            maps = [
                (name, read)
                for name, field in zip(columns, batch.schema, strict=True)
                if (read := _map_reader(field.type))
            ]
            for piece in _pieces(name, batch.rename_columns(list(columns)), done):
                for values, problem, line in _values(name, _exact(piece), done):
                    if maps:
                        values = {**values, **{column: read(values.get(column)) for column, read in maps}}  # noqa: PLW2901
                    yield values if decode is None else decode(values), problem, line
                done += piece.num_rows


def _pieces(path: object, batch: Any, done: int) -> Iterator[Any]:
    """Split a batch into pieces that fit into memory as Python values.

    :raises SourceError: if a row does not fit
    """
    if _size(batch.columns) <= LARGEST_BATCH:
        yield batch
    elif batch.num_rows == 1:
        raise SourceError(f"{path}, row {done + 1} has over {LARGEST_BATCH:,} bytes; shorten it, or leave columns out")
    else:
        half = batch.num_rows // 2
        yield from _pieces(path, batch.slice(0, half), done)
        yield from _pieces(path, batch.slice(half), done + half)


def _size(columns: Sequence[Any]) -> int:
    """Bytes of the values of columns, repeated ones counted each time."""
    pa, _ = _pyarrow()
    compute, total = importlib.import_module("pyarrow.compute"), 0
    for column in columns:
        kind = column.type
        if pa.types.is_dictionary(kind):
            if _has_lengths(kind.value_type):
                lengths = compute.binary_length(column.dictionary)
                total += compute.sum(lengths.cast(pa.int64()).take(column.indices)).as_py() or 0
        elif pa.types.is_struct(kind):
            total += _size(column.flatten())
        elif pa.types.is_map(kind):
            total += _size([column.keys, column.items])
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            total += _size([column.flatten()])
        else:
            total += column.nbytes
    return total


def _has_lengths(kind: Any) -> bool:
    """Whether values of a type may be long: text and bytes."""
    types = _pyarrow()[0].types
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _values(path: object, batch: Any, done: int) -> Iterator[Record]:
    try:
        rows = batch.to_pylist()
    except _no_python_value():
        for n in range(batch.num_rows):
            yield _value_by_value(batch, n, f"{path}, row {done + n + 1}")
        return
    for row in rows:
        yield row, None, 0


def _map_reader(kind: Any) -> Callable[[Any], Any] | None:
    """What makes mappings of the pairs that pyarrow gives for a map, also within lists and structs; None without maps.

    Its own option for that is newer than pyarrow 18.
    """
    types = _pyarrow()[0].types
    if types.is_map(kind):
        read_item = _map_reader(kind.item_type)
        return lambda pairs: None if pairs is None else _mapping(pairs, read_item)
    if types.is_list(kind) or types.is_large_list(kind):
        read = _map_reader(kind.value_type)
        return read and (lambda items: None if items is None else list(map(read, items)))
    if types.is_struct(kind):
        fields = [kind.field(n) for n in range(kind.num_fields)]
        readers = {field.name: read for field in fields if (read := _map_reader(field.type))}
        if readers:
            return lambda inner: inner and {**inner, **{name: read(inner[name]) for name, read in readers.items()}}
    return None


def _mapping(pairs: Sequence[tuple[Any, Any]], read: Callable[[Any], Any] | None) -> Any:
    """The pairs of a map; only a row that sends a map with one key twice is rejected."""
    found = {key: read(value) if read else value for key, value in pairs}
    return found if len(found) == len(pairs) else UnreadableValue(str(pairs))


def _value_by_value(batch: Any, n: int, where: str) -> Record:
    """A row in which a date after the year 9999 is an :class:`UnreadableValue`: only a row that sends it fails."""
    values, bad = {}, []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[n].as_py()
        except _no_python_value():
            try:
                values[name] = UnreadableValue(column[n].cast(_pyarrow()[0].string()).as_py())
            except _no_python_value():
                bad.append(repr(name))
    problem = f"{where}: {', '.join(bad)} cannot become a Python value" if bad else None
    return values, problem, 0


def _exact(batch: Any) -> Any:
    """A batch with types that Python has: times in microseconds, and floats with the digits that were written.

    A float of 32 bits goes through its shortest text: 0.1 and not 0.10000000149011612. Of one with 16 bits, Arrow does
    not know that text.
    """
    pa, _ = _pyarrow()
    for n, field in enumerate(batch.schema):
        if pa.types.is_float16(field.type):
            stored = batch.column(n).cast(pa.float32()).to_pylist()  # pyarrow 18 ends the process without the cast
            short = [None if value is None else shortest_half(value) for value in stored]
            batch = batch.set_column(n, field.name, pa.array(short, pa.float64()))
            continue
        exact = _exact_type(field.type)
        if exact != field.type:
            column = batch.column(n)
            if pa.types.is_nested(field.type):  # of a slice, a cast would take in all that it was cut from
                column = column.take(pa.array(range(batch.num_rows)))
            column = column.cast(_exact_type(field.type, float_as_text=True), safe=False)
            batch = batch.set_column(n, field.name, column.cast(exact))
    return batch


def shortest_half(value: float) -> float:
    """The number with the fewest digits that a float of 16 bits stores as this one: 0.1 for 0.0999755859375."""
    if not math.isfinite(value) or value.is_integer():
        return value
    stored = struct.pack("e", value)
    return next(short for digits in range(1, 7) if struct.pack("e", short := float(f"{value:.{digits}g}")) == stored)


def _exact_type(kind: Any, *, float_as_text: bool = False) -> Any:
    """The type to use for short floats and nanoseconds, also within lists, structs and dictionaries."""
    pa, _ = _pyarrow()

    def exact(inner: Any) -> Any:
        return _exact_type(inner, float_as_text=float_as_text)

    if pa.types.is_float32(kind):
        return pa.string() if float_as_text else pa.float64()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_dictionary(kind):
        return exact(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(exact(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(n).with_type(exact(kind.field(n).type)) for n in range(kind.num_fields)])
    return _in_microseconds(kind) if getattr(kind, "unit", None) == "ns" else kind


def _in_microseconds(kind: Any) -> Any:
    pa, _ = _pyarrow()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")


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
    """Distinguish a damaged file from a failing file system: pyarrow raises a bare OSError for the former."""
    pa, _ = _pyarrow()
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last from a name that is not UTF-8
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise SourceError(f"{path} is not a valid Parquet file, or damaged; fetch or write it again") from None
