"""The mapping: errors before the first row, mapped rows, and messages without values."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.client import validation
from crm_provider.load.kinds.deletions import DeleteMapper
from crm_provider.load.mapping.columns import LONGEST, WORDS, NullWords
from crm_provider.load.mapping.deal_mapper import DealMapper
from crm_provider.load.mapping.fields import EMPTIES, TYPES
from crm_provider.load.mapping.mapper import KEPT_PLANS, Mapper, RecordMapper
from crm_provider.load.rows import Contact, InvalidRow, Problem, Row, SourceError

ADA = {"mail": "ada@example.com"}


def contact(mapping: Mapping[str, Any] | None, values: Mapping[str, Any], **options: Any) -> Contact:
    return Mapper(mapping, **options)(Row(1, values))


def attributes(mapping: Mapping[str, Any], values: Mapping[str, Any], **options: Any) -> Mapping[str, Any]:
    """The attributes of Ada's contact."""
    return contact({"email": "mail", **mapping}, {**ADA, **values}, **options).attributes


def problems(mapper: Mapper, values: Mapping[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(InvalidRow) as raised:
        mapper(Row(1, values))
    return raised.value.problems


def refusal(mapping: Any, **options: Any) -> str:
    with pytest.raises(SourceError) as raised:
        Mapper(mapping, **options)
    return str(raised.value)


# -- a whole contact -----------------------------------------------------------------------------------------


def test_row_becomes_a_contact() -> None:
    mapping = {
        "email": "E-mail",
        "name": "Nome",
        "phone": {"column": "Telefone", "type": "phone"},
        "birthday": {"column": "Nascimento", "type": "date", "format": "%d/%m/%Y"},
        "amount": {"column": "Valor", "type": "number", "decimal": ",", "thousands": "."},
        "vip": {"column": "VIP", "type": "boolean", "true": "sim", "false": ["não"]},
        "attributes.crm.tier": {"column": "Nivel", "default": "standard"},
        "tags": {"column": "Tags", "type": "json"},
        "origin.utmSource": {"constant": "warehouse"},
        "origin.url": "Url",
    }
    row = {
        "E-mail": " Ada@Example.com ",
        "Nome": "Ada Lovelace ",
        "Telefone": "(31) 99999-9999",
        "Nascimento": "10/12/1815",
        "Valor": "1.234,50",
        "VIP": "Sim",
        "Nivel": " ",
        "Tags": '["a", "b"]',
        "Url": "https://example.com/",
        "Ignored": "x",
    }
    assert contact(json.loads(json.dumps(mapping)), row, region="BR") == Contact(
        email="Ada@Example.com",
        attributes={
            "name": "Ada Lovelace",
            "phone": "+5531999999999",
            "birthday": "1815-12-10",
            "amount": "1234.50",
            "vip": True,
            "crm.tier": "standard",
            "tags": ["a", "b"],
        },
        origin={"utmSource": "warehouse", "url": "https://example.com/"},
    )


@pytest.mark.parametrize("given", [5531999999999, 5531999999999.0, Decimal(5531999999999), True, ["+55"]])
@pytest.mark.parametrize("mapping", [None, {"email": "email", "phone": "phone"}])
def test_a_phone_number_that_is_no_text_has_lost_its_plus(mapping: Any, given: Any) -> None:
    (problem,) = problems(Mapper(mapping), {"email": "a@x.co", "phone": given})
    assert str(problem) == "phone: no text; give it as text, or give the field the type 'phone' or 'text'"


def test_a_phone_number_as_text_and_one_with_a_type_are_sent() -> None:
    assert attributes({"phone": "tel"}, {"tel": " +5531999999999 "}) == {"phone": "+5531999999999"}
    assert attributes({"phone": "tel"}, {"tel": "'+5531999999999"}) == {"phone": "+5531999999999"}
    assert attributes({"phone": "tel"}, {"tel": None}) == {}
    line = {"column": "tel", "type": "phone", "region": "BR"}
    assert attributes({"phone": line}, {"tel": 5531999999999}) == {"phone": "+5531999999999"}
    assert attributes({"phone": {"column": "tel", "type": "text"}}, {"tel": 5}) == {"phone": "5"}
    assert attributes({"mobile": "tel"}, {"tel": 5}) == {"mobile": 5}
    line = {"column": "tel", "default": " +55 "}
    assert attributes({"phone": line}, {"tel": None}) == {"phone": "+55"}
    assert "'default' is no text" in refusal({"email": "mail", "phone": {"column": "tel", "default": 55}})
    for local in ("(31) 99999-9999", "5531999999999", "0800.10", "\uff0b55"):
        assert attributes({"phone": "tel"}, {"tel": local}) == {"phone": local}


@pytest.mark.parametrize("given", ["5.532E+12", "5,532e12", " 5531999999999.0", "+5531999999999.0", "5531999999999,00"])
@pytest.mark.parametrize("mapping", [None, {"email": "email", "phone": "phone"}])
def test_a_phone_number_that_a_spreadsheet_or_pandas_has_made_a_float_is_not_sent(mapping: Any, given: str) -> None:
    (problem,) = problems(Mapper(mapping), {"email": "a@x.co", "phone": given})
    happened = "that a spreadsheet has shortened; format" if "e" in given.lower() else "in the form of a float; write"
    assert str(problem).startswith(f"phone: a phone number {happened} its column as text")


def test_email_alone_is_enough() -> None:
    assert contact({"email": "mail"}, ADA) == Contact("ada@example.com", {}, None)


def test_origin_without_a_value_is_none() -> None:
    assert contact({"email": "mail", "origin.url": "url"}, {**ADA, "url": ""}).origin is None


def test_lowercase_email_applies_to_all_addresses() -> None:
    mapping = {"email": "mail", "boss": {"column": "boss", "type": "email"}, "name": "name"}
    row = {"mail": "Ada@Example.com", "boss": "Bob@Example.com", "name": "Ada"}
    assert contact(mapping, row).email == "Ada@Example.com"
    found = contact(mapping, row, lowercase_email=True)
    assert (found.email, found.attributes) == ("ada@example.com", {"boss": "bob@example.com", "name": "Ada"})


def test_region_of_a_field_overrides_that_of_the_mapping() -> None:
    mapping = {"a": {"column": "tel", "type": "phone"}, "b": {"column": "tel", "type": "phone", "region": "US"}}
    with pytest.raises(InvalidRow) as raised:
        attributes(mapping, {"tel": "(31) 99999-9999"}, region="BR")
    assert [problem.field for problem in raised.value.problems] == ["b"]


# -- empty values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("empty", "given", "expected"),
    [
        ("skip", "", {}),
        ("skip", None, {}),
        ("skip", " \t", {}),
        ("skip", math.nan, {}),
        ("clear", None, {"name": ""}),
        ("clear", " ", {"name": ""}),
        ("clear", math.nan, {"name": ""}),
        ("null", "", {"name": None}),
        ("null", None, {"name": None}),
        ("keep", "", {"name": ""}),
        ("keep", " \t", {"name": " \t"}),
        ("keep", None, {"name": None}),
        ("keep", math.nan, {"name": None}),
        ("keep", Decimal("NaN"), {"name": None}),
    ],
)
def test_empty_values(empty: str, given: Any, expected: Mapping[str, Any]) -> None:
    line = {"name": {"column": "first", "empty": empty}}
    assert attributes(line, {"first": given}) == expected
    assert attributes(line, {"first": given}, empty="null" if empty == "skip" else "skip") == expected
    assert attributes({"name": "first"}, {"first": given}, empty=empty) == expected
    assert attributes({"name": {"column": "first", "type": "number", "empty": empty}}, {"first": given}) == expected
    identity = contact(None, {"email": "a@b.c", "name": given}, empty=empty)
    assert identity.attributes == expected


@pytest.mark.parametrize("given", ["", None, " ", math.nan])
def test_default_replaces_an_empty_value_and_is_converted(given: Any) -> None:
    line = {"column": "tel", "type": "phone", "region": "BR", "default": "(31) 99999-9999"}
    assert attributes({"phone": line}, {"tel": given}, empty="clear") == {"phone": "+5531999999999"}


@pytest.mark.parametrize("given", ["", None, " ", math.nan])
@pytest.mark.parametrize("empty", EMPTIES)
def test_empty_email_is_always_a_problem(given: Any, empty: Any) -> None:
    fix = "give an email address, or leave out the row"
    assert problems(Mapper({"email": "mail"}, empty=empty), {"mail": given}) == (
        Problem("email", "mail", "empty", fix),
    )


# -- invalid rows --------------------------------------------------------------------------------------------


def test_all_problems_of_a_row_are_reported_at_once() -> None:
    mapper = Mapper(
        {
            "email": "mail",
            "phone": {"column": "tel", "type": "phone", "region": "BR"},
            "born": {"column": "born", "type": "date"},
            "origin.url": "url",
            "attributes.a.b": "photo",
            "name": "name",
        }
    )
    row = {"mail": "ada at example.com", "tel": "secret-123", "born": "31/12/1999", "photo": b"secret", "name": "Ada"}
    found = problems(mapper, row)
    assert [(problem.field, problem.column, problem.kind) for problem in found] == [
        ("email", "mail", "is not a valid email address (it has no @)"),
        ("phone", "tel", "not a valid phone number"),
        ("born", "born", "not a valid date"),
        ("origin.url", "url", "column missing"),
        ("attributes.a.b", "photo", "a binary value"),
    ]
    text = str(InvalidRow(*found))
    assert "email (column 'mail'): is not a valid email address" in text
    assert not [value for value in row.values() if str(value) in text]


def test_row_that_its_source_could_not_read_is_invalid() -> None:
    with pytest.raises(InvalidRow) as raised:
        Mapper({"email": "mail"})(Row(7, ADA, problem="line 8 has 4 values instead of 3"))
    assert raised.value.problems == (Problem("", "", "cannot be read", "line 8 has 4 values instead of 3"),)


def test_column_may_be_missing_if_the_field_is_optional() -> None:
    line = {"column": "tier", "optional": True}
    assert attributes({"tier": line}, {}) == {}
    assert attributes({"tier": {**line, "empty": "clear"}}, {}) == {"tier": ""}
    assert attributes({"tier": {**line, "default": "standard"}}, {}) == {"tier": "standard"}
    assert attributes({"tier": line}, {"tier": "gold"}) == {"tier": "gold"}


# -- invalid mappings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "but is empty"),
        (["email"], "but is a list"),
        ("email", "but is a str"),
        ({"name": "name"}, "mapping has no 'email', which identifies a contact; add 'email': '<column>'"),
        ({"e-mail": "mail"}, "did you mean 'email' in place of 'e-mail'?"),
        ({"Email": "mail", "name": "name"}, "did you mean 'email' in place of 'Email'?"),
        ({"E-mail": "email", "Nome": "name"}, "a line is the CRM's field, then the column: 'email': 'E-mail'"),
    ],
)
def test_malformed_mapping_is_refused(mapping: Any, message: str) -> None:
    assert message in refusal(mapping)


@pytest.mark.parametrize(
    ("field", "spec", "message"),
    [
        (1, "x", "mapping[1]: a field's name must be text"),
        ("", "x", "mapping['']: a field's name must be text, not empty"),
        (" name", "x", "without space around it"),
        ("attributes", {"name": "x"}, "name a single field of it; did you mean 'attributes.<name>'?"),
        ("origin", "x", "did you mean 'origin.<name>'?"),
        ("attributes.email", "x", "no attribute can be called 'email'"),
        ("attributes.origin", "x", "no attribute can be called 'origin'"),
        ("orign.utmSource", "x", "did you mean 'origin.utmSource'?"),
        ("attribute.name", "x", "did you mean 'attributes.name'?"),
        ("billing.city", "x", "did you mean 'attributes.billing.city'?"),
        ("origin.", "x", "a name with a dot"),
        ("attributes.mail", "x", None),
        ("name", "x", None),
        (
            "name",
            None,
            'mapping[\'name\']: give a column\'s name, or a mapping such as {"column": "tel"}, but not null',
        ),
        ("name", ["a", "b"], "but not a list"),
        ("name", "", "'column' is empty"),
        ("name", {}, "'column' is missing; name the source's column, or give a 'constant'"),
        ("name", {"column": 3}, "'column' is a int"),
        ("name", {"colum": "x"}, "option 'colum' is unknown; did you mean 'column'?"),
        ("name", {"column": "x", "type": "txt"}, "type 'txt' is unknown; did you mean 'text'?"),
        ("name", {"column": "x", "type": ["text"]}, "is unknown; known: "),
        ("name", {"column": "x", "type": None}, "type None is unknown"),
        ("name", {"column": "x", "empty": "skp"}, "empty 'skp' is unknown; did you mean 'skip'?"),
        ("name", {"column": "x", "empty": "skip", "default": "y"}, "leave out 'empty'"),
        ("name", {"column": "x", "default": ""}, "'default' is empty; use 'empty'"),
        ("name", {"column": "x", "default": None}, "'default' is empty"),
        ("name", {"column": "x", "type": "date", "default": "soon"}, "'default' is not a valid date; correct it"),
        ("name", {"column": "x", "optional": "yes"}, "'optional' must be true or false, not a str"),
        ("name", {"column": "x", "region": "BR"}, "option 'region' needs the type 'phone', not 'auto'"),
        ("name", {"column": "x", "format": "%Y"}, "option 'format' needs the type 'date' or 'datetime', not 'auto'"),
        ("name", {"column": "x", "type": "date", "format": "%Y"}, "does not hold the month"),
        ("name", {"column": "x", "type": "date", "format": 5}, "'format' must be text, not a int"),
        ("name", {"column": "x", "type": "datetime", "timezone": "Mars"}, "timezone 'Mars' is not known"),
        ("name", {"column": "x", "type": "number", "decimal": ",", "thousands": ","}, "two different marks"),
        ("name", {"column": "x", "type": "phone", "region": "UK"}, "did you mean 'GB'?"),
        ("name", {"column": "x", "type": "boolean", "true": [1]}, "'true' must be a word or a list of words"),
        ("name", {"column": "x", "type": "boolean", "true": "no"}, "would be true and false"),
        ("name", {"constant": "x", "type": "text"}, "a 'constant' is sent as it is; leave out 'type'"),
        ("name", {"constant": {"a": {1}}}, "'constant'['a'] is a value of type set; convert it"),
        ("name", {"constant": math.nan}, "'constant' is not a finite number"),
        ("email", {"constant": "a@b.c"}, "all rows would be one contact"),
        ("email", {"column": "mail", "default": "a@b.c"}, "every row needs its own email; leave out 'default'"),
        ("email", {"column": "mail", "empty": "skip", "optional": True}, "leave out 'empty', 'optional'"),
        ("email", {"column": "mail", "type": "text"}, "the contact's email has the type 'email', not 'text'"),
        ("email", {"column": "mail", "type": "email"}, None),
    ],
)
def test_lines_are_checked_when_the_mapping_is_created(field: Any, spec: Any, message: str | None) -> None:
    mapping = {"email": "mail", field: spec}
    if message is None:
        Mapper(mapping)
    else:
        text = refusal(mapping)
        assert message in text
        assert text.startswith(f"mapping[{field!r}]: ")


def test_two_spellings_of_one_field_are_refused() -> None:
    text = refusal({"email": "mail", "name": "a", "attributes.name": "b"})
    assert text == "mapping['attributes.name'] and mapping['name'] are the same field; leave one of them out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"empty": "clar"}, "empty 'clar' is unknown; did you mean 'clear'?"),
        ({"empty": None}, "empty None is unknown"),
        ({"region": 55}, "region must be two letters of ISO 3166, such as 'BR', but is a int"),
        ({"region": "UK"}, "mapping['phone']: region 'UK' is unknown; did you mean 'GB'?"),
    ],
)
def test_options_of_the_whole_mapping_are_checked(options: dict[str, Any], message: str) -> None:
    assert message in refusal({"email": "mail", "phone": {"column": "tel", "type": "phone"}}, **options)


def test_missing_phone_library_is_reported_when_the_mapping_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    Mapper({"email": "mail", "phone": "tel"}, region="BR")
    text = refusal({"email": "mail", "phone": {"column": "tel", "type": "phone"}})
    assert text.startswith("mapping['phone']: ") and "airflow-provider-crm[phone]" in text


# -- columns -------------------------------------------------------------------------------------------------


def test_columns_used_by_the_mapping() -> None:
    lines = {"a": "x", "b": {"column": "x", "type": "text"}, "origin.c": "y", "origin.d": {"constant": 1}}
    assert Mapper({"email": "mail", **lines}).columns == ("mail", "x", "y")
    assert Mapper().columns is None


@pytest.mark.parametrize("mapping", [{"email": "mail", "name": "Nome"}, None], ids=["a mapping", "none"])
def test_values_mistaken_for_column_names_are_not_shown(mapping: dict[str, str] | None) -> None:
    with pytest.raises(SourceError) as raised:
        Mapper(mapping).check_columns(("Nomi", "Emily", "emily@zq.example", "+5531999999999"))
    for value in ("Nomi", "Emily", "emily", "zq.example", "5531"):
        assert value not in str(raised.value)


def test_missing_columns_are_reported_at_once() -> None:
    mapper = Mapper(
        {
            "email": "mail",
            "phone": "telefone",
            "attributes.a.b": "zzz",
            "tier": {"column": "tier", "optional": True},
            "origin.url": {"constant": "x"},
        }
    )
    mapper.check_columns(("mail", "telefone", "zzz"))
    with pytest.raises(SourceError) as raised:
        mapper.check_columns(("mail", "Telefon"))
    assert str(raised.value) == (
        "mapping['phone']: the source has no column 'telefone' (did you mean 'Telefon'?); "
        "mapping['attributes.a.b']: the source has no column 'zzz'. Its columns: 'mail', 'Telefon'"
    )


# -- without a mapping ---------------------------------------------------------------------------------------


def test_columns_are_attributes_without_a_mapping() -> None:
    row = {"email": "ada@example.com", "Email": "x", "name": " Ada ", "origin.url": "u", "n": 1, "none": ""}
    assert contact(None, row) == Contact("ada@example.com", {"Email": "x", "name": "Ada", "origin.url": "u", "n": 1})


def test_email_column_is_found_in_any_case_without_a_mapping(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mapper = Mapper()
    mapper.check_columns(("EMail", "name"))
    for number in range(3):
        assert mapper(Row(number, {"EMail": "ada@example.com", "name": "Ada"})).email == "ada@example.com"
    assert [record.getMessage() for record in caplog.records] == [
        "The source has no column 'email'; 'EMail' is taken for it"
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("mail", "name"), "email: column missing; give the load a mapping (did you mean 'mail'?)"),
        (("name", "Score"), "email: column missing; give the load a mapping"),
        (("Email", "EMAIL"), "email: several columns may be it: 'Email', 'EMAIL'; give the load a mapping"),
        (("email", "origin"), "origin: no attribute can have the name of this column"),
        (("email", " "), "no attribute can have the name of this column"),
    ],
)
def test_columns_that_need_a_mapping(columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(SourceError, match=rf"{re.escape(message)}.*\. Its columns: '{columns[0]}', '{columns[1]}'$"):
        Mapper().check_columns(columns)
    with pytest.raises(InvalidRow, match=re.escape(message)):
        Mapper()(Row(1, dict.fromkeys(columns, "ada@example.com")))


MANY = {f"n{number}": number for number in range(30)}


@pytest.mark.parametrize(
    ("mapper", "rows", "sends"),
    [
        (
            Mapper({"name": "n", "email": "m", "origin.url": {"constant": "u"}, "attributes.a.b": "x"}),
            [],
            "email; attributes name, a.b; origin url",
        ),
        (
            Mapper(),
            [{"email": "a@x.io", "full_name": "A"}, {"email": "b@x.io", "Score": 1}],
            "email; attributes full_name, Score",
        ),
        (Mapper(), [{"email": "a@x.io", "b@x.io": 1}], ""),
        (Mapper(), [{"email": "a@x.io", **MANY}], f"email; attributes {', '.join(list(MANY)[:20])} and 10 more"),
        (DeleteMapper(), [{"email": "a@x.io", "name": "A"}], ""),
        (
            DealMapper({"stage_id": "s", "deal_id": "d", "pb_name": "n"}, mode="update"),
            [],
            "stage_id, deal_id; attributes pb_name",
        ),
    ],
)
def test_what_is_sent(mapper: RecordMapper[Any], rows: list[dict[str, Any]], sends: str) -> None:
    for number, row in enumerate(rows, 1):
        mapper(Row(number, row))
    assert mapper.sends == sends


# -- serialized form -----------------------------------------------------------------------------------------


def test_nested_columns_are_those_of_each_row() -> None:
    mapper, email = Mapper(None), "a@x.io"
    rows: list[dict[str, Any]] = [{"email": email, "attributes": {name: "1"}} for name in "ab"]
    rows[1:1] = [{"email": email, "c": "1"}, {"email": email, "c": "2"}]
    assert [mapper(Row(1, row)).attributes for row in rows] == [{"a": "1"}, {"c": "1"}, {"c": "2"}, {"b": "1"}]


@pytest.mark.parametrize(
    ("given", "email"),
    [
        pytest.param(" #a@x.io", "#a@x.io", id="sign-of-a-failed-formula"),
        pytest.param("=a@x.io ", "=a@x.io", id="sign-of-a-formula"),
        pytest.param('="a@x.io"', "a@x.io", id="formula-with-a-text"),
        pytest.param("Ann <Ann@x.io>", "Ann@x.io", id="name"),
    ],
)
@pytest.mark.parametrize("lowercase", [False, True])
def test_an_address_in_a_cell(given: str, email: str, lowercase: bool) -> None:
    contact = Mapper({"email": "mail"}, lowercase_email=lowercase)(Row(1, {"mail": given}))
    assert contact.email == (email.lower() if lowercase else email)


def test_row_columns_may_differ_without_limit() -> None:
    mapper = Mapper()
    for number in range(KEPT_PLANS * 2 + 1):
        assert mapper(Row(number, {"email": "a@b.c", f"c{number}": number})).attributes == {f"c{number}": number}
    assert len(mapper._plans) <= KEPT_PLANS


FULL = {"email": "mail", "name": "first", "phone": {"column": "tel", "type": "phone"}, "origin.src": {"constant": "x"}}


def test_serialized_form_changes_with_the_mapping() -> None:
    lines = [
        {"name": "last"},
        {"name": {"column": "first", "type": "text"}},
        {"name": {"column": "first", "empty": "clear"}},
        {"name": {"column": "first", "default": "x"}},
        {"name": {"column": "first", "default": "y"}},
        {"name": {"column": "first", "optional": True}},
        {"phone": {"column": "tel", "type": "phone", "region": "US"}},
        {"origin.src": {"constant": "y"}},
        {"origin.src": "x"},
        {"email": "other"},
    ]
    options: list[dict[str, Any]] = [{}, {"region": "BR"}, {"empty": "null"}, {"lowercase_email": True}]
    mappers = [
        *(Mapper({**FULL, **line}) for line in lines),
        *(Mapper(mapping, **some) for mapping in (FULL, None) for some in options),
    ]
    assert len({json.dumps(mapper.as_data()) for mapper in mappers}) == len(mappers)


# -- arbitrary input -----------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.decimals(), st.text(), st.binary(max_size=5),
    st.datetimes(), st.emails(), st.lists(st.floats(), max_size=2), st.dictionaries(st.text(), st.text(), max_size=2),
)  # fmt: skip
LINES = st.builds(
    lambda kind, empty: {"column": "x", "type": kind, "empty": empty},
    st.sampled_from(sorted(TYPES)),
    st.sampled_from(EMPTIES),
)


def assert_sendable(found: Contact) -> None:
    """The client accepts every value of the contact."""
    assert validation.email(found.email) == found.email
    if found.attributes:
        assert validation.attributes(found.attributes) == found.attributes
    if found.origin is not None:
        validation.attributes(found.origin, "origin", reserved=frozenset())
    json.dumps([found.attributes, found.origin], allow_nan=False)


@given(email=st.emails() | VALUES, value=VALUES, line=LINES)
def test_row_is_a_contact_or_a_list_of_problems(email: Any, value: Any, line: dict[str, Any]) -> None:
    mapper = Mapper({"email": "mail", "field": line, "origin.key": line}, region="BR")
    try:
        found = mapper(Row(1, {"mail": email, "x": value}))
    except InvalidRow as invalid:
        assert invalid.problems
        for shown in (str(email), str(value)):
            assert len(shown) < 8 or shown not in str(invalid)
    else:
        assert_sendable(found)


@given(columns=st.dictionaries(st.sampled_from(["email", "Email", "origin", "name"]) | st.text(max_size=8), VALUES))
def test_row_without_a_mapping_is_a_contact_or_a_list_of_problems(columns: dict[str, Any]) -> None:
    mapper, row = Mapper(), Row(1, columns)
    try:
        mapper.check_columns(tuple(columns))
        found = mapper(row)
    except SourceError as unusable:
        assert str(unusable)
    except InvalidRow as invalid:
        assert invalid.problems
    else:
        assert_sendable(found)


@pytest.mark.parametrize("word", sorted(WORDS))
def test_every_spelling_of_a_null_word_is_counted(word: str) -> None:
    words = NullWords()
    for spelling in (word, word.upper(), word.title(), f" {word}"[:LONGEST], f"\u00a0{word}"[:LONGEST]):
        words.note({"a": spelling, "b": f"{word}, a surname"}, ["a", "b"])
    expected = 5 if len(word) < LONGEST else 3
    assert f"cells by column: 'a' {expected}." in (words.warning() or "")


def test_null_word_is_counted_after_any_space() -> None:
    words, spaces = NullWords(), [letter for letter in map(chr, range(sys.maxunicode + 1)) if letter.isspace()]
    for space in spaces:
        words.note({"a": f"{space}nan"}, ["a"])
    assert f"cells by column: 'a' {len(spaces)}." in (words.warning() or "")


@pytest.mark.parametrize("value", ["Nina", "", " ", "n", 7, None, "x" * 100])
def test_other_values_are_not_null_words(value: Any) -> None:
    words = NullWords()
    words.note({"a": value}, ["a", "not.there"])
    assert words.warning() is None
