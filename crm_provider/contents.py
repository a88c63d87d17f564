"""The JSON of an answer as Python values that can be kept, compared, written and sent on."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

MAX_NESTING = 100
"""Levels of objects and lists in a success; records have three. What is deeper breaks whoever walks through it."""

UNREADABLE = object()
"""Stands for a body that is no JSON."""


def parsed_body(body: bytes) -> Any:
    """The body as JSON, as far as Python can read it; None if it is empty, :data:`UNREADABLE` if it is no JSON."""
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return UNREADABLE


def content_of(body: bytes, *, exact: bool) -> Any:
    """As :func:`parsed_body`, for who goes on with it: every number is one, every text can be written somewhere."""
    if not body.strip():
        return None
    try:
        found = json.loads(body, parse_float=Decimal if exact else _finite, parse_constant=_finite)
    except (ValueError, ArithmeticError, RecursionError):
        return UNREADABLE
    if body.count(b"{") + body.count(b"[") > MAX_NESTING and is_too_deep(found):
        return UNREADABLE
    return _whole_characters(found) if _HALF_CHARACTER.search(body) else found


def is_too_deep(value: Any) -> bool:
    """Whether there are more than :data:`MAX_NESTING` levels of objects and lists in a JSON value."""
    level, depth = [value], 0
    while level and depth <= MAX_NESTING:
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level, depth = [item for items in inner for item in items], depth + 1
    return bool(level)


# -- helpers ------------------------------------------------------------------------------------------------


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("no number of JSON, or too large for one")
    return number


_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")
"""How half a surrogate pair may look in JSON; whole ones and UTF-16 too."""


def _whole_characters(value: Any) -> Any:
    """Halves of characters put together or, where the other half is cut off, replaced: nothing can be made of them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(item) for name, item in value.items()}
    return value
