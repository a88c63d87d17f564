"""Numbers of a source, without a float on the way. Pure conversions, as in :mod:`crm_provider.load.values`."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from crm_provider.load.unfit import Conversion, Unfit
from crm_provider.values.json_values import MAX_DIGITS, finite, whole_number

_EXACT_FLOAT = 2**53  # beyond it neighbouring whole numbers share one float


def number(*, decimal: str = ".", thousands: str = "") -> Conversion:
    """A number as text with exactly the digits given, a point before the fraction, and no float on the way.

    :param decimal: what stands before the fraction in a text
    :param thousands: what may stand between groups of three digits
    :raises ValueError: if the two cannot be told apart
    """
    if not _is_mark(decimal) or (thousands and not _is_mark(thousands)) or decimal == thousands:
        raise ValueError(
            f"decimal {decimal!r} and thousands {thousands!r} must be two different marks, like ',' and '.'"
        )
    whole = rf"\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+|\d+" if thousands else r"\d+"
    fraction = rf"{re.escape(decimal)}\d+"
    form = re.compile(rf"[+-]?(?:(?:{whole})(?:{fraction})?|{fraction})", re.ASCII)
    fix = "correct it in the source, or say how it is written with decimal and thousands"

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            return digits(value)
        written: str = value.strip()
        if thousands == " ":
            written = written.replace("\u00a0", " ").replace("\u202f", " ")  # the spaces that spreadsheets put there
        if len(written) > MAX_DIGITS or not form.fullmatch(written):
            raise Unfit("no number", fix)
        if thousands:
            written = written.replace(thousands, "")
        return written.replace(decimal, ".").removeprefix("+")

    return convert


def integer(*, decimal: str = ".", thousands: str = "") -> Conversion:
    """A whole number, as a JSON number; a fraction of zeros is dropped."""
    as_number = number(decimal=decimal, thousands=thousands)

    def convert(value: Any) -> int:
        whole, _, fraction = as_number(value).partition(".")
        if fraction.strip("0"):
            raise Unfit("no whole number", "correct it, or give it the type number")
        return whole_number(int(whole) if whole not in ("", "-") else 0)

    return convert


def digits(value: Any) -> str:
    """The digits of a number, without an exponent; those of a float are the fewest that mean the same float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise Unfit("no number", "give a number, or a text with its digits")
    if isinstance(value, int):
        return str(whole_number(int(value)))
    if isinstance(value, Decimal):
        return f"{finite(value):f}"
    if math.isfinite(value) and value.is_integer():
        if abs(value) > _EXACT_FLOAT:
            raise Unfit("a float too large to be exact", "give it as text or as a whole number in the source")
        return str(int(value))
    return f"{finite(Decimal(float.__repr__(value))):f}"


def _is_mark(mark: str) -> bool:
    return len(mark) == 1 and not mark.isalnum() and mark not in "+-"
