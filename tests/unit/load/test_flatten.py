"""Records as columns and as text: nothing is lost, no digit, no name."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.extract.writers import Columns, cell_text, checked_fields, field_value, flatten
from crm_provider.values.json_values import json_text, json_value

RECORD = {
    "id": "c-1",
    "attributes": {"name": "Ada", "a.b": "dotted", "deep": {"x": 1}},
    "segmentedListsIds": ["l-1"],
    "origin": None,
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=JSON, ascii_only=st.booleans())
def test_json_comes_back_as_it_was(value: Any, ascii_only: bool) -> None:
    text = json_text(value, ascii_only=ascii_only)
    assert "\n" not in text
    assert text.encode("ascii" if ascii_only else "utf-8")
    back = json_value(text)
    assert normal(back) == normal(value)


def normal(value: Any) -> Any:
    """With numbers as they are written; a Decimal without a fraction is read as a whole number."""
    if isinstance(value, (Decimal, int)) and not isinstance(value, bool):
        return Decimal(str(value))
    if isinstance(value, list):
        return [normal(item) for item in value]
    return {k: normal(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("digits", ["1200.50", "0.10", "1E+5", "12345678901234567890.123456789", "-0.0", "1e400"])
def test_a_number_keeps_its_digits(digits: str) -> None:
    text = json_text(json_value(f'{{"n": [{digits}]}}'))
    assert json_value(text)["n"][0] == Decimal(digits)
    assert text.lower().replace("e+", "e") == f'{{"n": [{digits.lower().replace("e+", "e")}]}}'


def test_half_a_character_is_escaped_because_no_encoding_has_it() -> None:
    assert json.loads(json_text({"name": "\ud83d é"}).encode("utf-8")) == {"name": "\ud83d é"}
    assert json_text("é") == '"é"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", ""),
        ("x", "x"),
        (True, "true"),
        (7, "7"),
        (Decimal("1.10"), "1.10"),
        (["a", 1], '["a", 1]'),
        ({"a": Decimal("0.10")}, '{"a": 0.10}'),
        ([], "[]"),
    ],
)
def test_cell(value: Any, text: str | None) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "c-1"),
        ("attributes.name", "Ada"),
        ("attributes.a.b", "dotted"),
        ("attributes.deep.x", 1),
        ("attributes.deep", {"x": 1}),
        ("attributes.none", None),
        ("origin.url", None),
        ("id.x", None),
        ("none", None),
    ],
)
def test_pick(name: str, value: Any) -> None:
    assert field_value(RECORD, name) == value


def test_flat() -> None:
    assert flatten(RECORD) == {
        "id": "c-1",
        "attributes.name": "Ada",
        "attributes.a.b": "dotted",
        "attributes.deep": {"x": 1},
        "segmentedListsIds": ["l-1"],
        "origin": None,
    }


def columns(*records: dict[str, Any]) -> list[str]:
    made = Columns()
    for record in records:
        made.note(record)
    return made.names()


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        ([{"z": 1, "email": "e", "id": "i", "a": 1}], ["id", "email", "a", "z"]),
        ([{"a": 1}, {"b": None}], ["a", "b"]),
        ([{"origin": None}, {"origin": {"url": "u"}}], ["origin.url"]),
        ([{"origin": "text"}, {"origin": {"url": "u"}}], ["origin", "origin.url"]),
        ([{"origin": None}], ["origin"]),
        ([{"attributes": {}}], []),
    ],
    ids=["none", "order", "empty column", "null and mapping", "text and mapping", "only null", "empty mapping"],
)
def test_columns(records: list[dict[str, Any]], expected: list[str]) -> None:
    assert columns(*records) == columns(*reversed(records)) == expected


@given(records=st.lists(st.dictionaries(st.sampled_from("abc"), st.none() | st.integers() | st.dictionaries(
    st.sampled_from("xy"), st.none() | st.integers(), max_size=2), max_size=3), max_size=5))  # fmt: skip
def test_the_columns_hold_every_value(records: list[dict[str, Any]]) -> None:
    names = columns(*records)
    for record in records:
        assert {n for n, value in flatten(record).items() if value is not None} <= set(names)
        assert all(field_value(record, name) == value for name, value in flatten(record).items())


@pytest.mark.parametrize("fields", ["email", [], [""], [1], ["id", "id"]], ids=str)
def test_a_projection_that_makes_no_sense(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"fields"):
        checked_fields(fields)


def test_a_projection() -> None:
    assert checked_fields(None) is None
    assert checked_fields(["email", "attributes.name"]) == ("email", "attributes.name")
