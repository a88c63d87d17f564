"""Parquet tables with types: written from JSON values, and read back as the same values.

A column of the type ``json`` is text with a mark in the metadata of its field, so that :func:`unmarked` finds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from crm_provider.files.parquet import arrow_modules
from crm_provider.values.json_types import TEXT, ColumnType, moment_of, number_of
from crm_provider.values.json_values import json_text

ROWS_AT_ONCE = 10_000
"""Rows of a row group, which is held in memory until it is written."""

MARK = {b"airflow-provider-crm": b"json"}
"""Metadata of a field whose values are JSON text."""

AddRow = Callable[[Sequence[Any]], None]
"""Writes one row: a value for each column."""

Decode = Callable[[Any], Any]


@contextmanager
def parquet_rows(file: IO[bytes], fields: Sequence[Any]) -> Iterator[AddRow]:
    """Write rows to an open file, which is complete when the block ends.

    :param fields: the fields of the schema, of ``pyarrow``
    """
    arrow, parquet = arrow_modules()
    schema = arrow.schema(fields)
    rows: list[Sequence[Any]] = []

    def flush() -> None:
        if rows:
            columns = zip(zip(*rows, strict=True), schema.types, strict=True)
            arrays = [arrow.array(values, kind) for values, kind in columns]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            rows.clear()

    def add(row: Sequence[Any]) -> None:
        rows.append(row)
        if len(rows) >= ROWS_AT_ONCE:
            flush()

    with parquet.ParquetWriter(file, schema) as writer:
        yield add
        flush()


@contextmanager
def typed_rows(file: IO[bytes], columns: Mapping[str, ColumnType]) -> Iterator[AddRow]:
    """Write rows of JSON values.

    :param columns: name -> type
    """
    with parquet_rows(file, [field_of(name, kind) for name, kind in columns.items()]) as add_row:
        encoders = [_encoder(kind) for kind in columns.values()]

        def add(row: Sequence[Any]) -> None:
            add_row([_optional(encode, value) for encode, value in zip(encoders, row, strict=True)])

        yield add


def text_fields(names: Sequence[str]) -> list[Any]:
    """The fields of columns of text."""
    return [field_of(name, TEXT) for name in names]


def field_of(name: str, kind: ColumnType) -> Any:
    """The field of a column."""
    arrow, _ = arrow_modules()
    return arrow.field(name, _arrow_type(kind), metadata=MARK if kind.name == "json" else None)


def _arrow_type(kind: ColumnType) -> Any:
    arrow, _ = arrow_modules()
    if kind.item is not None:
        return arrow.list_(field_of("item", kind.item))
    if kind.fields:
        return arrow.struct([field_of(name, inner) for name, inner in kind.fields])
    plain = {
        "boolean": arrow.bool_(),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "timestamp": arrow.timestamp("us", tz="UTC"),
    }
    return plain.get(kind.name, arrow.string())


def _encoder(kind: ColumnType) -> Decode:
    if kind.name == "json":
        return json_text
    if kind.name == "number":
        return float
    if kind.name == "timestamp":
        return moment_of
    if kind.item is not None:
        encode_item = _encoder(kind.item)
        return lambda items: [_optional(encode_item, item) for item in items]
    if kind.fields:
        encoders = {name: _encoder(inner) for name, inner in kind.fields}
        return lambda record: {name: _optional(encode, record.get(name)) for name, encode in encoders.items()}
    return lambda value: value


def _optional(convert: Decode, value: Any) -> Any:
    return None if value is None else convert(value)


def unmarked(schema: Any) -> Decode | None:
    """A function that parses the JSON text of marked fields; None if a schema has none.

    :return: maps a row (name -> value) in place
    """
    decoders = {field.name: decode for field in schema if (decode := _decoder(field)) is not None}
    return _fields_decoder(decoders) if decoders else None


def _decoder(field: Any) -> Decode | None:
    arrow, _ = arrow_modules()
    if (field.metadata or {}).items() >= MARK.items():
        return _json_of
    if not arrow.types.is_struct(field.type):
        return None
    inner = [field.type.field(n) for n in range(field.type.num_fields)]
    decoders = {each.name: decode for each in inner if (decode := _decoder(each)) is not None}
    return _fields_decoder(decoders) if decoders else None


def _fields_decoder(decoders: Mapping[str, Decode]) -> Decode:
    def decode(record: dict[str, Any]) -> dict[str, Any]:
        for name, decode_value in decoders.items():
            if record.get(name) is not None:
                record[name] = decode_value(record[name])
        return record

    return decode


def _json_of(text: str) -> Any:
    """The value of a JSON text; other text is unchanged."""
    try:
        return json.loads(text, parse_float=number_of)
    except (ValueError, RecursionError):
        return text
