"""Table columns for records: names, types, and the value for a column."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest

from crm_provider.extract.columns import (
    NAME_LIMIT,
    ColumnKinds,
    SqlColumn,
    check_names,
    chosen_columns,
    fitted,
    kind_of,
    kind_of_type,
    moment,
)

NOON = "2025-12-22T12:00:00.5Z"
AT_NOON = datetime(2025, 12, 22, 12, 0, 0, 500_000, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("text", "text"), (True, "boolean"), (5, "integer"), (-(2**63), "integer"), (2**63, "number"),
        (Decimal("1.50"), "number"), (0.5, "number"), ([1], "json"), ({"a": 1}, "json"), (NOON, "timestamp"),
        ("2025-12-22T14:00:00+02:00", "timestamp"),
        ("2025-12-22T14:00:00", "text"), ("2025-12-22", "text"), ("2025-13-22T14:00:00Z", "text"),
        ("0001-01-01T00:00:00+23:00", "text"), ("2025-12-22T14:00:00.1234567Z", "text"),
    ],
)  # fmt: skip
def test_kind_of_a_value(value: Any, kind: str) -> None:
    assert kind_of(value) == kind


def test_kinds_of_all_records() -> None:
    found = ColumnKinds()
    found.note({"zip": "1", "email": "a@b.io", "id": "c-1", "origin": None, "n": 1, "at": NOON, "x": None, "tags": []})
    found.note({"n": Decimal("0.5"), "at": "soon", "origin": {"url": None}, "attributes": {}, "tags": "none", "k": 1})
    found.note({"k": 2, "n": 3, "at": NOON, "tags": [1]})
    assert list(found.kinds().items()) == [
        ("id", "text"), ("email", "text"), ("at", "text"), ("k", "integer"), ("n", "number"),
        ("origin.url", "text"), ("tags", "text"), ("x", "text"), ("zip", "text"),
    ]  # fmt: skip


def test_a_field_of_a_mapping_may_have_a_dot_in_its_name() -> None:
    found = ColumnKinds()
    found.note({"origin": None})
    found.note({"origin": {"utm.source": "ad"}})
    assert found.kinds() == {"origin.utm.source": "text"}


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("TIMESTAMP WITH TIME ZONE", "timestamp"), ("datetime(6)", "timestamp"), ("date", "date"), ("jsonb", "json"),
        ("tinyint(1)", "boolean"), ("boolean", "boolean"), ("bigint", "integer"), ("numeric(12,2)", "number"),
        ("double precision", "number"), ("varchar(10)", "text"), ("uuid", "text"), ("interval", "text"),
        ("integer[]", "text"), ("point", "text"), ("", "text"),
    ],
)  # fmt: skip
def test_kind_of_a_declared_type(declared: str, kind: str) -> None:
    assert kind_of_type(declared) == kind


@pytest.mark.parametrize(
    ("value", "kind", "fit"),
    [
        (None, "text", None), ("a", "text", "a"), (5, "text", "5"), (True, "text", "true"), ([1], "text", "[1]"),
        ("", "text", ""), ("\ud800", "text", "?"), ({"a": Decimal("1.50")}, "json", '{"a": 1.50}'),
        ("a", "json", '"a"'),
        (True, "integer", 1), (5, "integer", 5), ("5", "integer", "5"), ([1], "integer", "[1]"),
        (0.1, "number", Decimal("0.1")), (Decimal("1.50"), "number", Decimal("1.50")), (True, "number", 1),
        (True, "boolean", True), (NOON, "timestamp", AT_NOON), ("soon", "timestamp", "soon"),
        (5, "timestamp", 5), (NOON, "date", "2025-12-22"), ("22 December", "date", "22 December"),
    ],
)  # fmt: skip
def test_values_are_fitted_to_the_column(value: Any, kind: Any, fit: Any) -> None:
    found = fitted(value, kind)
    assert (found, type(found)) == (fit, type(fit))


def test_a_moment_is_in_utc_wherever_the_worker_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/Sao_Paulo")
        time.tzset()
        found = moment("2025-12-22T14:00:00+02:00")
    time.tzset()
    assert str(found) == "2025-12-22 12:00:00+00:00"


def test_chosen_columns() -> None:
    assert chosen_columns(None) is None
    assert chosen_columns(["id", "attributes.name"]) == [
        SqlColumn(field="id", name="id"), SqlColumn(field="attributes.name", name="attributes_name"),
    ]  # fmt: skip
    assert chosen_columns({"id": " uuid ", "n.m": {"column": "N", "type": "numeric(12, 2)"}, "x": {}}) == [
        SqlColumn(field="id", name="id", declared="uuid"),
        SqlColumn(field="n.m", name="N", kind="number", declared="numeric(12, 2)"),
        SqlColumn(field="x", name="x"),
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("id", "must be a list of fields"),
        ([], "must be a list of fields"),
        (5, "must be a list of fields"),
        ([""], "must name fields"),
        ([5], "must name fields"),
        ({"id": 5}, r"columns\['id'\] must be a type, or a mapping"),
        ({"id": {"typ": "text"}}, "must be a type, or a mapping"),
        ({"id": "text); DROP TABLE x; --"}, "has no valid type"),
        ({"id": {"type": 5}}, "has no valid type"),
        ({"id": {"column": 5}}, "has a column name that is not text"),
        ({"id": {"column": " "}}, "cannot have a column of its name"),
        (["a\0"], "cannot have a column of its name"),
        (["a" * (NAME_LIMIT + 1)], "1 to 63 bytes; name its column with columns="),
        (["a" * 101], f"the field '{'a' * 100}' cannot have a column of its name"),
        (["a.b", "A_B", "c"], "the fields 'a.b', 'A_B' would have the same column"),
        (["a", "A", "b", "a", "a", "a"], "the fields 'a', 'A', 'a', 'a' would have the same column"),
    ],
)
def test_invalid_columns_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_columns(given)
    check_names([SqlColumn(field="a" * NAME_LIMIT, name="a" * NAME_LIMIT), SqlColumn(field="b", name="\ud800")])
