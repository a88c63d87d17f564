"""JSON values: conversion of any value, lines of JSON, comparison.

The hook, operators, loads and rejects all convert values like this:

===================================  ===============================================================
value                                becomes
===================================  ===============================================================
text                                 the same, if it has no lone surrogate
``True``, ``False``, ``None``        the same
whole number, float                  the same, if it is finite and has a usual size; also a NumPy integer
``Decimal``                          text with exactly its digits
time with a zone                     text in UTC: ``2024-01-31T12:00:00Z``
other dates and times                text in ISO 8601, unchanged
``uuid.UUID``                        text
list, tuple, mapping                 a list or an object with converted values
anything else                        :class:`ConversionError`
===================================  ===============================================================

The comparison decides whether the CRM shows the values that were sent. Contacts, deals, the hook and loads use it.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """A JSON value in one line; ``Decimal`` keeps its digits.

    :param ascii_only: escape all other characters; by default only lone surrogates, which cannot be encoded
    """
    try:
        text = json.dumps(value, ensure_ascii=ascii_only)
    except TypeError:  # it contains a Decimal
        text = _exact_text(value, ascii_only=ascii_only)
    return text if ascii_only or not _SURROGATE.search(text) else json_text(value, ascii_only=True)


def _exact_text(value: Any, *, ascii_only: bool) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        pairs = (
            f"{json.dumps(k, ensure_ascii=ascii_only)}: {_exact_text(v, ascii_only=ascii_only)}"
            for k, v in value.items()
        )
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_exact_text(item, ascii_only=ascii_only) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def json_value(text: str | bytes) -> Any:
    """Read what :func:`json_text` wrote.

    :raises ValueError: if it is not JSON
    """
    return json.loads(text, parse_float=Decimal)


MAX_DEPTH = 50
"""Levels of nesting in a JSON value. Attributes have one or two."""

MAX_BITS = 1024
"""Bits of a whole number. Python refuses to print much larger ones."""

MAX_DIGITS = 400
"""Digits of a number before or after the point. Python's floats end at 308."""

LENIENT_DEPTH, LENIENT_BITS = 100, 10_000
"""The limits of :func:`lenient_json`. JSON parsers stop at about a thousand levels."""


class ConversionError(Exception):
    """A value that cannot be converted.

    :param kind: the problem; the same text for the same mistake in every row
    :param fix: what to do about it
    :param where: the place within a nested value: ``['tags'][0]``
    """

    def __init__(self, kind: str, fix: str, where: str = "") -> None:
        super().__init__(f"{kind}; {fix}")
        self.kind = kind
        self.fix = fix
        self.where = where

    def within(self, name: object) -> ConversionError:
        """The same error with the place extended by the surrounding value."""
        return type(self)(self.kind, self.fix, f"[{name!r}]{self.where}")


def json_safe(value: Any) -> Any:
    """A value converted to JSON types.

    :raises ConversionError: if it has no exact JSON form; the message shows no value
    """
    return _safe(value, 0)


def lenient_json(value: Any, depth: int = 0) -> Any:
    """A value of a rejected row, converted without loss.

    A value that :func:`json_safe` refuses becomes text: bytes in base64, a number that is not finite as its name,
    anything else as Python prints it. Times keep their zone. ``Decimal`` stays, because :func:`json_text` writes its
    digits.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if depth > LENIENT_DEPTH:
        return "(nested too deeply to be written)"
    if isinstance(value, Mapping):
        return {str(name): lenient_json(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [lenient_json(item, depth + 1) for item in value]
    return _lenient_scalar(value)


def utc_text(moment: datetime) -> str:
    """A time in ISO 8601: in UTC with ``Z`` if its zone is known, else unchanged.

    The fraction has no digits, three or six, as needed.

    :raises ConversionError: if it is outside of the years 1 to 9999 in UTC
    """
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(timezone.utc)
        except OverflowError:
            raise ConversionError("a time outside the years 1 to 9999", "correct it in the source") from None
    unit = "seconds" if not moment.microsecond else "microseconds" if moment.microsecond % 1000 else "milliseconds"
    written = moment.replace(tzinfo=None).isoformat(timespec=unit)
    return written if moment.tzinfo is None else f"{written}Z"


def whole_text(value: str) -> str:
    """A text without lone surrogates, which cannot be encoded.

    :raises ConversionError: if it has one
    """
    if not value.isascii() and _SURROGATE.search(value):
        raise ConversionError("a text with half a character (a lone surrogate)", "correct it in the source")
    return value


def whole_number(value: int) -> int:
    """A whole number of at most :data:`MAX_BITS` bits.

    :raises ConversionError: if it is larger
    """
    if value.bit_length() > MAX_BITS:
        raise ConversionError("too large a number", "give it as text")
    return value


def finite(value: Any) -> Any:
    """A finite float or ``Decimal`` of at most :data:`MAX_DIGITS` digits.

    :raises ConversionError: if it is not finite or longer
    """
    exact = isinstance(value, Decimal)
    if not (value.is_finite() if exact else math.isfinite(value)):
        raise ConversionError("not a finite number", "correct it, or leave it empty")
    if exact and abs(value.adjusted()) > MAX_DIGITS:
        raise ConversionError("a number of too many digits", "give it as text")
    return value


def _safe(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConversionError(f"nested more than {MAX_DEPTH} levels deep", "flatten it")
    if value is None or isinstance(value, (str, bool)):
        return whole_text(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return whole_number(int(value))
    if isinstance(value, float):
        return float(finite(value))
    if isinstance(value, (list, tuple)):
        return [_within(item, number, depth) for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ConversionError("a nested value with a name that is not text", "JSON has only text names; convert it")
        return {whole_text(name): _within(item, name, depth) for name, item in value.items()}
    known = plain(value)
    return _as_text(value) if known is value else _safe(known, depth)


def plain(value: Any) -> Any:
    """A whole number or boolean of NumPy, as pandas gives it, as that of Python; any other value unchanged."""
    kind = type(value)
    if kind.__module__ != "numpy":
        return value
    if kind.__name__ in ("bool", "bool_"):
        return bool(value)
    return int(value) if kind.__name__.startswith(("int", "uint")) else value  # a timedelta64 has an int(), too


def _within(value: Any, name: object, depth: int) -> Any:
    try:
        return _safe(value, depth + 1)
    except ConversionError as wrong:
        raise wrong.within(name) from None


def _as_text(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{finite(value):f}"
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise ConversionError("a binary value", "decode it to text")
    raise ConversionError(f"a value of type {type(value).__name__}", "convert it to text or a number")


def _lenient_scalar(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, int):
        return value if value.bit_length() <= LENIENT_BITS else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return value if value.is_finite() else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value)


def shows(attributes: Any, wanted: Mapping[str, Any] | None) -> bool:
    """Whether attributes as the CRM shows them have all of these values, so that writing them would change nothing.

    :param attributes: attributes of a record; anything but a mapping counts as none
    :param wanted: name -> value as it would be sent
    """
    found = attributes if isinstance(attributes, Mapping) else {}
    return all(name in found and same_value(found[name], value) for name, value in (wanted or {}).items())


def same_value(found: Any, wanted: Any) -> bool:
    """Whether two JSON values are equal. A number equals its text; true does not equal 1.

    >>> same_value("5", 5), same_value(True, 1), same_value([True], [1])
    (True, False, False)
    """
    if _is_scalar(found) and _is_scalar(wanted) and isinstance(found, str) is not isinstance(wanted, str):
        return str(found) == str(wanted)
    return _same_json(found, wanted)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _same_json(found: Any, wanted: Any) -> bool:
    """Equality of JSON: a boolean is never a number, at any depth."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(_same_json(found[name], wanted[name]) for name in found)
    if isinstance(found, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(map(_same_json, found, wanted))
    return bool(found == wanted)
