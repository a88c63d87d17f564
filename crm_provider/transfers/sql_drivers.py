"""What differs between database drivers: cursors that stream, and values that are exact and the same with each of them.

By default psycopg 2 reads ``infinity`` as 9999-12-31 and ``24:00`` as 00:00, psycopg 3 ends the query there, and both
read ``jsonb`` through floats. Two drivers of MySQL read a date like ``2024-00-00`` as None, and one reads it as text.
Two read a ``BIT`` as bytes, and one reads it as a number. Types without an equivalent in Python, such as ``inet``,
ranges and records, differ between all drivers.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from crm_provider.load.rows import UnreadableValue

CURSOR_NAME = "crm_load"
"""Name of the server's cursor, as PostgreSQL shows it in ``pg_cursors``."""


def _close_both(connection: Any, cursor: Any) -> None:
    try:
        cursor.close()
    finally:
        connection.close()


@dataclass(frozen=True)
class Driver:
    """How to read with a driver.

    :param cursor: prepares a connection and opens a cursor that does not fetch the whole result at once
    :param one_by_one: a single row costs no round trip
    :param close: closes a connection and its cursor, also in the middle of a result
    """

    cursor: Callable[[Any], Any]
    one_by_one: bool = False
    close: Callable[[Any, Any], None] = _close_both


def driver_of(connection: Any) -> Driver:
    """The driver of a connection, by the module of its classes; a generic one if it is unknown."""
    modules = [cls.__module__.partition(".")[0] for cls in type(connection).__mro__]
    return next((_DRIVERS[name] for name in modules if name in _DRIVERS), _UNKNOWN)


def exact_json(text: str | bytes) -> Any:
    """JSON whose numbers keep their digits: a ``Decimal`` where a float would lose some."""
    return json.loads(text, parse_float=_exact_number)


def _exact_number(written: str) -> float | Decimal:
    value = float(written)
    exact = Decimal(written)
    return value if math.isfinite(value) and Decimal(repr(value)) == exact else exact


def _lenient_json(text: str | bytes) -> Any:
    try:
        return exact_json(text)
    except (ValueError, ArithmeticError, RecursionError):  # more digits or levels than Python reads
        return UnreadableValue(text if isinstance(text, str) else bytes(text).decode(errors="replace"))


# -- psycopg 2 ------------------------------------------------------------------------------------------------


def psycopg2_types() -> list[Any]:
    """Types that read what Python cannot hold as :class:`UnreadableValue`, and arrays of ids or addresses as lists."""
    extensions = importlib.import_module("psycopg2.extensions")
    names = ("PYDATE", "PYDATETIME", "PYDATETIMETZ", "PYTIME", "PYINTERVAL")
    originals = [getattr(extensions, name) for name in names]
    times = [extensions.new_type(kind.values, kind.name, _lenient(kind)) for kind in originals]
    arrays = [extensions.new_array_type(_ARRAYS[made.name], f"{made.name}ARRAY", made) for made in times]
    binary = extensions.new_type((17,), "BYTES", _as_bytes(importlib.import_module("psycopg2").BINARY))
    return [
        *times,
        *arrays,
        binary,
        extensions.new_array_type((1001,), "BYTESARRAY", binary),
        extensions.new_type(_RANGES, "RANGES", extensions.UNICODE),
        extensions.new_array_type(_LISTS_OF_TEXTS, "TEXTS", extensions.UNICODE),
    ]


_ARRAYS = {
    "PYDATE": (1182,), "PYDATETIME": (1115,), "PYDATETIMETZ": (1185,), "PYTIME": (1183, 1270), "PYINTERVAL": (1187,),
}  # fmt: skip
"""Type numbers of PostgreSQL's arrays of each type."""

_RANGES = (3904, 3906, 3908, 3910, 3912, 3926)

_LISTS_OF_TEXTS = (1041, 651, 2951, 3905, 3907, 3909, 3911, 3913, 3927)
"""Arrays of ``inet``, ``cidr``, ``uuid`` and ranges."""


def _lenient(original: Any) -> Callable[[str | None, Any], Any]:
    def read(text: str | None, cursor: Any) -> Any:
        if text is None:
            return None
        if "infinity" in text or text.startswith("24:"):
            return UnreadableValue(text)
        try:
            return original(text, cursor)
        except (ValueError, OverflowError):
            return UnreadableValue(text)

    return read


def _as_bytes(original: Any) -> Callable[[str | None, Any], bytes | None]:
    def read(text: str | None, cursor: Any) -> bytes | None:
        return None if text is None else bytes(original(text, cursor))

    return read


def teach_psycopg2(connection: Any) -> None:
    """Have a connection read with :func:`psycopg2_types` and :func:`exact_json`."""
    extensions, extras = (importlib.import_module(f"psycopg2.{name}") for name in ("extensions", "extras"))
    for kind in psycopg2_types():
        extensions.register_type(kind, connection)
    extras.register_default_json(connection, loads=_lenient_json)
    extras.register_default_jsonb(connection, loads=_lenient_json)


def _psycopg2_cursor(connection: Any) -> Any:
    teach_psycopg2(connection)
    return _named_cursor(connection)


def _named_cursor(connection: Any) -> Any:
    if connection.autocommit:  # a cursor lives in a transaction
        connection.autocommit = False
    return connection.cursor(name=CURSOR_NAME)


# -- psycopg 3 ------------------------------------------------------------------------------------------------


def teach_psycopg(context: Any) -> None:
    """Have psycopg 3 read as psycopg 2 does after :func:`teach_psycopg2`.

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
    for name in _TEXTS:
        context.adapters.register_loader(name, texts.TextLoader)
    jsons.set_json_loads(_lenient_json, context)


_TEXTS = (
    "inet", "cidr", "uuid", "record", "int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange",
    "int4multirange", "int8multirange", "nummultirange", "datemultirange", "tsmultirange", "tstzmultirange",
)  # fmt: skip


def _lenient_loader(base: Any, data_error: type[Exception]) -> Any:
    class Lenient(base):  # type: ignore[misc]  # the driver need not be installed
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except (data_error, ValueError, OverflowError):
                return UnreadableValue(bytes(data).decode(errors="replace"))

    return Lenient


def _psycopg_cursor(connection: Any) -> Any:
    teach_psycopg(connection)
    return _named_cursor(connection)


# -- SQLite -------------------------------------------------------------------------------------------------


def _sqlite_cursor(connection: Any) -> Any:
    if getattr(connection, "text_factory", None) is str:  # which ends the query at bytes that are not UTF-8
        connection.text_factory = _text_or_unreadable
    return connection.cursor()


def _text_or_unreadable(data: bytes) -> str | UnreadableValue:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return UnreadableValue(data.decode(errors="replace"))


# -- MySQL and MariaDB ----------------------------------------------------------------------------------------


def mysql_date(written: str | bytes) -> date | UnreadableValue:
    """A date; MySQL has some that no calendar has, such as ``0000-00-00`` and ``2024-00-00``."""
    text = _text(written)
    try:
        return date.fromisoformat(text)
    except ValueError:
        return UnreadableValue(text)


def mysql_datetime(written: str | bytes) -> datetime | UnreadableValue:
    """A moment without a zone, with up to six digits of a fraction; as :func:`mysql_date`."""
    text = _text(written)
    whole, _, fraction = text.partition(".")
    try:
        return datetime.fromisoformat(f"{whole}.{fraction:0<6}")
    except ValueError:
        return UnreadableValue(text)


def mysql_bits(written: bytes) -> int:
    """The number of a ``BIT``."""
    return int.from_bytes(written, "big")


def _text(written: str | bytes) -> str:
    return written if isinstance(written, str) else written.decode("ascii", "replace")


_READ_BY_US: Mapping[int, Callable[[Any], Any]] = {
    7: mysql_datetime, 10: mysql_date, 12: mysql_datetime, 14: mysql_date, 16: mysql_bits,
}  # fmt: skip
"""Type numbers of MySQL: TIMESTAMP, DATE, DATETIME, NEWDATE, BIT."""

_SET = 2048
"""The flag of a column of type ``SET``."""


def _mysqlclient_cursor(connection: Any) -> Any:
    connection.converter.update(_READ_BY_US)
    return connection.cursor(importlib.import_module("MySQLdb.cursors").SSCursor)


def _pymysql_cursor(connection: Any) -> Any:
    connection.decoders = {**connection.decoders, **_READ_BY_US}
    return connection.cursor(importlib.import_module("pymysql.cursors").SSCursor)


def _mysql_connector_cursor(connection: Any) -> Any:
    base = importlib.import_module("mysql.connector.conversion").MySQLConverter
    connection.converter_class = _mysql_converter(base)
    return connection.cursor(buffered=False, raw=False)


def _mysql_converter(base: Any) -> Any:
    """A converter of mysql-connector that reads as the other drivers do.

    An error would lose the row before it, which the driver holds back until it has read the next one.
    """

    class Converter(base):  # type: ignore[misc]  # the driver need not be installed
        def to_python(self, description: Any, value: Any) -> Any:
            if value is None:
                return None
            if (read := _READ_BY_US.get(description[1])) is not None:
                return read(bytes(value))
            if description[7] & _SET:
                return bytes(value).decode(self.charset, "replace")
            if value == b"\x00":  # which the base class reads as NULL
                return self._blob_to_python(value, description)
            try:
                return super().to_python(description, value)
            except (ValueError, TypeError, ArithmeticError):
                return UnreadableValue(bytes(value).decode(errors="replace"))

        def row_to_python(self, row: Any, fields: Any) -> Any:
            return tuple(map(self.to_python, fields, row))

    return Converter


def _cut_off(connection: Any, _cursor: Any) -> None:
    """Close a connection first: its cursor would read all remaining rows, or refuse to close because of them."""
    connection.close()
    result: Any = getattr(connection, "_result", None)
    if hasattr(result, "unbuffered_active"):  # of PyMySQL, which would continue to read when it is deleted
        result.unbuffered_active = False


# -- all ----------------------------------------------------------------------------------------------------

_UNKNOWN = Driver(lambda connection: connection.cursor())

_DRIVERS: Mapping[str, Driver] = {
    "psycopg2": Driver(_psycopg2_cursor),
    "psycopg": Driver(_psycopg_cursor),
    "sqlite3": Driver(_sqlite_cursor, one_by_one=True),
    "MySQLdb": Driver(_mysqlclient_cursor, one_by_one=True, close=_cut_off),
    "pymysql": Driver(_pymysql_cursor, one_by_one=True, close=_cut_off),
    "mysql": Driver(_mysql_connector_cursor, one_by_one=True, close=_cut_off),
}
"""Top-level module of a driver's connections -> how to read with it."""
