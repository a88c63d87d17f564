"""Parsing of JSON response bodies."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from crm_provider.client.responses import MAX_NESTING, UNREADABLE, content_of, is_too_deep, parsed_body


@pytest.mark.parametrize("blank", [b"", b" \r\n"])
def test_empty_body_is_none(blank: bytes) -> None:
    assert parsed_body(blank) is content_of(blank, use_decimal=False) is None


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_accepted_in_errors_only(number: str, exact: bool) -> None:
    body = b'{"errorCode": "DEAL_NOT_FOUND", "took": %s}' % number.encode()
    assert parsed_body(body)["errorCode"] == "DEAL_NOT_FOUND"
    assert content_of(body, use_decimal=exact) is UNREADABLE


def test_number_beyond_all_floats_is_read_where_digits_are_kept() -> None:
    assert content_of(b'{"amount": 1e999}', use_decimal=False) is UNREADABLE
    assert content_of(b'{"amount": 1e999}', use_decimal=True) == {"amount": Decimal("1e999")}
    assert content_of(b'{"amount": 1e99999999999999999999}', use_decimal=True) is UNREADABLE


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\uD83D\\uDE00"', "😀"),
        (b'"cut off \\ud83d"', "cut off \ufffd"),
        (b'"\\ude00 cut off"', "\ufffd cut off"),
        (b'"\xed\xa0\xbd\xed\xb8\x80"', "😀"),
        (b'"\xed\xa0\xbd"', "\ufffd"),
        ('"\ud83d😀"'.encode("utf-16-le", "surrogatepass"), "\ufffd😀"),
        ('"\ud55c"'.encode(), "한"),
    ],
    ids=["pair", "capitals", "first half", "second half", "CESU-8", "half in CESU-8", "UTF-16", "Korean"],
)
def test_lone_surrogates_are_replaced(body: bytes, text: str) -> None:
    assert content_of(body, use_decimal=False) == text
    assert content_of(b'{"a": [%s], "b": 1}' % body, use_decimal=False) == {"a": [text], "b": 1} or b"\0" in body


@pytest.mark.parametrize(("depth", "too_deep"), [(MAX_NESTING, False), (MAX_NESTING + 1, True), (500, True)])
@pytest.mark.parametrize("opening", [b"[%s]", b'{"a": %s}'], ids=["lists", "objects"])
def test_deeply_nested_json_is_unreadable(depth: int, too_deep: bool, opening: bytes) -> None:
    body = b"1"
    for _ in range(depth):
        body = opening % body
    assert is_too_deep(json.loads(body)) is too_deep
    assert (content_of(body, use_decimal=False) is UNREADABLE) is too_deep


def test_many_sibling_objects_are_not_deep() -> None:
    records: list[Any] = [{"id": n, "tags": []} for n in range(500)]
    assert content_of(json.dumps(records).encode(), use_decimal=False) == records
