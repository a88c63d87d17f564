"""A server's text is shown without the sent values, however it spells them."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider.values.redaction import LONG, MOST_WORDS, without_values

KEY = "Zq+Key/Planted==%27Wv3"
EMAIL = "Zq.Local+tag@zqdomain.example"
NAME = "Zqfore O'Zqsurname & Søns"
PHONE = "+55 31 98888-7777"
NOTE = "Zq one/two, zq three: zq four & zq five"
"""A value with too many words for any of them to be removed alone."""

SPELLINGS: dict[str, Callable[[str], str]] = {
    "unchanged": str,
    "in capitals": str.upper,
    "in lower case": str.lower,
    "percent-encoded": lambda value: quote(value, safe=""),
    "percent-encoded except slashes": quote,
    "as a form": quote_plus,
    "in JSON": json.dumps,
    "in JSON, unescaped": lambda value: json.dumps(value, ensure_ascii=False),
    "in HTML": html.escape,
    "repr": repr,
    "repr of bytes": lambda value: repr(value.encode()),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 for URLs": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "base64 without padding": lambda value: base64.b64encode(value.encode()).decode().rstrip("="),
    "base64 after other text": lambda value: f"x/{base64.b64encode(value.encode()).decode()}",
    "base64 of a longer text": lambda value: base64.b64encode(f'{{"email": "{value}"}}'.encode()).decode(),
    "hexadecimal": lambda value: value.encode().hex(),
}

NESTED: dict[str, Callable[[str], str]] = {
    "JSON in JSON": lambda value: json.dumps(json.dumps({"name": value})),
    "JSON in repr": lambda value: repr(json.dumps({"name": value})),
    "JSON in a URL": lambda value: quote(json.dumps({"name": value})),
    "JSON in HTML": lambda value: html.escape(json.dumps({"name": value})),
    "twice in a URL": lambda value: quote(quote(value)),
    "a URL in JSON": lambda value: json.dumps(quote(value)),
    "on a line of its own, in repr": lambda value: repr(f"name:\n{value}\n"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("value", [KEY, EMAIL, NAME, PHONE, NOTE])
def test_value_is_found_in_any_spelling(value: str, spelling: str) -> None:
    said = SPELLINGS[spelling](value)
    shown = without_values(f"bad: <{said}>, sorry", [value])
    assert said not in shown
    assert "zq" not in shown.lower()
    assert "7777" not in shown
    assert (shown[:6], shown[-8:]) == ("bad: <", ">, sorry")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("An unexpected error occurred.", "An unexpected error occurred."),
        ("Err\u00e4nde, superr", "Err\u00e4nde, superr"),
        ("err: ERR", "[value]: [value]"),
        ("name_Err, Err1, 'Err', name=Err&x", "name_[value], [value]1, '[value]', name=[value]&x"),
        ("a%20Err%20b, a%2520Err", "a%20[value]%20b, a%2520[value]"),
        (r"\u00e4Err\u00e4 \nErr\n \xaeErr\xae", r"\u00e4[value]\u00e4 \n[value]\n \xae[value]\xae"),
        ("Err\u3055\u3093\u306fErr", "[value]\u3055\u3093\u306f[value]"),
    ],
)
def test_short_value_is_removed_only_as_a_word(said: str, shown: str) -> None:
    assert without_values(said, ["Err"], in_parts=False) == shown


@pytest.mark.parametrize("value", ["Erikson", "Err7x", "\u5c0f\u660e\u738b"])
def test_longer_or_non_ascii_value_is_removed_within_a_word(value: str) -> None:
    assert without_values(f"x{value}x", [value]) == "x[value]x"


@pytest.mark.parametrize("spelling", NESTED)
@pytest.mark.parametrize("value", [EMAIL, NAME])
def test_words_of_a_value_are_found_however_deep_they_are_nested(value: str, spelling: str) -> None:
    assert "zq" not in without_values(NESTED[spelling](value), [value]).lower()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (EMAIL, "the domain zqdomain.example has no mail server"),
        (EMAIL, "local part 'zq.local+tag' is refused"),
        ("ada@zq.dev", "no mail server at zq.dev"),
        (EMAIL, "zqdomain.example, ZQ.LOCAL%2BTAG"),
        (NAME, "the surname O&#x27;Zqsurname is odd"),
        (NAME, "zqfore: too short"),
        (PHONE, "not a number: 5531988887777"),
        (PHONE, "(31) 98888 7777 is no mobile number"),
        (PHONE, "tel:988887777"),
    ],
)
def test_part_that_reveals_the_value_is_found(value: str, said: str) -> None:
    shown = without_values(said, [value]).lower()
    assert "[value]" in shown
    assert [trace for trace in ("zq", "8888", "7777") if trace in shown] == []


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (["ab"], "absent"),
        (["the stage of a deal that was not found by us"], "Stage not found."),
        (["Jo Ann"], "Joint annual report"),
        (["info@ok.example"], "information is missing, or not ok"),
        (["12345"], "request 912345678"[:-4]),
        ([], "Contact not found."),
        (["info@mail.example"], "invalid mail address"),
        (["x" * 20], "InternalServerErrorException at 123e4567-e89b-12d3-a456-426614174000"),
        (["x" * 20], "request 01ARZ3NDEKTSV4RRFFQ69G5FAV, trace 4bf92f3577b34da6a3ce929d0e0e4736"),
        (["x" * 20], "/segments/add-contact/unknown_route_of_the_gateway"),
    ],
)
def test_ordinary_words_stay(sent: list[str], text: str) -> None:
    assert without_values(text, sent) == text


def test_another_address_is_found_whatever_it_shares_with_the_sent_one() -> None:
    assert (
        without_values(f"{EMAIL.removeprefix('Zq')} and other.tag@zqdomain.example", [EMAIL]) == "[email] and [email]"
    )


def test_parts_of_an_address_may_stay() -> None:
    assert without_values("valid", ["valid@zq.example"], in_parts=False) == "valid"
    assert without_values("valid@zq.example", ["valid@zq.example"], in_parts=False) == "[value]"


def test_long_value_is_found_beside_letters_with_two_lower_case_characters() -> None:
    value = f"Zq{'x' * LONG}"
    assert without_values(f"\u0130 {value.upper()}, sorry", [value]) == "i\u0307 [value], sorry"
    assert without_values(f"No {value.upper()}, sorry", [value]) == "No [value], sorry"


def test_long_body_of_digits_is_scanned_in_linear_time() -> None:
    """The pattern for phone numbers is bounded. Otherwise this would take minutes."""
    assert without_values("1" * 100_000, [PHONE]) == "1" * 100_000


@given(st.text(min_size=3, max_size=40), st.sampled_from(sorted(SPELLINGS)))
def test_no_value_of_any_kind_is_left(value: str, spelling: str) -> None:
    said = SPELLINGS[spelling](value)
    shown = without_values(f"<<{said}>>", [value])
    assert value not in shown or value in "<<[value]>>" or value in "<<[email]>>"


@given(st.lists(st.text("abcxyz @", min_size=1, max_size=12), max_size=2 * MOST_WORDS), st.text(max_size=80))
def test_any_text_can_be_scanned(sent: list[str], text: str) -> None:
    assert isinstance(without_values(text, sent), str)
