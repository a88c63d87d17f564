"""The catalogue matches the API reference, completely and without contradiction."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from crm_provider import errors as e
from crm_provider.client.retry import repeat_for
from crm_provider.errors import ERROR_CLASSES
from crm_provider.errors.catalog import (
    ALIASES,
    CATALOGUE,
    FAMILY_ADVICE,
    GATEWAY_RESPONSES,
    ErrorSource,
    Repeat,
)

from .reference import FOUND_HERE, GATEWAY, GATEWAY_TYPES, REPEATED, TYPES, VENDOR, ReceivedForm, Row

VENDOR_ADVICE = {
    # type -> words that the vendor's advice must contain
    "MISSING_BODY": ["body must not be empty"],
    "FORBIDDEN": ["check the API key", "generate one"],
    "CONTACT_NOT_FOUND": ["check that the contact exists"],
    "SEGMENTATION_LIST_NOT_FOUND": ["check that the", "list exists"],
    "DEAL_NOT_FOUND": ["check that the deal exists"],
    "PIPELINE_NOT_FOUND": ["check that the pipeline exists"],
    "STAGE_NOT_FOUND": ["check that the stage exists"],
    "CONTACT_ALREADY_EXISTS": ["check before creating"],
    "CONTACT_ASSOCIATED_WITH_A_DEAL": ["check", "before creating or updating"],
    "INVALID_INPUT": ["valid body", "all required fields"],
    "INVALID_PARAMS": ["the id or email must be in the request"],
    "TOO_MANY_REQUESTS": ["slow down"],
    "INTERNAL_SERVER_ERROR": ["try again later", "support"],
}


def test_every_type_has_one_record() -> None:
    assert {type_: spec.error.__name__ for type_, spec in CATALOGUE.items()} == TYPES


@pytest.mark.parametrize("row", [*VENDOR, *GATEWAY_TYPES], ids=lambda row: row.type)
def test_record_is_as_documented(row: Row) -> None:
    spec = CATALOGUE[row.type]
    assert (spec.type, spec.status, spec.messages[0]) == (row.type, row.status, row.message)
    assert spec.source is (ErrorSource.VENDOR if row in VENDOR else ErrorSource.GATEWAY)


@pytest.mark.parametrize("type_", FOUND_HERE)
def test_client_side_errors_have_no_status(type_: str) -> None:
    assert CATALOGUE[type_].status is None
    assert CATALOGUE[type_].source in (ErrorSource.TRANSPORT, ErrorSource.PROVIDER)


@pytest.mark.parametrize("type_", VENDOR_ADVICE)
def test_vendors_advice_is_complete(type_: str) -> None:
    assert [words for words in VENDOR_ADVICE[type_] if words not in CATALOGUE[type_].advice] == []


@pytest.mark.parametrize("type_", TYPES)
def test_advice_fits_into_a_sentence(type_: str) -> None:
    advice = CATALOGUE[type_].advice
    assert advice[0].islower()
    assert not advice.endswith(".")


@pytest.mark.parametrize("type_", TYPES)
def test_repeat_rule_of_each_type(type_: str) -> None:
    expected = {
        frozenset(): Repeat.NEVER,
        frozenset({"GET", "PUT", "DELETE"}): Repeat.VERIFY_FIRST,
        frozenset({"GET", "PUT", "DELETE", "POST"}): Repeat.ANY_CALL,
    }[frozenset(REPEATED.get(type_, ()))]
    assert repeat_for(CATALOGUE[type_].error("x")) is CATALOGUE[type_].repeat is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (e.CrmTransientError, Repeat.VERIFY_FIRST),
        (e.CrmThrottledError, Repeat.ANY_CALL),
        *((error, Repeat.NEVER) for error in (
            e.CrmError, e.CrmAccessError, e.CrmRequestError, e.CrmDataError, e.CrmNotFoundError, e.CrmConflictError,
            e.CrmProtocolError,
        )),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)  # fmt: skip
def test_repeat_rule_of_an_unknown_type(error: type[e.CrmError], expected: Repeat) -> None:
    assert repeat_for(error("x", type="HTTP_499", status=499)) is expected


def test_text_means_one_type_within_its_status() -> None:
    texts = [
        (spec.status, text.lower().rstrip("."))
        for spec in CATALOGUE.values()
        for text in spec.messages
        if spec.status is not None
    ]
    assert len(texts) == len(set(texts))


def test_aliases() -> None:
    names = ("DEAL_ID_IS_NECESSARY", "CONTACT_EMAIL_IS_NECESSARY", "EMAIL_IS_NECESSARY")
    assert dict(ALIASES) == dict.fromkeys(names, "INVALID_PARAMS")
    assert not set(ALIASES) & set(CATALOGUE)


@pytest.mark.parametrize("received", GATEWAY, ids=lambda received: received.case)
def test_gateway_response_is_as_documented(received: ReceivedForm) -> None:
    response = next(response for response in GATEWAY_RESPONSES if response.case == received.case)
    assert (response.status, dict(response.body), response.error_type, response.type) == (
        received.status, received.body, received.header, received.type,
    )  # fmt: skip


def test_no_undocumented_gateway_response() -> None:
    assert {response.case for response in GATEWAY_RESPONSES} == {received.case for received in GATEWAY}


def test_every_family_has_advice() -> None:
    families = {error for error in ERROR_CLASSES.values() if error.__bases__ == (e.CrmError,)}
    assert set(FAMILY_ADVICE) == families - {e.CrmProtocolError}


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        *FAMILY_ADVICE.items(),
        (e.CrmDealNotFoundError, FAMILY_ADVICE[e.CrmNotFoundError]),
        (e.CrmInvalidRequestError, FAMILY_ADVICE[e.CrmRequestError]),
        (e.CrmProtocolError, CATALOGUE["PROTOCOL"].advice),
        (e.CrmError, CATALOGUE["PROTOCOL"].advice),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_advice_for_an_unknown_type_is_that_of_its_family(error: type[e.CrmError], advice: str) -> None:
    assert error("x", type="HTTP_499", status=499).suggested_action == advice


@pytest.mark.parametrize("table", [CATALOGUE, ALIASES, FAMILY_ADVICE], ids=["catalogue", "aliases", "advice"])
def test_tables_are_immutable(table: Any) -> None:
    with pytest.raises(TypeError):
        table["X"] = "y"
    with pytest.raises(dataclasses.FrozenInstanceError):
        CATALOGUE["FORBIDDEN"].status = 200  # type: ignore[misc]
