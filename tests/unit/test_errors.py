"""The error tree: documented structure, mechanical names, readable text, and pickling."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_provider import errors as e
from crm_provider.errors import ERROR_CLASSES, CrmError

from .reference import TYPES

ALL = pytest.mark.parametrize("error", ERROR_CLASSES.values(), ids=ERROR_CLASSES)

FAMILIES = {
    "CrmAccessError": {"FORBIDDEN", "UNAUTHORIZED", "TLS", "CONFIGURATION"},
    "CrmRequestError": {"MISSING_BODY", "INVALID_PARAMS", "UNKNOWN_ROUTE", "INVALID_REQUEST"},
    "CrmDataError": {"INVALID_INPUT", "INVALID_VALUE", "INVALID_REQUEST"},
    "CrmNotFoundError": {
        "CONTACT_NOT_FOUND", "DEAL_NOT_FOUND", "SEGMENTATION_LIST_NOT_FOUND", "PIPELINE_NOT_FOUND", "STAGE_NOT_FOUND",
    },
    "CrmConflictError": {"CONTACT_ALREADY_EXISTS", "CONTACT_ASSOCIATED_WITH_A_DEAL"},
    "CrmThrottledError": {"TOO_MANY_REQUESTS", "LIMIT_EXCEEDED"},
    "CrmTransientError": {
        "INTERNAL_SERVER_ERROR", "BAD_GATEWAY", "SERVICE_UNAVAILABLE", "GATEWAY_TIMEOUT", "CONNECTION", "TIMEOUT",
    },
    "CrmProtocolError": {"PROTOCOL"},
}  # fmt: skip

FULL: dict[str, Any] = {
    "type": "HTTP_418",
    "status": 418,
    "request_id": "req-1",
    "retry_after": 1.5,
    "method": "POST",
    "path": "/deals",
    "outcome_known": False,
    "attempts": 3,
    "elapsed": 4.25,
    "remark": "the end",
    "own_advice": "look there",
}
"""Every attribute except the message, none with its default."""


# -- the tree -----------------------------------------------------------------------------------------------


def test_tree_is_as_documented() -> None:
    drawn: dict[str, set[str]] = {}
    above: list[str] = []
    for line in (e.__doc__ or "").splitlines():
        if match := re.match(r"^    ([│ ├└─]*)(Crm\w+)", line):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            drawn.setdefault(match[2], set()).add(above[depth - 1] if depth else "Exception")
    bases = {name: {base.__name__ for base in error.__bases__} for name, error in ERROR_CLASSES.items()}
    assert drawn == {name: names - {"ValueError"} for name, names in bases.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_of_each_type(family: str) -> None:
    parent = ERROR_CLASSES[family]
    assert parent.__bases__ == (CrmError,)
    members = {error.type for error in ERROR_CLASSES.values() if issubclass(error, parent) and error.type != "UNKNOWN"}
    assert members == FAMILIES[family]


@pytest.mark.parametrize(("type_", "name"), TYPES.items(), ids=TYPES)
def test_class_is_named_after_its_type(type_: str, name: str) -> None:
    camel = "".join(part.capitalize() for part in type_.split("_"))
    assert name == f"Crm{camel.removesuffix('Error')}Error"
    assert ERROR_CLASSES[name].type == type_


def test_no_class_is_missing() -> None:
    assert set(ERROR_CLASSES) == {"CrmError", *FAMILIES, *TYPES.values()}
    assert set(e.__all__) == {*ERROR_CLASSES, "ERROR_CLASSES", "ErrorPolicy"}


@ALL
def test_class_docstring_says_what_it_means(error: type[CrmError]) -> None:
    assert error.__doc__
    assert error.__doc__ != CrmError.__bases__[0].__doc__
    assert error is CrmError or error.__doc__ not in {parent.__doc__ for parent in error.__mro__[1:]}


def test_invalid_value_is_a_value_error() -> None:
    assert issubclass(e.CrmInvalidValueError, ValueError)


# -- crossing processes -------------------------------------------------------------------------------------


def fields_of(error: CrmError) -> dict[str, Any]:
    return {name: getattr(error, name) for name in ("message", *FULL)}


def through_json(error: CrmError) -> CrmError:
    return CrmError.from_dict(json.loads(json.dumps(error.as_dict())))


def through_pickle(error: CrmError) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("through", [through_json, through_pickle])
def test_error_is_unchanged_by_pickling(through: Callable[[CrmError], Any]) -> None:
    after = through(e.CrmTimeoutError("too slow", **FULL))
    assert type(after) is e.CrmTimeoutError
    assert fields_of(after) == {"message": "too slow", **FULL}


TEXT = st.none() | st.text(max_size=20)
NUMBER = st.none() | st.floats(0, 1e6)


@given(
    error=st.sampled_from(list(ERROR_CLASSES.values())),
    fields=st.fixed_dictionaries(
        {
            "type": st.text("ABC_", min_size=1, max_size=9),
            "status": st.none() | st.integers(100, 599),
            "request_id": TEXT,
            "retry_after": NUMBER,
            "method": st.sampled_from([None, "GET", "POST"]),
            "path": TEXT,
            "outcome_known": st.booleans(),
            "attempts": st.integers(1, 9),
            "elapsed": NUMBER,
            "remark": TEXT,
            "own_advice": TEXT,
        }
    ),
    message=st.text(max_size=40),
)
def test_any_error_survives_pickling_and_reads_well(
    error: type[CrmError], fields: dict[str, Any], message: str
) -> None:
    before = error(message, **fields)
    for after in (through_pickle(before), through_json(before)):
        assert fields_of(after) == fields_of(before)
        assert str(after) == str(before)


# -- text ---------------------------------------------------------------------------------------------------


@ALL
def test_str_says_what_happened_to_what_and_what_to_do(error: type[CrmError]) -> None:
    text = str(error("it broke", method="PUT", path="/deals/d-1", status=418, request_id="req-1"))
    checked_here = error in (e.CrmConfigurationError, e.CrmInvalidValueError)  # their messages contain the advice
    what_to_do = error("it broke").suggested_action
    advice = "" if checked_here else f" What to do: {what_to_do[0].upper()}{what_to_do[1:].rstrip('.')}."
    assert text == f"{error.type} (418) on PUT /deals/d-1: it broke.{advice} Request id: req-1."


ADVICE = "What to do: Check that the deal exists."


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, f"DEAL_NOT_FOUND: Deal not found. {ADVICE}"),
        ({"status": 404}, f"DEAL_NOT_FOUND (404): Deal not found. {ADVICE}"),
        ({"method": "GET"}, f"DEAL_NOT_FOUND: Deal not found. {ADVICE}"),
        ({"outcome_known": False}, f"DEAL_NOT_FOUND: Deal not found. {ADVICE} The write may or may not have happened."),
        ({"attempts": 3, "elapsed": 4.25}, f"DEAL_NOT_FOUND: Deal not found. {ADVICE} Tried 3 times in 4.2 s."),
        ({"attempts": 2}, f"DEAL_NOT_FOUND: Deal not found. {ADVICE} Tried 2 times."),
        (
            {"remark": "it is over", "request_id": "r-1"},
            f"DEAL_NOT_FOUND: Deal not found. {ADVICE} It is over. Request id: r-1.",
        ),
        ({"own_advice": "look there"}, "DEAL_NOT_FOUND: Deal not found. What to do: Look there."),
    ],
    ids=["plain", "status", "method without path", "unsure", "tried", "tried, no time", "remark", "own advice"],
)
def test_str_of_an_error(fields: dict[str, Any], expected: str) -> None:
    assert str(e.CrmDealNotFoundError("Deal not found.", **fields)) == expected


def test_str_shows_a_status_once() -> None:
    assert str(e.CrmNotFoundError("Gone.", type="HTTP_404", status=404)).startswith("HTTP_404: Gone. What to do: ")


@pytest.mark.parametrize(
    ("message", "shown"),
    [("no connection", "no connection."), ("Really?", "Really?"), ("contact_id is None", "contact_id is None."),
     (" it is over! ", "it is over!")],
)  # fmt: skip
def test_message_becomes_a_sentence(message: str, shown: str) -> None:
    assert f": {shown} What" in str(e.CrmConnectionError(message))


@pytest.mark.parametrize("family", ["CrmError", *FAMILIES])
def test_unknown_type_of_a_family_has_advice(family: str) -> None:
    advice = ERROR_CLASSES[family]("x", type="HTTP_499", status=499).suggested_action
    assert len(advice) > 5
    assert not advice.endswith(".")
