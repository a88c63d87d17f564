"""Conversions of single values: results, refused values, and error messages without the value."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.client import validation
from crm_provider.load.mapping import converters, formats
from crm_provider.load.mapping.converters import is_empty
from crm_provider.values.json_values import ConversionError

ID = UUID("123e4567-e89b-12d3-a456-426614174000")
NOON = datetime(2024, 1, 31, 12, 0, tzinfo=timezone.utc)
NAIVE = NOON.replace(tzinfo=None)
SAO_PAULO = timezone(timedelta(hours=-3))


def kind_of(convert: Callable[[Any], Any], value: Any) -> str:
    """The kind of a conversion error."""
    with pytest.raises(ConversionError) as raised:
        convert(value)
    assert raised.value.fix, "the message says what to do"
    return raised.value.kind


def same(found: Any, expected: Any) -> bool:
    """Equal and of one type: ``True == 1`` is not enough here."""
    return type(found) is type(expected) and found == expected


class NaTType:
    """A stand-in for pandas' missing timestamp, which is recognised by its name."""


# -- empty ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", " ", "\t\r\n\u00a0", math.nan, Decimal("NaN"), Decimal("sNaN"), NaTType()])
def test_empty_values_are_empty(value: Any) -> None:
    assert is_empty(value)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "None", "nan", "-", [], {}, b"", Decimal(0), math.inf, NOON])
def test_other_values_are_not_empty(value: Any) -> None:
    assert not is_empty(value)


def of_numpy(name: str, value: int) -> Any:
    """A number of NumPy, which is recognised by the name of its type."""
    conversions = {"__module__": "numpy", "__int__": lambda self: value, "__bool__": lambda self: bool(value)}
    return type(name, (), conversions)()


# -- auto and text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "as_auto", "as_text"),
    [
        (" Ada\u00a0", "Ada", "Ada"),
        ("007", "007", "007"),
        (7, 7, "7"),
        (2**80, 2**80, str(2**80)),
        (1.5, 1.5, "1.5"),
        (5.0, 5.0, "5"),
        (1e-7, 1e-7, "0.0000001"),
        (True, True, "true"),
        (False, False, "false"),
        (of_numpy("int64", 7), 7, "7"),
        (of_numpy("bool", 1), True, "true"),
        (Decimal("10.10"), "10.10", "10.10"),
        (Decimal("1E+3"), "1000", "1000"),
        (ID, str(ID), str(ID)),
        (date(2024, 1, 31), "2024-01-31", "2024-01-31"),
        (time(9, 30), "09:30:00", "09:30:00"),
        (NOON, "2024-01-31T12:00:00Z", "2024-01-31T12:00:00Z"),
        (NAIVE, "2024-01-31T12:00:00", "2024-01-31T12:00:00"),
        (NOON.replace(microsecond=120_000), "2024-01-31T12:00:00.120Z", "2024-01-31T12:00:00.120Z"),
        (NOON.replace(microsecond=7), "2024-01-31T12:00:00.000007Z", "2024-01-31T12:00:00.000007Z"),
        (datetime(2024, 1, 31, 9, tzinfo=SAO_PAULO), "2024-01-31T12:00:00Z", "2024-01-31T12:00:00Z"),
    ],
)
def test_auto_and_text(value: Any, as_auto: Any, as_text: str) -> None:
    assert same(converters.auto(value), as_auto)
    assert same(converters.text(value), as_text)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"Ada", "a binary value"),
        (bytearray(b"Ada"), "a binary value"),
        (memoryview(b"Ada"), "a binary value"),
        (math.inf, "not a finite number"),
        (Decimal("-Infinity"), "not a finite number"),
        (Decimal("1E+99999999"), "a number of too many digits"),
        (2**1024, "too large a number"),
        (timedelta(1), "a value of type timedelta"),
        (of_numpy("timedelta64", 1), "a value of type timedelta64"),
        ({1}, "a value of type set"),
        (datetime.max.replace(tzinfo=SAO_PAULO), "a time outside the years 1 to 9999"),
    ],
)
@pytest.mark.parametrize("convert", [converters.auto, converters.text])
def test_auto_and_text_refuse_invalid_values(convert: Callable[[Any], Any], value: Any, kind: str) -> None:
    assert kind_of(convert, value) == kind


@pytest.mark.parametrize("value", [{"a": 1}, [1], (1, 2)])
def test_text_refuses_nested_values(value: Any) -> None:
    assert kind_of(converters.text, value) == "a nested value"


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        ("1234.50", {}, "1234.50"),
        (" 0010.00 ", {}, "0010.00"),
        ("-5", {}, "-5"),
        ("+5", {}, "5"),
        (".5", {}, ".5"),
        ("0.1000000000000000055511151231257827", {}, "0.1000000000000000055511151231257827"),
        ("1.234,50", {"decimal": ",", "thousands": "."}, "1234.50"),
        ("1234,50", {"decimal": ",", "thousands": "."}, "1234.50"),
        ("-1,234,567", {"thousands": ","}, "-1234567"),
        ("1\u2019234'567.80", {"thousands": "'"}, "1234567.80"),
        ("1\u202f234\u00a0567,8", {"decimal": ",", "thousands": " "}, "1234567.8"),
        ("1'234.5", {"thousands": "'"}, "1234.5"),
        (7, {}, "7"),
        (of_numpy("uint8", 7), {}, "7"),
        (7.0, {}, "7"),
        (0.1, {}, "0.1"),
        (1e-7, {}, "0.0000001"),
        (Decimal("10.10"), {}, "10.10"),
        (Decimal("10.10"), {"decimal": ","}, "10.10"),
        (2.0**53, {}, str(2**53)),
    ],
)
def test_number(value: Any, options: dict[str, str], expected: str) -> None:
    assert same(converters.number(**options)(value), expected)


@pytest.mark.parametrize(
    ("value", "options", "kind"),
    [
        ("abc", {}, "not a number"),
        ("1,234", {}, "not a number"),
        ("1.234,5", {}, "not a number"),
        ("1.23", {"decimal": ",", "thousands": "."}, "not a number"),
        ("1.2345,0", {"decimal": ",", "thousands": "."}, "not a number"),
        ("5.", {}, "not a number"),
        (".", {}, "not a number"),
        ("-", {}, "not a number"),
        ("1 000", {}, "not a number"),
        ("1e5", {}, "not a number"),
        ("R$ 5", {}, "not a number"),
        ("NaN", {}, "not a number"),
        ("\u0661\u0662", {}, "not a number"),
        ("9" * 401, {}, "not a number"),
        (True, {}, "not a number"),
        ([1], {}, "not a number"),
        (b"1", {}, "not a number"),
        (2.0**53 + 2, {}, "a float too large to be exact"),
        (1e300, {}, "a float too large to be exact"),
        (math.inf, {}, "not a finite number"),
        (Decimal("Infinity"), {}, "not a finite number"),
        (2**1024, {}, "too large a number"),
    ],
)
def test_number_refuses_invalid_values(value: Any, options: dict[str, str], kind: str) -> None:
    assert kind_of(converters.number(**options), value) == kind


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("R$ 99,90", "such as a currency sign"),
        ("9 kg", "a unit"),
        ("1.5E+3", "letters"),
        ("9.90", "options decimal and"),
    ],
)
def test_number_names_what_does_not_belong_to_it(value: str, cause: str) -> None:
    with pytest.raises(ConversionError, match=cause):
        converters.number(decimal=",", thousands=".")(value)


@pytest.mark.parametrize(
    "options",
    [{"decimal": ""}, {"decimal": ",,"}, {"decimal": "1"}, {"thousands": "-"}, {"thousands": "."},
     {"decimal": ",", "thousands": ","}],
)  # fmt: skip
def test_identical_decimal_and_thousands_marks_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="two different marks"):
        converters.number(**options)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4))
def test_number_keeps_its_digits(value: Decimal) -> None:
    written = f"{value:f}"
    assert converters.number()(written) == converters.number()(value) == written
    english = converters.number(thousands=",")(f"{value:,f}")
    german = converters.number(decimal=",", thousands=".")(f"{value:,f}".translate(str.maketrans(",.", ".,")))
    assert english == german == written


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_digits_of_a_float_give_the_same_float(value: float) -> None:
    try:
        written = converters.digits(value)
    except ConversionError:
        assert abs(value) > 2**53
    else:
        assert float(written) == value
        assert "e" not in written.lower()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("42", 42), ("-7", -7), ("007", 7), ("7.00", 7), (".0", 0), ("-.0", 0), (42, 42), (7.0, 7), (Decimal("7.0"), 7),
     (str(2**64), 2**64)],
)  # fmt: skip
def test_integer(value: Any, expected: int) -> None:
    assert same(converters.integer()(value), expected)


def test_integer_with_marks() -> None:
    german, english = converters.integer(decimal=",", thousands="."), converters.integer(decimal=".")
    assert [german("1.234,00"), german("1.000"), english("1.000")] == [1234, 1000, 1]


@pytest.mark.parametrize(
    ("value", "kind"),
    [("7.5", "not a whole number"), (7.5, "not a whole number"), (Decimal("0.1"), "not a whole number"),
     ("x", "not a number"), (False, "not a number"), ("1.000", "a point that may separate thousands"),
     ("9" * 400, "too large a number"), (1e20, "a float too large to be exact")],
)  # fmt: skip
def test_integer_refuses_invalid_values(value: Any, kind: str) -> None:
    assert kind_of(converters.integer(), value) == kind


# -- booleans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, 1, 1.0, Decimal(1), "1", "true", "TRUE", "t", "Yes", "y", "on", " on "])
def test_true(value: Any) -> None:
    assert converters.boolean()(value) is True


@pytest.mark.parametrize("value", [False, 0, 0.0, Decimal(0), "0", "false", "False", "F", "no", "N", "OFF"])
def test_false(value: Any) -> None:
    assert converters.boolean()(value) is False


@pytest.mark.parametrize("value", [2, -1, 0.5, "2", "maybe", "sim", NOON])
def test_other_values_are_neither_true_nor_false(value: Any) -> None:
    assert kind_of(converters.boolean(), value) == "neither true nor false"


def test_custom_words_are_added() -> None:
    convert = converters.boolean(true=["Sim", "S"], false=["NÃO"])
    assert [convert(word) for word in ("sim", "s", "yes", "não", "no")] == [True, True, True, False, False]


@pytest.mark.parametrize("words", [{"true": ["no"]}, {"false": ["YES "]}, {"true": ["x"], "false": ["X"]}])
def test_word_has_one_meaning(words: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="would be true and false"):
        converters.boolean(**words)


# -- emails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "lowercase", "expected"),
    [
        (" Ada@Example.com\u00a0", False, "Ada@Example.com"),
        ("Ada@Example.com", True, "ada@example.com"),
        ("jo\u0308rg@example.de", False, "j\u00f6rg@example.de"),
        ("STRASSE@\u00df.DE", True, "strasse@\u00df.de"),
        ("Ann <Ann@Example.com>;", True, "ann@example.com"),
        ("\ufeffada@example.com", False, "ada@example.com"),
    ],
)
def test_email(value: str, lowercase: bool, expected: str) -> None:
    assert converters.email(lowercase=lowercase)(value) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("ada", "is not a valid email address (it has no @)"),
        ("mailto:", "is empty"),
        ("ada@exam ple.com", "is not a valid email address (there is a space or other text in it)"),
        ("ada@ex.co;eve@ex.co", "has more than one address"),
        (7, "must be text but is of type int"),
    ],
)
def test_email_refuses_invalid_addresses(value: Any, kind: str) -> None:
    assert kind_of(converters.email(), value) == kind


# -- JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"a": [1, "x ", null, true]}', {"a": [1, "x ", None, True]}),
        ('"x"', "x"),
        ("1.5", 1.5),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("1e999", "1e999"),
        ({"a": (1, Decimal("2.50")), "b": {"on": date(2024, 1, 31)}}, {"a": [1, "2.50"], "b": {"on": "2024-01-31"}}),
        ([], []),
    ],
)
def test_json(value: Any, expected: Any) -> None:
    assert same(converters.as_json(value), expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("{", "not valid JSON"),
        ("vip", "not valid JSON"),
        ("NaN", "not valid JSON"),
        ("9" * 5000, "not valid JSON" if hasattr(sys, "get_int_max_str_digits") else "too large a number"),
        ("[" * 60 + "]" * 60, "nested more than 50 levels deep"),
        ("[" * 100_000, "not valid JSON"),
        ({1: 2}, "a nested value with a name that is not text"),
        ({"a": [math.nan]}, "not a finite number"),
        ({"a": Decimal("sNaN")}, "not a finite number"),
        ({"a": b"x"}, "a binary value"),
    ],
)
def test_json_refuses_invalid_values(value: Any, kind: str) -> None:
    assert kind_of(converters.as_json, value) == kind


# -- dates and times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        ("2024-01-31", None, "2024-01-31"),
        ("2024-01-31 23:59:59", None, "2024-01-31"),
        ("2024-01-31T23:30:00-03:00", None, "2024-01-31"),
        (date(2024, 1, 31), None, "2024-01-31"),
        (datetime(2024, 1, 31, 23, 30, tzinfo=SAO_PAULO), None, "2024-01-31"),
        ("31/01/2024", "%d/%m/%Y", "2024-01-31"),
        ("01-31-24", "%m-%d-%y", "2024-01-31"),
        (date(2024, 1, 31), "%d/%m/%Y", "2024-01-31"),
    ],
)
def test_date(value: Any, form: str | None, expected: str) -> None:
    assert formats.day(format=form)(value) == expected


@pytest.mark.parametrize(
    ("value", "form"),
    [("31/01/2024", None), ("2024-02-30", None), ("2024-1-5", None), ("20240131", None), ("2024-01-31T", None),
     ("0000-01-01", None), ("\u0662024-01-31", None), ("2024-01-31", "%d/%m/%Y"), ("31/01/2024 ", "%d/%m/%y"),
     (20240131, None), (time(9), None), (1706659200.0, None)],
)  # fmt: skip
def test_date_refuses_invalid_values(value: Any, form: str | None) -> None:
    assert kind_of(formats.day(format=form), value) == "not a valid date"


@pytest.mark.parametrize(
    ("value", "zone", "expected"),
    [
        ("2024-01-31T12:00:00Z", None, "2024-01-31T12:00:00Z"),
        ("2024-01-31 12:00z", None, "2024-01-31T12:00:00Z"),
        ("2024-01-31T09:00:00-03:00", None, "2024-01-31T12:00:00Z"),
        ("2024-01-31 09:00:00-03", None, "2024-01-31T12:00:00Z"),
        ("2024-01-31 17:45:00 +0545", None, "2024-01-31T12:00:00Z"),
        ("2024-01-31T12:00:00.5Z", None, "2024-01-31T12:00:00.500Z"),
        ("2024-01-31T12:00:00,123456789Z", None, "2024-01-31T12:00:00.123456Z"),
        ("2024-01-31T12:00:00", "UTC", "2024-01-31T12:00:00Z"),
        ("2024-01-31T12:00:00", "America/Sao_Paulo", "2024-01-31T15:00:00Z"),
        ("2024-01-31T12:00:00Z", "America/Sao_Paulo", "2024-01-31T12:00:00Z"),
        ("2024-07-01", "Europe/Lisbon", "2024-06-30T23:00:00Z"),
        ("2024-11-03 01:30", "America/New_York", "2024-11-03T05:30:00Z"),
        ("2024-03-10 02:30", "America/New_York", "2024-03-10T07:30:00Z"),
        ("2024-01-31 12:00:00.25 UTC", None, "2024-01-31T12:00:00.250Z"),
        (date(2024, 1, 31), "UTC", "2024-01-31T00:00:00Z"),
        (NOON, None, "2024-01-31T12:00:00Z"),
        (NAIVE, "America/Sao_Paulo", "2024-01-31T15:00:00Z"),
    ],
)
def test_datetime(value: Any, zone: str | None, expected: str) -> None:
    assert formats.moment(zone=zone)(value) == expected


def test_datetime_with_a_format() -> None:
    assert formats.moment(format="%d/%m/%Y %H:%M", zone="UTC")("31/01/2024 12:00") == "2024-01-31T12:00:00Z"
    assert formats.moment(format="%d/%m/%Y %H:%M %z")("31/01/2024 09:00 -0300") == "2024-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("2024-01-31T12:00:00", "a time without a time zone"),
        (NAIVE, "a time without a time zone"),
        (date(2024, 1, 31), "a time without a time zone"),
        ("2024-01-31T25:00:00Z", "not a valid date and time"),
        ("2024-01-31T12:00:00+99:00", "not a valid date and time"),
        ("2024-01-31T12:00:00+03:60", "not a valid date and time"),
        ("yesterday", "not a valid date and time"),
        (1706659200, "not a valid date and time"),
        ("9999-12-31T23:59:59-03:00", "a time outside the years 1 to 9999"),
    ],
)
def test_datetime_refuses_invalid_values(value: Any, kind: str) -> None:
    assert kind_of(formats.moment(), value) == kind


@pytest.mark.parametrize(
    ("form", "problem"),
    [("%d/%m", "does not hold the year"), ("%Y-%d", "does not hold the month"), ("%m/%Y", "does not hold the day"),
     ("dd/mm/yyyy", "does not hold the year"), ("%d/%m/%Y %", "cannot be read back"),
     ("%d/%m/%Y %Q", "cannot be read back")],
)  # fmt: skip
def test_format_is_checked_at_once(form: str, problem: str) -> None:
    for make in (formats.day, formats.moment):
        with pytest.raises(ValueError, match=problem):
            make(format=form)


@pytest.mark.parametrize(("clock", "problem"), [("10:00 %Z", "drops the zone"), ("%I:%M", "needs %p")])
def test_format_that_would_read_another_time_is_refused(clock: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        formats.moment(format=f"%Y-%m-%d {clock}", zone="America/Sao_Paulo")
    formats.moment(format="%Y-%m-%d %I:%M %p %%Z", zone="UTC")


def test_hour_of_24_may_be_beside_am_or_pm_but_not_contradict_it() -> None:
    convert = formats.moment(format="%Y-%m-%d %H:%M %p", zone="UTC")
    assert [convert(f"2024-02-01 {clock}")[11:16] for clock in ("15:00 PM", "03:00 am", "00:30 AM")] == [
        "15:00",
        "03:00",
        "00:30",
    ]
    for clock in ("03:00 PM", "12:30 AM"):
        with pytest.raises(ConversionError, match="contradicts AM or PM"):
            convert(f"2024-02-01 {clock}")


@pytest.mark.parametrize("zone", ["Mars/Olympus", "America", "", "../etc/passwd", "america sao paulo"])
def test_time_zone_is_checked_at_once(zone: str) -> None:
    with pytest.raises(ValueError, match="is not known; give a name such as 'UTC'"):
        formats.moment(zone=zone)


@given(st.datetimes(timezones=st.timezones(), min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)))  # noqa: DTZ001
def test_converted_datetime_is_the_same_instant(value: datetime) -> None:
    written = formats.moment()(value)
    # compare by subtraction: a repeated hour (fold) in one zone never equals a datetime of another zone
    assert datetime.fromisoformat(written.replace("Z", "+00:00")) - value == timedelta(0)
    assert formats.moment()(written) == written


# -- phone numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "region", "expected"),
    [
        ("(31) 99999-9999", "BR", "+5531999999999"),
        ("031 99999-9999", "br", "+5531999999999"),
        ("5531999999999", "BR", "+5531999999999"),
        (5531999999999, "BR", "+5531999999999"),
        (5531999999999.0, "BR", "+5531999999999"),
        (Decimal(31999999999), "BR", "+5531999999999"),
        (Decimal("30123456.00"), "DE", "+4930123456"),  # not +49 30 1234 5600, which is valid, too
        ("+55 31 99999-9999", None, "+5531999999999"),
        ("tel:+1-650-253-0000", None, "+16502530000"),
        ("tel:030123456;phone-context=+49", None, "+4930123456"),
        ("Mobil: 030 123456", "DE", "+4930123456"),
        ("+44 20 7946 0958", "BR", "+442079460958"),
    ],
)
def test_phone(value: Any, region: str | None, expected: str) -> None:
    assert formats.phone(region=region)(value) == expected


@pytest.mark.parametrize(
    ("value", "region", "kind"),
    [
        ("31999999999", None, "a phone number without country code"),
        ("none", "BR", "not a phone number"),
        ("5,51199E+12", "BR", "a phone number that a spreadsheet has shortened"),
        ("1198765432.0", "BR", "a phone number in the form of a float"),  # not +55 11 98765-4320
        ("+999 1234567", None, "not a phone number"),
        ("+5531999999999 / +5531999999998", "BR", "not a phone number"),
        ("99999-9999", "BR", "not a valid phone number"),
        ("555-1234", "US", "not a valid phone number"),
        ("123", "BR", "not a valid phone number"),
        ("+1 650 253 0000 ext. 5", "US", "a phone number with an extension"),
        (30123456.5, "DE", "not a phone number"),
        ("030 123456 (privat)", "DE", "a phone number with letters"),  # not +49 30 123456 774828
        ("2 x 030 123456", "DE", "a phone number with letters"),
        (True, "BR", "not a number"),
        (5.5e30, "BR", "a float too large to be exact"),
    ],
)
def test_phone_refuses_invalid_numbers(value: Any, region: str | None, kind: str) -> None:
    assert kind_of(formats.phone(region=region), value) == kind


@pytest.mark.parametrize(
    ("region", "near"), [("UK", "GB"), ("BRA", "BR"), ("Brazil", "two letters"), ("", "two letters")]
)
def test_region_is_checked_at_once(region: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"is unknown; .*{near}"):
        formats.phone(region=region)


def test_missing_phone_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(ValueError, match=r"pip install 'airflow-provider-crm\[phone\]'"):
        formats.phone(region="BR")


# -- all of them ---------------------------------------------------------------------------------------------

CONVERSIONS: list[Callable[[Any], Any]] = [
    converters.auto, converters.text, converters.boolean(), converters.email(), converters.as_json,
    converters.number(), converters.integer(),
    converters.number(decimal=",", thousands="."), formats.day(), formats.day(format="%d/%m/%Y"), formats.moment(),
    formats.moment(zone="Europe/Lisbon"), formats.phone(region="BR"),
]  # fmt: skip

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.decimals(), st.text(), st.binary(max_size=9), st.dates(),
    st.datetimes(), st.datetimes(timezones=st.timezones()), st.times(), st.timedeltas(), st.uuids(),
    st.from_regex(r"\A[+-]?[0-9.,: /eTZ-]{1,20}\Z"),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@pytest.mark.parametrize("convert", CONVERSIONS, ids=lambda convert: convert.__qualname__.split(".")[0])
@given(value=ANYTHING)
def test_result_is_json_or_an_error_without_the_value(convert: Callable[[Any], Any], value: Any) -> None:
    if is_empty(value):
        return
    try:
        found = convert(value)
    except ConversionError as wrong:
        shown = str(value)
        if len(shown) >= 8 and shown in str(wrong):  # Hypothesis also draws words of the package, such as "correct "
            with pytest.raises(ConversionError, match=re.escape(str(wrong))):
                convert("\a")
    else:
        json.dumps(found, allow_nan=False)
        assert validation.json_value(found, "value") == found


def test_a_text_that_repeats_is_converted_once() -> None:
    given: list[Any] = []

    def convert(value: Any) -> str:
        if value == "x":
            raise ConversionError("not a number", "correct it")
        given.append(value)
        return f"{value!r}"

    of = converters.remembered(convert)
    assert [of(value) for value in ("1", "1", 1, True, "1", 1)] == ["'1'", "'1'", "1", "True", "'1'", "1"]
    assert given == ["1", 1, True, 1]
    for _ in range(2):
        with pytest.raises(ConversionError, match="not a number"):
            of("x")


def test_only_so_many_texts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converters, "REMEMBERED", 2)
    given: list[str] = []

    def convert(value: Any) -> Any:
        given.append(value)
        return value

    of = converters.remembered(convert)
    assert [of(value) for value in "abcca"] == [*"abcca"]
    assert given == [*"abca"]


def test_long_text_is_not_remembered() -> None:
    long = "d" * (converters.LONGEST_REMEMBERED + 1)
    given: list[str] = []

    def convert(value: Any) -> Any:
        given.append(value)
        return value.upper()

    of = converters.remembered(convert)
    short = long[1:]
    assert [of(value) for value in (long, long, short, short)] == [long.upper()] * 2 + [short.upper()] * 2
    assert given == [long, long, short]
