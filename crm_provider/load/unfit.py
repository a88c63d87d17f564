"""What a conversion takes and returns, and how it says that a value cannot be converted."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias

from crm_provider.values.json_values import ConversionError

Conversion: TypeAlias = Callable[[Any], Any]
"""Takes a value that is not empty (a text without space around it); returns a JSON value or raises :class:`Unfit`."""

Unfit = ConversionError


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
