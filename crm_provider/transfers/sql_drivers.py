"""What differs between database drivers: cursors that stream, and values that are exact and the same in each version.

Left to themselves, psycopg 2 makes 9999-12-31 of ``infinity`` and 00:00 of ``24:00``, psycopg 3 ends the query there;
both read ``jsonb`` through floats; one has a text for ``inet`` and the other an object of its own.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from crm_provider.load.rows import Unreadable

CURSOR_NAME = "crm_load"


def streaming_cursor(connection: Any) -> Any:
    """A cursor that does not fetch the whole result at once, as the driver makes it.

    The connection reads exact values from then on, as far as its driver allows that.
    """
    driver = next((name for name in drivers_of(connection) if name in _CURSORS), None)
    return connection.cursor() if driver is None else _CURSORS[driver](connection)


def drivers_of(connection: Any) -> list[str]:
    """The top-level modules of a connection's class and of those that it is derived from."""
    return [cls.__module__.partition(".")[0] for cls in type(connection).__mro__]


def exact_json(text: str | bytes) -> Any:
    """JSON whose numbers keep their digits: a ``Decimal`` where a float would lose some."""
    return json.loads(text, parse_float=_exact_number)


# -- psycopg 2 ------------------------------------------------------------------------------------------------


def psycopg2_types() -> list[Any]:
    """Types that make :class:`Unreadable` of what Python cannot hold, and lists of arrays of ids and addresses."""
    extensions = importlib.import_module("psycopg2.extensions")
    names = ("PYDATE", "PYDATETIME", "PYDATETIMETZ", "PYTIME", "PYINTERVAL")
    originals = [getattr(extensions, name) for name in names]
    times = [extensions.new_type(kind.values, kind.name, _careful(kind)) for kind in originals]
    arrays = [extensions.new_array_type(_ARRAYS[made.name], f"{made.name}ARRAY", made) for made in times]
    inet_and_uuid_arrays = (1041, 651, 2951)
    return [*times, *arrays, extensions.new_array_type(inet_and_uuid_arrays, "TEXTS", extensions.UNICODE)]


_ARRAYS = {
    "PYDATE": (1182,), "PYDATETIME": (1115,), "PYDATETIMETZ": (1185,), "PYTIME": (1183, 1270), "PYINTERVAL": (1187,),
}  # fmt: skip
"""PostgreSQL's numbers of the arrays of each type."""


def _careful(original: Any) -> Callable[[str | None, Any], Any]:
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
    """Have a connection of psycopg 3 make :class:`Unreadable` of what Python cannot hold, and text of ``inet``.

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
        context.adapters.register_loader(name, _careful_loader(base, psycopg.DataError))
    for name in ("inet", "cidr"):
        context.adapters.register_loader(name, texts.TextLoader)
    jsons.set_json_loads(exact_json, context)


def _careful_loader(base: Any, data_error: type[Exception]) -> Any:
    class Careful(base):  # type: ignore[misc]  # the driver need not be installed
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except (data_error, ValueError, OverflowError):
                return Unreadable(bytes(data).decode(errors="replace"))

    return Careful


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
"""Drivers whose ordinary cursor takes in the whole result when the query is run, or ends at a value it cannot hold."""


# -- helpers ------------------------------------------------------------------------------------------------


def _exact_number(written: str) -> float | Decimal:
    value = float(written)
    exact = Decimal(written)
    return value if math.isfinite(value) and Decimal(repr(value)) == exact else exact
