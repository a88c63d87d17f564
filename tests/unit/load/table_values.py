"""JSON values of all kinds for tables, and the JSON form of a value read from a table."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from crm_provider.values.json_values import utc_text

MOMENTS = st.datetimes(timezones=st.just(timezone.utc)).map(utc_text)
NUMBERS = st.integers(-(2**70), 2**70) | st.decimals(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text() | MOMENTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


def exact(value: Any) -> Any:
    """The value as a typed table holds it: a float as its written digits, a moment in the form that a load sends."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, Mapping):
        return {name: exact(item) for name, item in value.items()}
    return [exact(item) for item in value] if isinstance(value, list) else value
