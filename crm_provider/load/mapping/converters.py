"""Converts a value of the source to a JSON value: text, numbers, booleans, addresses and JSON.

The conversions are pure functions. Numbers keep their digits, and no error message shows the value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

from crm_provider.client.validation import FLOAT_AS_TEXT, float_as_text
from crm_provider.values.addresses import NotOneAddress, one_address
from crm_provider.values.json_values import MAX_DIGITS, ConversionError, finite, json_safe, plain, whole_number

Conversion: TypeAlias = Callable[[Any], Any]
"""Takes a value that is not empty (a text without space around it); returns a JSON value.

It raises :class:`~crm_provider.values.json_values.ConversionError`.
"""


REMEMBERED = 16_384
"""Texts of a column whose values are remembered: the days of 45 years, in about 4 MB."""

LONGEST_REMEMBERED = 64
"""Characters of such a text. A format with a space reads any number of spaces, so that long texts may be dates, too."""


def remembered(convert: Conversion) -> Conversion:
    """A conversion that takes the value of a text from its memory: for types whose texts repeat from row to row.

    :param convert: gives values that do not change
    """
    of_text = lru_cache(maxsize=REMEMBERED)(convert)
    return lambda value: (
        of_text(value) if isinstance(value, str) and len(value) <= LONGEST_REMEMBERED else convert(value)
    )


def is_empty(value: Any) -> bool:
    """Whether there is no value: None, a blank text, NaN, or what pandas writes for them."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return type(value).__name__ in ("NaTType", "NAType")  # pandas' NaT is a datetime, and NA has no truth value


_EXACT_FLOAT = 2**53  # beyond it neighbouring whole numbers share one float


OTHER_MARKS = "correct it in the source, or set the options decimal and thousands of the mapping"
OTHER_CHARACTERS = "remove what is not part of the number in the source, such as a currency sign, a unit or letters"


def number(*, decimal: str = ".", thousands: str = "") -> Conversion:
    """A number as text with exactly the given digits and a point before the fraction, never through a float.

    :param decimal: the mark before the fraction in a text
    :param thousands: the mark that may separate groups of three digits
    :raises ValueError: if the two are the same or not marks
    """
    if not _is_mark(decimal) or (thousands and not _is_mark(thousands)) or decimal == thousands:
        raise ValueError(
            f"decimal {decimal!r} and thousands {thousands!r} must be two different marks, like ',' and '.'"
        )
    whole = rf"\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+|\d+" if thousands else r"\d+"
    fraction = rf"{re.escape(decimal)}\d+"
    form = re.compile(rf"[+-]?(?:(?:{whole})(?:{fraction})?|{fraction})", re.ASCII)
    marks = {*"0123456789+-.,' \u00a0\u202f", decimal, thousands}

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            return digits(value)
        written: str = value.strip()
        for variant in _VARIANTS.get(thousands, ""):
            written = written.replace(variant, thousands)
        if len(written) > MAX_DIGITS or not form.fullmatch(written):
            raise ConversionError("not a number", OTHER_CHARACTERS if set(written) - marks else OTHER_MARKS)
        if thousands:
            written = written.replace(thousands, "")
        return written.replace(decimal, ".").removeprefix("+")

    return convert


_VARIANTS = {" ": "\u00a0\u202f\u2009", "'": "\u2019"}
"""Separator of thousands -> what spreadsheets write in its place: spaces that do not break, Swiss apostrophes."""


_SAY_WHICH = "give the option decimal='.', or decimal=',' and thousands='.'"
_MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}\.\d{3}", re.ASCII)


def integer(*, decimal: str | None = None, thousands: str = "") -> Conversion:
    """A whole number, as a JSON number; a fraction of zeros is dropped.

    Unless an option says what the point is, a text such as ``1.000`` is refused: much of the world writes 1000 so.
    """
    as_number = number(decimal="." if decimal is None else decimal, thousands=thousands)
    is_open = decimal is None and not thousands

    def convert(value: Any) -> int:
        if is_open and isinstance(value, str) and _MAYBE_THOUSANDS.fullmatch(value):
            raise ConversionError("a point that may separate thousands", _SAY_WHICH)
        whole, _, fraction = as_number(value).partition(".")
        if fraction.strip("0"):
            raise ConversionError("not a whole number", "correct it, or give it the type number")
        return whole_number(int(whole) if whole not in ("", "-") else 0)

    return convert


def digits(value: Any) -> str:
    """The digits of a number, without an exponent; of a float, the fewest that give the same float."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise ConversionError("not a number", "give a number, or a text with its digits")
    if isinstance(value, int):
        return str(whole_number(int(value)))
    if isinstance(value, Decimal):
        return f"{finite(value):f}"
    if math.isfinite(value) and value.is_integer():
        if abs(value) > _EXACT_FLOAT:
            raise ConversionError("a float too large to be exact", "give it as text or as a whole number in the source")
        return str(int(value))
    return f"{finite(Decimal(float.__repr__(value))):f}"


def _is_mark(mark: str) -> bool:
    return len(mark) == 1 and not mark.isalnum() and mark not in "+-"


YES = frozenset({"true", "t", "yes", "y", "on", "1"})
NO = frozenset({"false", "f", "no", "n", "off", "0"})
"""What counts as a boolean, in any case."""


def auto(value: Any) -> Any:
    """The value as JSON: dates in ISO 8601, ``Decimal`` as its digits, ids as text."""
    return value.strip() if isinstance(value, str) else json_safe(value)


_E164 = re.compile(r"\+\d+", re.ASCII)


def is_e164(text: str) -> bool:
    """Whether a text is a phone number as the CRM shows it, so that :func:`only_text` returns it."""
    return _E164.fullmatch(text) is not None


def only_text(value: Any) -> str:
    """A text without the space around it, and without the apostrophe by which a spreadsheet keeps ``+55`` a text.

    A phone number that is, or was, a number has lost its ``+`` or its digits.

    :raises ConversionError: for any other value, and for a text that a program has made of a float
    """
    if not isinstance(value, str):
        raise ConversionError("no text", "give it as text, or give the field the type 'phone' or 'text'")
    written = value.strip()
    if written.startswith("'+"):
        written = written[1:]
    if FLOAT_AS_TEXT.fullmatch(written):
        raise ConversionError(*float_as_text(written))
    return written


def text(value: Any) -> str:
    """Any single value as text."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Decimal)):
        return digits(value)
    if isinstance(value, (Mapping, list, tuple)):
        raise ConversionError("a nested value", "give it the type json, or take one of its parts in the source")
    safe = json_safe(value)
    return safe if isinstance(safe, str) else text(safe)


def boolean(*, true: Iterable[str] = (), false: Iterable[str] = ()) -> Conversion:
    """A JSON boolean.

    :param true: more words for true, besides :data:`YES`
    :param false: more words for false, besides :data:`NO`
    :raises ValueError: if a word means both
    """
    yes = YES | {word.strip().casefold() for word in true}
    no = NO | {word.strip().casefold() for word in false}
    if yes & no:
        raise ValueError(f"{', '.join(map(repr, sorted(yes & no)))} would be true and false; leave one of them out")

    def convert(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        word = text(value).casefold()
        if word in yes or word in no:
            return word in yes
        raise ConversionError("neither true nor false", "correct it, or add it to the mapping's option true or false")

    return convert


def email(*, lowercase: bool = False) -> Conversion:
    """One email address, unwrapped, in composed characters (NFC) and in the given case.

    :param lowercase: convert to lower case
    """

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise ConversionError(f"must be text but is of type {type(value).__name__}", "give one email address")
        try:
            address = one_address(value)
        except NotOneAddress as wrong:
            raise ConversionError(wrong.kind, wrong.fix) from None
        return address.lower() if lowercase else address

    return convert


def as_json(value: Any) -> Any:
    """A nested value: text is parsed as JSON, anything else is kept."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_float=_exact_float, parse_constant=_no_constant)
        except (ValueError, RecursionError):  # Python also refuses whole numbers of thousands of digits
            raise ConversionError(
                "not valid JSON", 'correct it; a plain text needs quotes ("..."), or the type text'
            ) from None
    return json_safe(value)


def _exact_float(written: str) -> float | str:
    """A JSON number with a fraction; as text if a float would lose digits."""
    value = float(written)
    return value if math.isfinite(value) and Decimal(float.__repr__(value)) == Decimal(written) else written


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")
