"""From a source's value to a JSON value: pure conversions. What does not fit is said without showing the value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NoReturn

from crm_provider.load.numerals import digits
from crm_provider.load.unfit import Conversion, Unfit
from crm_provider.values.addresses import NotOneAddress, one_address
from crm_provider.values.json_values import json_safe

YES = frozenset({"true", "t", "yes", "y", "on", "1"})
NO = frozenset({"false", "f", "no", "n", "off", "0"})
"""What counts as a boolean, in any case."""


def auto(value: Any) -> Any:
    """As given, if JSON has a form for it; dates in ISO 8601, ``Decimal`` as its digits, ids as text."""
    return value.strip() if isinstance(value, str) else json_safe(value)


def text(value: Any) -> str:
    """Anything that can be written in one text."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Decimal)):
        return digits(value)
    if isinstance(value, (Mapping, list, tuple)):
        raise Unfit("a nested value", "give it the type json, or take one of its parts in the source")
    return str(json_safe(value))


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
        raise Unfit("neither true nor false", "correct it, or name the word in the options true or false")

    return convert


def email(*, lowercase: bool = False) -> Conversion:
    """One email address, without what is around it, in composed characters (NFC) and in the case given.

    :param lowercase: in lower case instead
    """

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise Unfit(f"must be text but is of type {type(value).__name__}", "give one email address")
        try:
            address = one_address(value)
        except NotOneAddress as wrong:
            raise Unfit(wrong.kind, wrong.fix) from None
        return address.lower() if lowercase else address

    return convert


def as_json(value: Any) -> Any:
    """A nested value: a text is read as JSON, anything else is kept."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_float=_exact_float, parse_constant=_no_constant)
        except (ValueError, RecursionError):  # Python also refuses whole numbers of thousands of digits
            raise Unfit("no JSON", 'correct it; a plain text needs quotes ("..."), or the type text') from None
    return json_safe(value)


def _exact_float(written: str) -> float | str:
    """A JSON number with a fraction; as text if a float would lose digits."""
    value = float(written)
    return value if math.isfinite(value) and Decimal(float.__repr__(value)) == Decimal(written) else written


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
