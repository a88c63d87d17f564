"""Checks of single values: accepted values, refused values, and refusals without the value."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.client import validation
from crm_provider.errors import CrmInvalidValueError
from crm_provider.load.mapping import converters as values

UUID = "123e4567-e89b-12d3-a456-426614174000"


def refusal(check: Callable[..., Any], *arguments: Any, **limits: Any) -> str:
    """The message of a refusal."""
    with pytest.raises(CrmInvalidValueError) as raised:
        check(*arguments, **limits)
    return raised.value.message


# -- email ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "email",
    ["ada@example.com", "Ada@Example.COM", "a@b.c", "a+b/c%d#e?f@x.y", "o'brien@x.ie", "jörg@exämple.de",
     f"{'a' * 242}@example.com"],
)  # fmt: skip
def test_email_is_accepted_as_given(email: str) -> None:
    assert validation.email(email) == email


def test_text_around_an_email_is_removed() -> None:
    assert validation.email(" Ada <ada@example.com>\n") == "ada@example.com"


# -- ids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [UUID, UUID.upper(), "00000000-0000-0000-0000-000000000000"])
def test_uuid_is_accepted(value: str) -> None:
    assert validation.uuid(value, "deal_id") == value


@pytest.mark.parametrize("value", ["ada@example.com", "Ada Lovelace", "+5531999999999", "k3y-of-the-account"])
def test_value_given_for_an_id_is_not_shown(value: str) -> None:
    assert value not in refusal(validation.uuid, value, "contact_id")


OTHER = UUID.replace("1", "2")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (UUID, [UUID]),
        ([UUID], [UUID]),
        ((OTHER, UUID, OTHER), [OTHER, UUID]),
        ((value for value in [UUID]), [UUID]),
        ({UUID: 1}, [UUID]),
    ],
    ids=["one", "list", "repeated", "generator", "mapping"],
)
def test_uuids_are_deduplicated_in_order(values: Any, expected: list[str]) -> None:
    assert validation.uuids(values, "list_ids") == expected


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([], "list_ids is empty"),
        (None, "list_ids[0] is None"),
        (7, "list_ids[0] is of type int"),
        ([UUID, "x"], "list_ids[1]"),
        ("", "list_ids[0]"),
    ],
)
def test_invalid_uuids_are_refused(values: Any, problem: str) -> None:
    assert problem in refusal(validation.uuids, values, "list_ids")


# -- attributes ----------------------------------------------------------------------------------------------

JSON_VALUES: list[Any] = [
    None, True, 0, -1, 10**18, 0.5, "", "text", "é\u2028\U0001f600", [], [1, [2]], (1, 2), {}, {"a": {"b": [None]}},
]  # fmt: skip


@pytest.mark.parametrize("value", JSON_VALUES, ids=repr)
def test_json_values_are_accepted(value: Any) -> None:
    sent = json.dumps(validation.attributes({"field": value}), allow_nan=False)
    assert json.loads(sent) == {"field": list(value) if isinstance(value, tuple) else value}


LOOP: dict[str, Any] = {}
LOOP["again"] = LOOP
DEEP: list[Any] = []
for _ in range(5_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), "attributes['a'] is not a finite number"),
        (float("inf"), "attributes['a'] is not a finite number"),
        (Decimal("NaN"), "attributes['a'] is not a finite number"),
        (b"x", "attributes['a'] is a binary value; decode it to text"),
        ({1, 2}, "attributes['a'] is a value of type set; convert it to text or a number"),
        ([1, {2}], "attributes['a'][1] is a value of type set"),
        ({"b": [float("nan")]}, "attributes['a']['b'][0] is not a finite number"),
        (["\ud83d"], "attributes['a'][0] is a text with half a character (a lone surrogate); correct it"),
        ({"\udc00": 1}, "attributes['a'] is a text with half a character"),
        ({"b": {(1, 2): "x"}}, "attributes['a']['b']"),
        ({7: "x"}, "attributes['a']"),
        (10**5000, "attributes['a']"),
        (LOOP, "attributes['a']"),
        (DEEP, "attributes['a']"),
    ],
    ids=["nan", "inf", "decimal nan", "bytes", "set", "in a list", "in a mapping", "half a character", "half in a key",
         "key that is a tuple",
         "key that is a number", "a number too long for text", "in itself", "too deep"],
)  # fmt: skip
def test_value_without_a_json_form_is_refused(value: Any, place: str) -> None:
    message = refusal(validation.attributes, {"a": value})
    assert message.startswith(place)


IDENTIFIER = uuid.UUID("123e4567-e89b-12d3-a456-426614174000")


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (Decimal("10.10"), "10.10"),
        (Decimal("1E+3"), "1000"),
        (date(2024, 1, 31), "2024-01-31"),
        (time(9, 30), "09:30:00"),
        (datetime(2024, 1, 31, 12, tzinfo=timezone.utc), "2024-01-31T12:00:00Z"),
        (datetime(2024, 1, 31, 12, tzinfo=timezone(timedelta(hours=-3))), "2024-01-31T15:00:00Z"),
        (datetime(2024, 1, 31, 12), "2024-01-31T12:00:00"),  # noqa: DTZ001 - without a zone on purpose
        (IDENTIFIER, "123e4567-e89b-12d3-a456-426614174000"),
        ({"a": [Decimal("0.1"), (IDENTIFIER,)]}, {"a": ["0.1", ["123e4567-e89b-12d3-a456-426614174000"]]}),
    ],
    ids=repr,
)
def test_value_is_sent_as_a_load_sends_it(value: Any, sent: Any) -> None:
    assert validation.attributes({"a": value}) == {"a": sent}
    assert values.auto(value) == sent


def test_id_may_be_a_python_uuid() -> None:
    assert validation.uuid(IDENTIFIER, "deal_id") == UUID
    assert validation.uuids([IDENTIFIER, UUID], "list_ids") == [UUID]


@pytest.mark.parametrize(("value", "expected"), [("VIP", "VIP"), ("2024", "2024"), (2024, "2024"), (" x ", " x ")])
def test_text_is_accepted(value: Any, expected: str) -> None:
    assert validation.text(value, "list_name") == expected


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "list_name must be text but is None; give one text"),
        (True, "list_name must be text but is of type bool"),
        (1.5, "list_name must be text but is of type float"),
        (["VIP"], "list_name must be text but is of type list"),
        (" ", "list_name is empty"),
    ],
)
def test_invalid_text_is_refused(value: Any, problem: str) -> None:
    assert problem in refusal(validation.text, value, "list_name")


@pytest.mark.parametrize(
    ("check", "value", "problem"),
    [
        (
            validation.attributes,
            "{'name': 'Ada'}",
            "x must be a mapping of name to value but is the text of one; give the",
        ),
        (
            validation.attributes,
            ["Ada"],
            "x must be a mapping of name to value but is of type list; give it as {'name'",
        ),
        (validation.attributes, 5, "x must be a mapping of name to value but is of type int"),
        (
            validation.uuids,
            f"['{UUID}', '{UUID}']",
            "x is the text of a list; give the output of a task (XComArg), or set",
        ),
        (validation.uuids, 5, "x[0] is of type int, not a UUID"),
        (validation.uuid, "None", "x is the text 'None', not a UUID: the task or template that it is from gave no"),
        (validation.uuid, None, "x is None, not a UUID: the task or template that it is from gave no value. Use the"),
        (validation.email, "", "x is empty; give an email address"),
        (validation.email, ["a@ex.co"], "x must be text but is of type list; give one email address"),
        (validation.email, {"email": "a@ex.co"}, "x must be text but is of type dict; give one email address"),
    ],
)
def test_rendered_template_value_is_refused_by_name_and_type(check: Any, value: Any, problem: str) -> None:
    message = refusal(check, value, "x")
    assert message.startswith(problem)
    assert "Ada" not in message and "a@ex.co" not in message


class Attributes(dict[str, Any]):
    """A custom mapping type."""


@pytest.mark.parametrize(
    "value",
    [MappingProxyType({"b": 1}), [MappingProxyType({"b": (1, 2)})], Attributes(b=1)],
    ids=["proxy", "proxy in a list", "subclass"],
)
def test_accepted_value_can_be_sent(value: Any) -> None:
    json.dumps(validation.attributes({"a": value}))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (None, "attributes must be a mapping of name to value but is None"),
        ([("a", 1)], "attributes must be a mapping of name to value but is of type list"),
        ({}, "attributes is empty; give at least one, or leave the argument out"),
        ({"": 1}, "attributes has a name that is empty or not text"),
        ({" ": 1}, "attributes has a name that is empty or not text"),
        ({1: 1}, "attributes has a name that is empty or not text"),
        ({"{{ params.field }}": 1}, "attributes has a template as a name"),
        ({"a{% if x %}b{% endif %}": 1}, "attributes has a template as a name"),
        ({"email": "x"}, "attributes['email'] is not an attribute"),
        ({"attributes": {}}, "attributes['attributes'] is not an attribute"),
        ({"origin": {}}, "attributes['origin'] is not an attribute"),
    ],
)
def test_invalid_attributes_are_refused(values: Any, problem: str) -> None:
    assert problem in refusal(validation.attributes, values)


def test_attributes_are_copied() -> None:
    given_ = {"name": "Ada"}
    taken = validation.attributes(given_)
    given_["name"] = "Bob"
    assert taken == {"name": "Ada"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1, max_size=9), ANYTHING, min_size=1, max_size=4))
def test_any_attributes_are_sendable_or_refused(values: dict[str, Any]) -> None:
    try:
        taken = validation.attributes(values)
    except CrmInvalidValueError:
        return
    assert json.loads(json.dumps(taken, allow_nan=False)) == taken


@given(st.text("QZX", min_size=6, max_size=12))
def test_no_refusal_shows_a_value(value: str) -> None:
    checks: list[tuple[Callable[[Any], Any], Any]] = [
        (validation.email, value),
        (lambda v: validation.uuid(v, "deal_id"), value),
        (lambda v: validation.uuids([v], "list_ids"), value),
        (validation.attributes, {"a": {value}}),
        (validation.attributes, {"a": [value.encode()]}),
        (lambda v: validation.path_part(v, "x"), f"{value}\n"),
    ]
    for check, wrong in checks:
        with pytest.raises(CrmInvalidValueError) as raised:
            check(wrong)
        assert value not in f"{raised.value} {raised.value!r}"


# -- path segments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "a/b", "..x", "...", "%2e", " a ", "é", "a?b#c"])
def test_path_segment_is_accepted(value: str) -> None:
    assert validation.path_part(value, "deal_id") == value


@pytest.mark.parametrize("value", ["", " ", ".", "..", None, 7, "a\nb", "a\x00", "\ud800"])
def test_invalid_path_segment_is_refused(value: Any) -> None:
    assert refusal(validation.path_part, value, "webhookId").startswith("webhookId ")


def test_numeric_phone_number_has_lost_its_plus() -> None:
    validation.phone_is_text({"phone": "+5531999999999"})
    validation.phone_is_text(None)
    of_numpy = type("int64", (), {"__module__": "numpy", "__int__": lambda self: 5531999999999})()
    for number in (5531999999999, Decimal("5531999999999.0"), of_numpy):
        text = rf"attributes\['phone'\] must be text with a \+ .* but is of type (numpy\.)?{type(number).__name__}"
        with pytest.raises(CrmInvalidValueError, match=text):
            validation.phone_is_text({"phone": number})
    for text, happened in (("5.532E+12", "spreadsheet has shortened"), ("+5531999999999.0", "in the form of a float")):
        with pytest.raises(CrmInvalidValueError, match=happened):
            validation.phone_is_text({"phone": text})


def test_non_number_is_refused_as_a_number() -> None:
    with pytest.raises(CrmInvalidValueError, match="must be text but is not a finite number"):
        validation.email(float("nan"))  # type: ignore[arg-type]


def test_boolean_accepts_only_booleans() -> None:
    assert [validation.boolean(value, "on") for value in (True, False)] == [True, False]
    for value, kind in (("false", "of type str"), (0, "of type int"), (None, "None")):
        with pytest.raises(CrmInvalidValueError, match=rf"on must be True or False but is {kind}\.$"):
            validation.boolean(value, "on")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("{{ params.on }}", "of type str; templates are not rendered here"),
        ("{% if params.on %}true{% endif %}", "of type str; templates are not rendered here"),
        (SimpleNamespace(resolve=dict), "of type SimpleNamespace; the result of another task cannot be given here"),
        ("yes", "of type str"),
    ],
)
def test_switch_from_another_source_is_explained(value: Any, hint: str) -> None:
    assert validation.not_boolean(value, "on") == f"on must be True or False but is {hint}"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("10", "must be a whole number, 1 to 500, but is of type str"),
        ("{{ params.n }}", "must be a whole number, 1 to 500, but is of type str; templates are not rendered here"),
        (None, "must be a whole number, 1 to 500, but is None"),
        (True, "must be a whole number, 1 to 500, but is of type bool"),
        (1.5, "must be a whole number, 1 to 500, but is of type float"),
        (0, "is 0; give 1 to 500"),
        (501, "is 501; give 1 to 500"),
    ],
)
def test_a_count_is_a_whole_number_within_its_limits(value: Any, wrong: str) -> None:
    assert refusal(validation.count, value, "rows", most=500) == f"rows {wrong}"


def test_a_count_without_an_upper_limit() -> None:
    assert [validation.count(value, "rows") for value in (1, 10**9)] == [1, 10**9]
    assert validation.count(0, "rows", least=0) == 0
    assert refusal(validation.count, 0, "rows") == "rows is 0; give at least 1"
