"""The model's own rules, as documented. The engine does not run here."""

from __future__ import annotations

from typing import Any

import pytest

from .model import same, wanted_of
from .scenario import LoadSpec


@pytest.mark.parametrize(
    ("found", "wanted", "is_same"),
    [
        ("x", "x", True), ("x", "y", False), (1, "1", True), ("1", 1, True), (1, 1.0, True), (None, None, True),
        (None, "", False), (True, True, True), (True, 1, False), (1, True, False), ("True", True, False),
        ([1], [1], True), ([1], [True], False), ([True], [True], True), ([[1]], [[True]], False), (["1"], [1], False),
    ],
)  # fmt: skip
def test_equal_values(found: Any, wanted: Any, is_same: bool) -> None:
    assert same(found, wanted) is is_same


ROWS = {
    1: {"email": "ada@x.org"},
    2: {"email": " ADA@x.org "},
    3: {"email": "nobody"},
    4: {"email": ""},
    5: {"email": "zoe\u0301@x.org"},
    6: {"email": "bob@x.org"},
}


@pytest.mark.parametrize(
    ("duplicates", "statuses"),
    [
        ("last", ["duplicate", "send", "invalid", "invalid", "suppressed", "send"]),
        ("first", ["send", "duplicate", "invalid", "invalid", "suppressed", "send"]),
        ("reject", ["ambiguous", "ambiguous", "invalid", "invalid", "suppressed", "send"]),
    ],
)
def test_request_of_each_row(duplicates: str, statuses: list[str]) -> None:
    spec = LoadSpec((), duplicates=duplicates, suppression=("ZO\u00c9@X.ORG",))
    assert [row.status for row in wanted_of(ROWS, spec).values()] == statuses


@pytest.mark.parametrize(
    ("empty", "attributes"),
    [
        ("skip", {"a": "x"}),
        ("clear", {"a": "x", "b": "", "c": "", "d": ""}),
        ("null", {"a": "x", "b": None, "c": None, "d": None}),
        ("keep", {"a": "x", "b": "", "c": "  ", "d": None}),
    ],
)
def test_empty_cell(empty: str, attributes: dict[str, Any]) -> None:
    row = {"email": "ada@x.org", "a": " x ", "b": "", "c": "  ", "d": None}
    assert wanted_of({1: row}, LoadSpec((), empty=empty))[1].attributes == attributes
