"""Values of any kind as JSON has them, exactly.

What JSON has no form for becomes exact text: dates and times in ISO format, bytes in base64, what is no finite number
as its name. ``Decimal`` stays, for :func:`crm_provider.load.flatten.json_text` writes its digits.
"""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

MAX_DEPTH = 100
"""Levels of nesting that are kept; a JSON reader stops at about a thousand."""

MAX_BITS = 10_000
"""Size of a whole number that is kept as one: Python refuses to print much longer ones."""


def plain(value: Any, depth: int = 0) -> Any:
    """A value of a row with nothing in it but what JSON knows, and ``Decimal``."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if depth > MAX_DEPTH:
        return "(nested too deeply to be written)"
    if isinstance(value, Mapping):
        return {str(name): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, depth + 1) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_BITS else hex(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return value if value.is_finite() else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)
